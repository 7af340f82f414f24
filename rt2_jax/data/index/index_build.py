"""Builds the index of a data set: of robot episodes or of web pairs, in whatever format.

The data stay as they are. One walk over them checks all that can be checked and writes a folder of
.npy files, which later open memory-mapped: start-up doesn't depend on the size of the set, and the
processes of a machine share the pages. Files, or stretches of large ones, are walked side by side, by
several processes of one machine or of all that train, each into a part of its own in
`<index>.building`; a build that was stopped goes on from there.

    index.json    the data that were indexed and how they were read, with a fingerprint
    *.npy         columns, see episode_columns and web_columns

A reader (rt2_jax.data.readers) knows the format; see indexable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import hashlib
import json
import os
from typing import Any

from absl import logging
from etils import epath

from rt2_jax.data import files
from rt2_jax.data.data_errors import ON_CORRUPT, CorruptRecord, DataSetError
from rt2_jax.data.index import index_arrays, index_jobs, index_places
from rt2_jax.data.index.indexable import Indexable, Part, Unit
from rt2_jax.nearest import check

# So many unreadable records are named in index.json; all are counted.
NAMED = 1000


def place(
    dataset: Indexable,
    location: epath.PathLike | None = None,
    indexes: epath.PathLike | None = None,
) -> epath.Path:
    """The folder of a set's index, by default one for each way to read a set; see index_places."""
    return index_places.place(location, dataset.directory, dataset.index_name, indexes)


def build(
    dataset: Indexable,
    *,
    location: epath.PathLike | None = None,
    on_corrupt: str = 'raise',
    processes: int | None = None,
    progress: index_jobs.Progress | None = None,
    together: bool = False,
    again: bool = True,
) -> epath.Path:
    """Indexes a data set, whole or not at all, and resumable.

    Args:
        dataset: the set.
        location: the index's folder, see `place`.
        on_corrupt: 'raise' stops at the first unreadable record; 'skip' leaves such records out, and
            logs and counts each.
        processes: how many to use; by default one a core where the data are large.
        progress: called with (units done, units in all).
        together: whether all processes of the job call this: they share the units.
        again: whether an index that is there is made again.

    Returns:
        The index's folder.

    Raises:
        CorruptRecord: an unreadable record, by file and place, with on_corrupt='raise'.
        DataSetError: a set that isn't whole, or lacks what its card names.
        OSError: no room on the disk; finished parts are kept.
    """
    check('on_corrupt', on_corrupt, ON_CORRUPT)
    location = place(dataset, location)
    dataset = dataset.prepare()
    # As of before the reading: a change meanwhile is then noticed when the index is opened.
    now = index_jobs.ask_once(lambda: stamps(dataset), dataset.directory, together)
    sizes = [stamp['size'] for stamp in now]
    units, scratch = dataset.units(sizes), index_places.scratch(location)
    jobs = [_job(dataset, unit, now, scratch, on_corrupt) for unit in units]
    if processes is None:
        is_large = sum(sizes) >= dataset.parallel_bytes
        processes = min(len(jobs), os.cpu_count() or 1) if is_large else 1
    return index_jobs.build(
        jobs,
        lambda: _join(dataset, now, units, [job.result for job in jobs], location),
        directory=dataset.directory,
        location=location,
        processes=processes,
        progress=progress,
        together=together,
        again=again,
    )


def stamps(dataset: Indexable) -> list[dict[str, Any]]:
    """Name, size and time or version of each file, as of now."""
    names, folder = dataset.files(), files.path(dataset.directory)
    now = files.stamps(folder / name for name in names)
    return [{'name': name, **stamp} for name, stamp in zip(names, now, strict=True)]


def framing(dataset: Indexable, now: Sequence[dict[str, Any]]) -> str:
    """A digest of what the files of a set hold now, without pixels."""
    digests = []
    for unit in dataset.units([stamp['size'] for stamp in now]):
        digest = hashlib.sha256()
        dataset.framing(_path(dataset, now[unit.file]), unit, digest)
        digests.append(digest.hexdigest())
    return _combined(digests)


def _combined(digests: Sequence[str]) -> str:
    return hashlib.sha256(''.join(digests).encode()).hexdigest()[:32]


def _path(dataset: Indexable, stamp: Mapping[str, Any]) -> str:
    return os.fspath(files.path(dataset.directory) / stamp['name'])


def _job(
    dataset: Indexable,
    unit: Unit,
    now: Sequence[Mapping[str, Any]],
    scratch: epath.Path,
    on_corrupt: str,
) -> index_jobs.Job:
    # Named by all that decides what the part holds, so that no stale one is taken up.
    stamps = [now[number] for number in dataset.files_of(unit)]
    reading = [dataset.identity, dataset.fingerprint, on_corrupt]
    depends = [*reading, dataclasses.astuple(unit), *stamps]
    key = hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:24]
    result, path = os.fspath(scratch / f'{key}.npz'), _path(dataset, now[unit.file])
    return index_jobs.Job(
        result, functools.partial(index_unit, dataset, path, unit, result, on_corrupt)
    )


def index_unit(dataset: Indexable, path: str, unit: Unit, result: str, on_corrupt: str) -> None:
    """Indexes a unit of the file at `path` into the part `result`; raises as `build`."""
    columns, digest, skipped, count = dataset.columns(), hashlib.sha256(), [], 0
    for record in dataset.records(path, unit, digest):
        if not isinstance(record, CorruptRecord):
            columns.add(record)
            continue
        if on_corrupt == 'raise':
            raise record
        logging.warning('left out an unreadable record: %s', record)
        count += 1
        if count <= NAMED:
            skipped.append(record.as_json(files.path(dataset.directory)))
    arrays, about = columns.finish()
    about |= {'framing': digest.hexdigest(), 'skipped': skipped, 'skipped_count': count}
    index_arrays.write_part(result, arrays, about)


def _join(
    dataset: Indexable,
    now: Sequence[dict[str, Any]],
    units: Sequence[Unit],
    results: Sequence[str],
    location: epath.Path,
) -> None:
    """Joins the results of all units into the index."""
    parts = [
        Part(result, unit.file, index_arrays.about_part(result))
        for unit, result in zip(units, results, strict=True)
    ]
    skipped = [kept for part in parts for kept in part.about['skipped']]
    count = sum(part.about['skipped_count'] for part in parts)
    if count:
        logging.warning('%s: left out %d unreadable records', dataset.directory, count)
    if not sum(part.about['rows'] for part in parts):
        reason = f'{dataset.directory} has no readable {dataset.rows}'
        if count:
            first = CorruptRecord.from_json(skipped[0])
            reason += f': {count} records are unreadable, the first: {first}'
        raise DataSetError(reason)
    with index_places.writing(location) as folder:
        about = {
            **dataset.identity,
            'files': now,
            'skipped': skipped[:NAMED],
            'skipped_count': count,
            **dataset.join(parts, folder, _combined([part.about['framing'] for part in parts])),
        }
        (folder / index_places.ABOUT).write_text(json.dumps(about, indent=1))
