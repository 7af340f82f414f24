"""The byte index: where every picture of an RLDS data set lies, with actions and text as columns.

The data's TFRecords stay as they are. One walk over them, checking every checksum, writes a folder
of .npy files, which later open memory-mapped: start-up doesn't depend on the number of steps, and
processes on one machine share the pages.

    index.json                          what was indexed: fingerprint, counts, action statistics
    episode_{file,offset,length}.npy    the record of each episode
    episode_first.npy                   first step of each episode, and the number of steps
    episode_success.npy                 1, 0, or -1 where the data don't say
    episode_unlabelled.npy              how many of its steps have no instruction
    image_{offset,length,checksum}.npy  [steps, cameras], offsets from the start of the file
    action.npy                          float32 [steps, L], terminate flag first where there is one
    instruction.npy                     each step's instruction, as a row of the texts
    column_*.npy                        further features that the card keeps
    text.npy, text_end.npy              the distinct texts as one run of UTF-8, and where each ends

Shards are indexed by several processes, each into a file of its own in `<index>.building`; a build
that was stopped goes on from there.
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

from rt2_jax.data import embodiment, files, tfrecord
from rt2_jax.data.robot import action_statistics, rlds_join, rlds_schema, rlds_shard
from rt2_jax.data.robot.rlds_schema import DataSetError
from rt2_jax.nearest import beside, check, nearest

FORMAT = 2
ON_CORRUPT = ('raise', 'skip')

# Below this many bytes of data, starting processes costs more than it saves.
PARALLEL_BYTES = 256 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class IndexMismatch(ValueError):
    """An index that doesn't belong to the data, the card or this version of the code."""


def split_files(directory: epath.PathLike, split: str = 'train') -> list[files.Path]:
    """The shards of a split, as dataset_info.json declares them.

    Raises:
      DataSetError: if the directory is missing, half-written, or lacks the split or a shard.
    """
    return [file for file, _ in _declared(directory, split)]


def dataset_name(directory: epath.PathLike) -> str:
    """What dataset_info.json calls the data set; raises as `split_files`."""
    return _info(files.path(directory))['name']


def _declared(directory: epath.PathLike, split: str) -> list[tuple[files.Path, int]]:
    """The shards of a split with the number of records that each shall hold."""
    directory = files.path(directory)
    info = _info(directory)
    entries = {entry['name']: entry for entry in info.get('splits', ())}
    if split not in entries:
        raise DataSetError(f'{directory} has no split {split!r}' + nearest(split, entries))
    kind = info.get('fileFormat', 'tfrecord')
    if kind != 'tfrecord':
        raise DataSetError(
            f'{directory} holds {kind} files; tfrecord is what can be read. tfds.convert_format '
            'makes one from the other.'
        )
    lengths = [int(length) for length in entries[split].get('shardLengths', ())]
    if not lengths:
        raise DataSetError(f'{directory}: dataset_info.json declares no shards of split {split!r}')
    stem = f'{info["name"]}-{split}.{kind}'
    shards = [directory / f'{stem}-{i:05d}-of-{len(lengths):05d}' for i in range(len(lengths))]
    if missing := files.missing(shards):
        raise DataSetError(
            f'{directory} lacks {len(missing)} of {len(shards)} shards of split {split!r}, first '
            f'{missing[0].name}. Restore them from where the data came from.'
        )
    return list(zip(shards, lengths, strict=True))


