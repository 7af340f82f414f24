"""The index of a web set: where every picture lies, with its texts as columns, for any format.

As with robot episodes (rlds_index) the data stay as they are, one walk over them checks everything
that can be checked, and the index opens memory-mapped. Units (shards, stretches of a JSONL file) are
walked side by side, each into a part of its own (see index_jobs).

    index.json                                  what was indexed, with a fingerprint of it
    picture_{file,offset,length,checksum}.npy   one entry a record
    language.npy, score.npy, holds.npy          likewise
    {caption,question,answer,ocr,label}*.npy    texts, see columns; those that the set holds
    path*.npy                                   pictures' own files, where they have them
    box.npy                                     float32 [labels, 4]: top, left, bottom, right
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import hashlib
import json
import os
from typing import Any

from absl import logging
from etils import epath

from rt2_jax.data import files as files_lib
from rt2_jax.data.errors import DataSetError
from rt2_jax.data.index import index_arrays, index_jobs, index_places, web_columns
from rt2_jax.data.readers import tfrecord
from rt2_jax.data.readers.web_records import Format, Unit
from rt2_jax.data.web.web_cards import TEXTS, find
from rt2_jax.nearest import check, nearest

FORMAT = 2

# Below this many bytes, starting processes costs more than it saves.
PARALLEL_BYTES = 32 << 20

# So many unreadable records are named in index.json; all are counted.
NAMED = 1000


@dataclasses.dataclass(frozen=True)
class _Job:
    """A unit to index, of the file at `path`, into the part `result`."""

    dataset: Format
    path: str
    unit: Unit
    result: str
    on_corrupt: str


def place(
    dataset: Format, location: epath.PathLike | None = None, indexes: epath.PathLike | None = None
) -> epath.Path:
    """The folder of a set's index, by default one for each way to read a set; see index_places."""
    own = hashlib.sha256(dataset.fingerprint.encode()).hexdigest()[:8]
    return index_places.place(location, dataset.directory, f'{dataset.kind}-{own}', indexes)


def build(
    dataset: Format,
    *,
    location: epath.PathLike | None = None,
    on_corrupt: str = 'raise',
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    together: bool = False,
    again: bool = True,
) -> epath.Path:
    """Indexes a web set; returns the index's folder. Whole or not at all, and resumable.

    Args:
      dataset: the set.
      location: the index's folder, see `place`.
      on_corrupt: 'raise' stops at the first unreadable record; 'skip' leaves such records out, and
        logs and counts each.
      processes: how many to use; by default one a core where the data are large.
      progress: called with (units done, units in all).
      together: whether all processes of the job call this: they share the units.
      again: whether an index that is there is made again.

    Raises:
      tfrecord.CorruptRecord: an unreadable record, by file and byte, with on_corrupt='raise'.
      DataSetError: a set that isn't whole, or lacks what its card names.
      OSError: no room on the disk; what is done is kept.
    """
    check('on_corrupt', on_corrupt, index_jobs.ON_CORRUPT)
    location = place(dataset, location)
    dataset = dataset.prepare()
    # As of before the reading: what changes meanwhile is then found when the index is opened.
    now = index_jobs.checked(lambda: stamps(dataset), dataset.directory, together)
    units = dataset.units([stamp['size'] for stamp in now])
    scratch = index_places.scratch(location)
    jobs = [_job(dataset, unit, now[unit.file], scratch, on_corrupt) for unit in units]
    return index_jobs.build(
        _index_unit,
        jobs,
        lambda: _join(dataset, now, jobs, location),
        directory=dataset.directory,
        location=location,
        processes=processes,
        worth_it=sum(stamp['size'] for stamp in now) >= PARALLEL_BYTES,
        progress=progress,
        together=together,
        again=again,
    )


def stamps(dataset: Format) -> list[dict[str, Any]]:
    """Name, size and time or version of each file, as of now."""
    names = dataset.files()
    found = files_lib.stamps(files_lib.path(dataset.directory) / name for name in names)
    return [{'name': name, **stamp} for name, stamp in zip(names, found, strict=True)]


def recheck(dataset: Format, now: Sequence[dict[str, Any]]) -> str:
    """A set's fingerprint of now, without its pictures."""
    prints = []
    for unit in dataset.units([stamp['size'] for stamp in now]):
        digest = hashlib.sha256()
        dataset.framing(_path(dataset, now[unit.file]), unit, digest)
        prints.append(digest.hexdigest())
    return index_jobs.combined(prints)


