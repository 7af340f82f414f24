"""The index of a web set: where every picture lies, with its texts as columns, for any format.

As with robot episodes (rlds_index) the data stay as they are, one walk over them checks everything
that can be checked, and the index opens memory-mapped. Units (shards, stretches of a JSONL file) are
walked side by side, each into a part of its own under LOCATION.parts; a walk that was broken off
goes on with the parts that it lacks, and whole is what was moved to LOCATION.

    index.json                                  what was indexed, with a fingerprint of it
    picture_{file,offset,length,checksum}.npy   one entry a record
    language.npy, score.npy, holds.npy          likewise
    {caption,question,answer,ocr,label}*.npy    texts, see columns; those that the set holds
    path*.npy                                   pictures' own files, where they have them
    box.npy                                     float32 [labels, 4]: top, left, bottom, right
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import errno
import hashlib
import json
import multiprocessing
import os
import shutil
from typing import Any

from absl import logging
from etils import epath
import numpy as np

from rt2_jax.data import tfrecord
from rt2_jax.data.robot import rlds_index
from rt2_jax.data.web import columns as web_columns, records as web_records
from rt2_jax.data.web.cards import TEXTS, find
from rt2_jax.data.web.records import Format, Unit
from rt2_jax.nearest import check, nearest

FORMAT = 1

# Below this many bytes, starting processes costs more than it saves.
PARALLEL_BYTES = 32 << 20

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# So many unreadable records are named in index.json; all are counted.
NAMED = 1000


def default_location(dataset: Format) -> epath.Path:
    """Where the index of a set lies unless told otherwise: one for each way to read it."""
    own = hashlib.sha256(dataset.fingerprint.encode()).hexdigest()[:8]
    return epath.Path(dataset.directory) / 'rt2_index' / f'{dataset.kind}-{own}'


def build(
    dataset: Format,
    *,
    location: epath.PathLike | None = None,
    on_corrupt: str = 'raise',
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> epath.Path:
    """Indexes a web set; returns the index's folder. Whole or not at all, and resumable.

    Args:
      dataset: the set.
      location: the index's folder; inside the set by default.
      on_corrupt: 'raise' stops at the first unreadable record; 'skip' leaves such records out, and
        logs and counts each.
      processes: how many to use; by default one a core where the data are large.
      progress: called with (units done, units in all).

    Raises:
      tfrecord.CorruptRecord: an unreadable record, by file and byte, with on_corrupt='raise'.
      rlds_index.DataSetError: a set that isn't whole, or lacks what its card names.
      OSError: no room on the disk.
    """
    check('on_corrupt', on_corrupt, rlds_index.ON_CORRUPT)
    location = epath.Path(location) if location else default_location(dataset)
    dataset = dataset.prepare()
    units = dataset.units()
    scratch = location.with_name(f'{location.name}.parts')
    folders = [_part_folder(scratch, dataset, unit, on_corrupt) for unit in units]
    todo = [
        (dataset, unit, os.fspath(folder), on_corrupt)
        for unit, folder in zip(units, folders, strict=True)
        if not (folder / 'part.json').exists()
    ]
    if len(todo) < len(units):
        logging.info('%s: goes on, %d of %d units are left', location, len(todo), len(units))
    done = len(units) - len(todo)
    try:
        for _ in _run(todo, processes):
            done += 1
            if progress:
                progress(done, len(units))
        _join(dataset, units, folders, location)
    except FileNotFoundError:
        # Another process indexing the same set came first and took the parts; its index is as good.
        if not (location / 'index.json').exists():
            raise
    except rlds_index.DataSetError:
        shutil.rmtree(scratch)  # to another card the parts are of no use
        raise
    except OSError as error:
        raise _no_room(error, dataset, location, f'{done} of {len(units)} units') from error
    shutil.rmtree(scratch, ignore_errors=True)
    return location


def _no_room(error: OSError, dataset: Format, location: epath.Path, done: str) -> OSError:
    """The error with what to do about it, if the disk is full; else itself."""
    # Where it writes less than it was asked to, numpy says so in words alone.
    if error.errno not in _NO_ROOM and 'requested and' not in str(error):
        return error
    return OSError(
        error.errno or errno.ENOSPC,
        f'there is no room for the index of {dataset.directory}; make some, or give another '
        f'`location`. {done} are done and are not done again',
        str(location),
    )


def recheck(dataset: Format, units: Sequence[Unit]) -> str:
    """A set's fingerprint of now, without its pictures."""
    prints = []
    for unit in units:
        digest = hashlib.sha256()
        dataset.framing(unit, digest)
        prints.append(digest.hexdigest())
    return rlds_index.combined(prints)


def _part_folder(scratch: epath.Path, dataset: Format, unit: Unit, on_corrupt: str) -> epath.Path:
    """Named by all that decides what the part holds, so that no stale one is taken up."""
    what = [FORMAT, dataset.fingerprint, unit.path, unit.start, unit.stop, on_corrupt]
    what.append(web_records.stamp(unit.path))
    return scratch / hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]