def _info(directory: files.Path) -> dict[str, Any]:
    path = directory / 'dataset_info.json'
    if isinstance(directory, epath.Path) and not directory.exists():
        raise DataSetError(
            f'no data set at {directory}: there is no such directory{beside(directory)}'
        )
    if not path.exists():
        raise DataSetError(
            f'{directory} is no TFDS data set, or a half-written one: it has no dataset_info.json, '
            'which is written last. If a collection was interrupted, run the same command again; '
            'it goes on where it was.'
        )
    try:
        info = json.loads(path.read_text())
        if not (isinstance(info['name'], str) and isinstance(info.get('splits', []), list)):
            raise KeyError('name, splits')
        for entry in info.get('splits', ()):
            [entry['name'], *map(int, entry.get('shardLengths', ()))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataSetError(f'{path} is damaged: {type(error).__name__}: {error}') from error
    return info


def default_location(directory: epath.PathLike, split: str = 'train') -> epath.Path:
    """Where the index of a data set lies unless told otherwise."""
    directory = files.path(directory)
    if not isinstance(directory, epath.Path):
        directory = files.default_cache() / str(directory).replace('://', '/').rstrip('/')
    return directory / 'rt2_index' / split


def build(
    directory: epath.PathLike,
    card: embodiment.Embodiment,
    *,
    split: str = 'train',
    location: epath.PathLike | None = None,
    on_corrupt: str = 'raise',
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> epath.Path:
    """Indexes a data set; returns the index's folder. Whole or not at all, and resumable.

    Args:
      directory: the data set, with features.json, dataset_info.json and TFRecord shards.
      card: what its features mean.
      split: which split.
      location: the index's folder; inside the data set by default.
      on_corrupt: 'raise' stops at the first unreadable record; 'skip' leaves such records out, and
        logs and counts each.
      processes: how many to use; by default one a core where the data are large.
      progress: called with (shards done, shards in all).

    Raises:
      tfrecord.CorruptRecord: an unreadable record, by file and byte, with on_corrupt='raise'.
      DataSetError: not a whole data set, or one that doesn't fit the card.
      OSError: no room for the index; what is done is kept.
    """
    check('on_corrupt', on_corrupt, ON_CORRUPT)
    declared = _declared(directory, split)
    location = epath.Path(location) if location else default_location(directory, split)
    schema = rlds_schema.read(directory)
    rlds_schema.check_card(schema, card, directory)
    building = location.with_name(f'{location.name}.building')
    building.mkdir(parents=True, exist_ok=True)
    # As of before the reading: what changes meanwhile is then found when the index is opened.
    stamps = [
        {'name': file.name, **stamp}
        for (file, _), stamp in zip(
            declared, files.stamps(file for file, _ in declared), strict=True
        )
    ]
    jobs = [
        _job(file, stamp, records, building, card, schema, on_corrupt)
        for (file, records), stamp in zip(declared, stamps, strict=True)
    ]
    try:
        for done in _run(jobs, processes, sum(stamp['size'] for stamp in stamps)):
            if progress:
                progress(done, len(jobs))
        _write(location, jobs, stamps, directory, split)
    except OSError as error:
        # Another process indexing the same data at the same time came first; its index is as good.
        if isinstance(error, FileNotFoundError) and (location / 'index.json').exists():
            return location
        if error.errno not in _NO_ROOM:
            raise
        done = sum(os.path.exists(job.result) for job in jobs)
        raise OSError(
            error.errno,
            f'{os.strerror(error.errno)} while indexing {directory}: {done} of {len(jobs)} shards '
            f'are done and kept in {building}. Make room, or set `location` to a folder on another '
            'disk, and run the same command again',
        ) from error
    shutil.rmtree(building, ignore_errors=True)
    return location


def framing_fingerprint(path: epath.PathLike) -> str:
    """What a TFRecord file holds, from its records' lengths and stored checksums alone."""
    digest = hashlib.sha256()
    for record in tfrecord.scan(path, payloads=False):
        rlds_shard.update_fingerprint(digest, record)
    return digest.hexdigest()


def combined(fingerprints: Sequence[str]) -> str:
    """One fingerprint of a data set from those of its files, in order."""
    return hashlib.sha256(''.join(fingerprints).encode()).hexdigest()[:32]


def _job(file, stamp, records, building, card, schema, on_corrupt) -> rlds_shard.Job:
    used = {path: schema[rlds_schema.full_path(path)] for path in card.paths}
    depends = [FORMAT, card.fingerprint, repr(used), records, on_corrupt, stamp]
    key = hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:16]
    result = os.fspath(building / f'{file.name}.{key}.npz')
    return rlds_shard.Job(os.fspath(file), result, card, schema, records, on_corrupt)


def _run(jobs: Sequence[rlds_shard.Job], processes: int | None, size: int) -> Iterator[int]:
    """Runs what isn't done; yields the number of shards done as it grows."""
    todo = [job for job in jobs if not os.path.exists(job.result)]
    done = len(jobs) - len(todo)
    if done:
        logging.info('%d of %d shards were indexed before', done, len(jobs))
        yield done
    if processes is None:
        processes = min(len(todo), os.cpu_count() or 1) if size >= PARALLEL_BYTES else 1
    if processes <= 1:
        for job in todo:
            rlds_shard.run(job)
            done += 1
            yield done
        return
    # Forking a process that runs JAX's threads may hang it.
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = [pool.submit(rlds_shard.run, job) for job in todo]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
                done += 1
                yield done
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write(location: epath.Path, jobs, stamps, directory, split: str) -> None:
    """Joins the shards' results into the index."""
    card, schema = jobs[0].card, jobs[0].schema
    columns = {
        path: {
            'array': rlds_shard.column_name(number),
            'text': schema[f'steps/{path}'].dtype == 'text',
        }
        for number, path in enumerate(card.columns)
    }
    texts = ['instruction', *(c['array'] for c in columns.values() if c['text'])]
    temporary = location.with_name(f'{location.name}.incomplete-{os.getpid()}')
    temporary.mkdir(parents=True, exist_ok=True)
    try:
        shards, arrays = rlds_join.join([job.result for job in jobs], temporary, texts)
        about = {
            'format': FORMAT,
            'card': card.name,
            'card_fingerprint': card.fingerprint,
            'split': split,
            'files': stamps,
            'fingerprint': combined([shard['fingerprint'] for shard in shards]),
            'skipped': [place for shard in shards for place in shard['skipped']],
            'columns': columns,
            'arrays': arrays,
            **_counts(temporary, shards, card),
        }
        if about['skipped']:
            logging.warning('%s: left out %d unreadable records', directory, len(about['skipped']))
        if not about['steps']:
            raise DataSetError(f'{directory}, split {split!r}: no readable steps')
        (temporary / 'index.json').write_text(json.dumps(about, indent=1))
        _move_into_place(temporary, location)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)


def _counts(folder: epath.Path, shards: Sequence[dict], card) -> dict[str, Any]:
    """What index.json says of the numbers of things, and of the actions."""
    steps = sum(shard['steps'] for shard in shards)
    counts = {
        'episodes': sum(shard['episodes'] for shard in shards),
        'steps': steps,
        'empty_episodes': int((np.diff(np.load(folder / 'episode_first.npy')) == 0).sum()),
        'unlabelled_steps': int(np.load(folder / 'episode_unlabelled.npy').sum()),
    }
    for name in ('dropped_first', 'dropped_last'):
        counts[name] = sum(shard['counts'][name] for shard in shards)
    if steps:
        actions = np.load(folder / 'action.npy', mmap_mode='r')
        counts['statistics'] = action_statistics.compute(actions, card.action_space)
    return counts


def _move_into_place(temporary: epath.Path, location: epath.Path) -> None:
    stale = location.with_name(f'{location.name}.stale-{os.getpid()}')
    try:
        os.rename(location, stale)
    except FileNotFoundError:
        pass
    try:
        os.rename(temporary, location)
    except OSError:
        # Another process indexing the same data at the same time came first; its index is as good.
        if not (location / 'index.json').exists():
            raise
    if stale.exists():
        shutil.rmtree(stale)