def _path(dataset: Format, stamp: dict[str, Any]) -> str:
    return os.fspath(files_lib.path(dataset.directory) / stamp['name'])


def _job(dataset: Format, unit: Unit, stamp: dict[str, Any], scratch, on_corrupt: str) -> _Job:
    # Named by all that decides what the part holds, so that no stale one is taken up.
    depends = [FORMAT, dataset.fingerprint, unit.start, unit.stop, on_corrupt, stamp]
    key = hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:24]
    result = os.fspath(scratch / f'{key}.npz')
    return _Job(dataset, _path(dataset, stamp), unit, result, on_corrupt)


def _index_unit(job: _Job) -> None:
    part, digest, skipped, count = web_columns.Part(), hashlib.sha256(), [], 0
    for record in job.dataset.records(job.path, job.unit, digest):
        if not isinstance(record, tfrecord.CorruptRecord):
            part.add(record)
            continue
        if job.on_corrupt == 'raise':
            raise record
        logging.warning('left out an unreadable record: %s', record)
        count += 1
        if count <= NAMED:
            skipped.append([record.offset, record.reason])
    about = {'framing': digest.hexdigest(), 'skipped': skipped, 'skipped_count': count}
    part.write(job.result, about)


def _join(dataset: Format, now: Sequence[dict], jobs: Sequence[_Job], location) -> None:
    paths = [job.result for job in jobs]
    parts = [index_arrays.about_part(path) for path in paths]
    names = [now[job.unit.file]['name'] for job in jobs]
    about = _about(dataset, now, names, parts)
    with index_places.written(location) as folder:
        about['arrays'] = web_columns.join(
            paths, [job.unit.file for job in jobs], parts, about['languages'], folder
        )
        # Of the pictures their lengths and checksums are known, and of those the columns' checksums.
        pictures = [about['arrays'][f'picture_{name}']['crc32c'] for name in ('length', 'checksum')]
        digest = hashlib.sha256(f'{about["framing"]} {pictures} {dataset.fingerprint}'.encode())
        about['fingerprint'] = digest.hexdigest()[:32]
        text = json.dumps(about, indent=1, sort_keys=True)
        (folder / index_places.ABOUT).write_text(text)


def _about(
    dataset: Format, now: Sequence[dict], names: Sequence[str], parts: Sequence[dict]
) -> dict[str, Any]:
    skipped = [[name, *place] for name, part in zip(names, parts) for place in part['skipped']]
    count = sum(part['skipped_count'] for part in parts)
    records = sum(part['records'] for part in parts)
    if count:
        logging.warning('%s: left out %d unreadable records', dataset.directory, count)
    if not records:
        first = f': {skipped[0][0]}, byte {skipped[0][1]}: {skipped[0][2]}' if skipped else ''
        raise DataSetError(f'{dataset.directory} has no readable records{first}')
    _check_fields(dataset, {field for part in parts for field in part['texts']})
    return {
        'format': FORMAT,
        'kind': dataset.kind,
        'dataset': dataset.fingerprint,
        'card': dataset.card.name,
        'files': now,
        'framing': index_jobs.combined([part['framing'] for part in parts]),
        'records': records,
        'languages': sorted({language for part in parts for language in part['languages']}),
        'skipped': skipped[:NAMED],
        'skipped_count': count,
    }


def _check_fields(dataset: Format, present: set[str]) -> None:
    """A field that the card names but nothing has is a mistyped one, unless the format's default."""
    own = dataset.card
    usual = find(own.name) if own.name in ('webdataset', 'jsonl') else None
    for field in TEXTS:
        path = getattr(own, field)
        given = path and (usual is None or path != getattr(usual, field))
        if given and field not in present:
            raise DataSetError(
                f'{dataset.directory}: no record has text under {path!r}, which its card names as '
                f'its {field}' + nearest(path, dataset.keys())
            )
    if not present & set(TEXTS):
        raise DataSetError(
            f'{dataset.directory}: no record has any text under {own.paths}; name the paths in '
            f'config.data.web.NAME.fields; the set has {", ".join(dataset.keys())}'
        )