def _run(jobs: Sequence[tuple], processes: int | None) -> Iterator[None]:
    if processes is None:
        size = sum(unit.stop - unit.start for _, unit, _, _ in jobs)
        processes = min(len(jobs), os.cpu_count() or 1) if size >= PARALLEL_BYTES else 1
    if processes <= 1 or not jobs:
        yield from (_index_unit(*job) for job in jobs)
        return
    # Forking a process that runs JAX's threads may hang it.
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
        running = [pool.submit(_index_unit, *job) for job in jobs]
        try:
            for future in concurrent.futures.as_completed(running):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _index_unit(dataset: Format, unit: Unit, folder: str, on_corrupt: str) -> None:
    part, digest, skipped, count = web_columns.Part(), hashlib.sha256(), [], 0
    for record in dataset.records(unit, digest):
        if not isinstance(record, tfrecord.CorruptRecord):
            part.add(record)
            continue
        if on_corrupt == 'raise':
            raise record
        logging.warning('left out an unreadable record: %s', record)
        count += 1
        if count <= NAMED:
            skipped.append([unit.path, record.offset, record.reason])
    about = {'framing': digest.hexdigest(), 'skipped': skipped, 'skipped_count': count}
    part.write(epath.Path(folder), about)


def _join(dataset: Format, units, folders: Sequence[epath.Path], location: epath.Path) -> None:
    parts = [
        (folder, unit.file, json.loads((folder / 'part.json').read_text()))
        for unit, folder in zip(units, folders, strict=True)
    ]
    _write(location, _about(dataset, units, parts), parts)


def _about(dataset: Format, units: Sequence[Unit], parts) -> dict[str, Any]:
    skipped = [place for _, _, part in parts for place in part['skipped']]
    count = sum(part['skipped_count'] for _, _, part in parts)
    records = sum(part['records'] for _, _, part in parts)
    if count:
        logging.warning('%s: left out %d unreadable records', dataset.directory, count)
    if not records:
        raise rlds_index.DataSetError(f'{dataset.directory} has no readable records')
    _check_fields(dataset, parts)
    framing = rlds_index.combined([part['framing'] for _, _, part in parts])
    digest = hashlib.sha256(f'{framing} {dataset.fingerprint}'.encode())
    for folder, _, _ in parts:
        digest.update(np.load(folder / 'picture_checksum.npy', mmap_mode='r'))
    languages = sorted({language for _, _, part in parts for language in part['languages']})
    return {
        'format': FORMAT,
        'kind': dataset.kind,
        'dataset': dataset.fingerprint,
        'card': dataset.card.name,
        'files': stamps(dataset, units),
        'framing': framing,
        'fingerprint': digest.hexdigest()[:32],
        'records': records,
        'languages': languages,
        'skipped': skipped[:NAMED],
        'skipped_count': count,
    }


def stamps(dataset: Format, units: Sequence[Unit]) -> list[dict[str, Any]]:
    """Name, size and time of each file; names are relative to the set, so that it may be moved."""
    return [
        {'name': os.path.relpath(path, dataset.directory), **web_records.stamp(path)}
        for path in dict.fromkeys(unit.path for unit in units)
    ]


def _check_fields(dataset: Format, parts) -> None:
    """A field that the card names but nothing has is a mistyped one, unless the format's default."""
    present = {
        field
        for field in TEXTS
        if any((folder / f'{field}.npy').exists() for folder, _, _ in parts)
    }
    own = dataset.card
    usual = find(own.name) if own.name in ('webdataset', 'jsonl') else None
    for field in TEXTS:
        path = getattr(own, field)
        given = path and (usual is None or path != getattr(usual, field))
        if given and field not in present:
            raise rlds_index.DataSetError(
                f'{dataset.directory}: no record has text under {path!r}, which its card names as '
                f'its {field}' + nearest(path, dataset.keys())
            )
    if not present:
        raise rlds_index.DataSetError(
            f'{dataset.directory}: no record has any text under {own.paths}; name the paths in '
            f'config.data.web.NAME.fields; the set has {", ".join(dataset.keys())}'
        )


def _write(location: epath.Path, about: dict[str, Any], parts) -> None:
    temporary = location.with_name(f'{location.name}.incomplete-{os.getpid()}')
    temporary.mkdir(parents=True, exist_ok=True)
    try:
        web_columns.join(parts, about['languages'], temporary)
        (temporary / 'index.json').write_text(json.dumps(about, indent=1, sort_keys=True))
        _move_into_place(temporary, location)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)


def _move_into_place(temporary: epath.Path, location: epath.Path) -> None:
    stale = location.with_name(f'{location.name}.stale-{os.getpid()}')
    if location.exists():
        os.rename(location, stale)
    try:
        os.rename(temporary, location)
    except OSError:
        # Another process indexing the same set at the same time came first; its index is as good.
        if not (location / 'index.json').exists():
            raise
    if stale.exists():
        shutil.rmtree(stale)
