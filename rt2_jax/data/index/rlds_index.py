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

Shards are indexed by several processes, of one machine or of all that train, each into a file of its
own in `<index>.building`; a build that was stopped goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import hashlib
import json
import os
from typing import Any

from absl import logging
from etils import epath
import numpy as np

from rt2_jax.data import files, robot_card
from rt2_jax.data.errors import DataSetError
from rt2_jax.data.index import index_jobs, index_places, rlds_join, rlds_shard
from rt2_jax.data.readers import rlds_schema, tfds_directory, tfrecord
from rt2_jax.data.robot import action_statistics
from rt2_jax.nearest import check

FORMAT = 2

# Below this many bytes of data, starting processes costs more than it saves.
PARALLEL_BYTES = 256 << 20


def build(
    directory: epath.PathLike,
    card: robot_card.RobotCard,
    *,
    split: str = 'train',
    location: epath.PathLike | None = None,
    on_corrupt: str = 'raise',
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    together: bool = False,
    again: bool = True,
) -> epath.Path:
    """Indexes a data set; returns the index's folder. Whole or not at all, and resumable.

    Args:
      directory: the data set, with features.json, dataset_info.json and TFRecord shards.
      card: what its features mean.
      split: which split.
      location: the index's folder, see `place`.
      on_corrupt: 'raise' stops at the first unreadable record; 'skip' leaves such records out, and
        logs and counts each.
      processes: how many to use; by default one a core where the data are large.
      progress: called with (shards done, shards in all).
      together: whether all processes of the job call this: they share the shards.
      again: whether an index that is there is made again.

    Raises:
      tfrecord.CorruptRecord: an unreadable record, by file and byte, with on_corrupt='raise'.
      DataSetError: not a whole data set, or one that doesn't fit the card.
      OSError: no room for the index; what is done is kept.
    """
    check('on_corrupt', on_corrupt, index_jobs.ON_CORRUPT)
    # As of before the reading: what changes meanwhile is then found when the index is opened.
    shards = index_jobs.checked(lambda: _shards(directory, split), directory, together)
    location = place(directory, card, split, location)
    schema = rlds_schema.read(directory)
    rlds_schema.check_card(schema, card, directory)
    scratch, folder = index_places.scratch(location), files.path(directory)
    jobs = [
        _job(folder / stamp['name'], stamp, records, scratch, card, schema, on_corrupt)
        for records, stamp in shards
    ]
    stamps = [stamp for _, stamp in shards]
    return index_jobs.build(
        rlds_shard.run,
        jobs,
        lambda: _write(location, jobs, stamps, directory, split),
        directory=directory,
        location=location,
        processes=processes,
        worth_it=sum(stamp['size'] for stamp in stamps) >= PARALLEL_BYTES,
        progress=progress,
        together=together,
        again=again,
    )


def place(
    directory: epath.PathLike,
    card: robot_card.RobotCard,
    split: str = 'train',
    location: epath.PathLike | None = None,
    indexes: epath.PathLike | None = None,
) -> epath.Path:
    """The folder of a set's index, by default one for each split and card; see index_places."""
    name = f'{split}-{card.name}-{card.fingerprint[:8]}'
    return index_places.place(location, directory, name, indexes)


def _shards(directory: epath.PathLike, split: str) -> list[tuple[int, dict[str, Any]]]:
    """Of each shard how many records it holds, and its name with its stamp."""
    declared = tfds_directory.declared(directory, split)
    stamps = files.stamps(files.path(directory) / name for name, _ in declared)
    return [
        (records, {'name': name, **stamp})
        for (name, records), stamp in zip(declared, stamps, strict=True)
    ]


def framing_fingerprint(path: epath.PathLike) -> str:
    """What a TFRecord file holds, from its records' lengths and stored checksums alone."""
    digest = hashlib.sha256()
    for record in tfrecord.scan(path, payloads=False):
        rlds_shard.update_fingerprint(digest, record)
    return digest.hexdigest()


def _job(file, stamp, records, building, card, schema, on_corrupt) -> rlds_shard.Job:
    used = {path: schema.get(rlds_schema.full_path(path)) for path in card.paths}
    depends = [FORMAT, card.fingerprint, repr(used), records, on_corrupt, stamp]
    key = hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:16]
    result = os.fspath(building / f'{file.name}.{key}.npz')
    return rlds_shard.Job(os.fspath(file), result, card, schema, records, on_corrupt)


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
    with index_places.written(location) as folder:
        shards, arrays = rlds_join.join([job.result for job in jobs], folder, texts)
        about = {
            'format': FORMAT,
            'card': card.name,
            'card_fingerprint': card.fingerprint,
            'split': split,
            'files': stamps,
            'fingerprint': index_jobs.combined([shard['fingerprint'] for shard in shards]),
            'skipped': [
                [stamp['name'], *place]
                for stamp, shard in zip(stamps, shards, strict=True)
                for place in shard['skipped']
            ],
            'columns': columns,
            'arrays': arrays,
            **_counts(folder, shards, card),
        }
        if about['skipped']:
            logging.warning('%s: left out %d unreadable records', directory, len(about['skipped']))
        if not about['steps']:
            raise DataSetError(
                f'{directory}, split {split!r}: no readable steps{_first(about["skipped"])}'
            )
        (folder / index_places.ABOUT).write_text(json.dumps(about, indent=1))


def _first(skipped: Sequence[Sequence[Any]]) -> str:
    """The end of a message: the first of the unreadable records, as index.json lists them."""
    if not skipped:
        return ''
    file, offset, reason = skipped[0]
    return f'; {len(skipped)} records are unreadable, the first: {file}, byte {offset}: {reason}'


def _counts(folder: epath.Path, shards: Sequence[dict], card) -> dict[str, Any]:
    """What index.json says of the numbers of things, and of the actions."""
    steps = sum(shard['steps'] for shard in shards)
    counts = {
        'episodes': sum(shard['episodes'] for shard in shards),
        'steps': steps,
        'empty_episodes': int((np.diff(np.load(folder / 'episode_first.npy')) == 0).sum()),
        'unlabelled_steps': int(np.load(folder / 'episode_unlabelled.npy').sum()),
    }
    if uses := [shard['gripper'] for shard in shards if 'gripper' in shard]:
        counts['gripper'] = action_statistics.joined_gripper_use(uses)
    for name in ('dropped_first', 'dropped_last'):
        counts[name] = sum(shard['counts'][name] for shard in shards)
    if steps:
        lengths = np.load(folder / 'image_length.npy', mmap_mode='r')
        counts['without_picture'] = (lengths == 0).sum(axis=0).tolist()  # steps, by camera
        actions = np.load(folder / 'action.npy', mmap_mode='r')
        counts['statistics'] = action_statistics.compute(actions, card.action_space)
    return counts
