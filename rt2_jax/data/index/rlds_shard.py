"""The index of one shard: what a worker makes, and leaves on disk until all shards are joined.

A result is a part (see arrays) with the arrays of rlds_index, whose texts are rows of its own. Its
name holds a fingerprint of what it depends on, so that a build which was stopped finds what it has
done and takes nothing stale.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import hashlib
from typing import Any

from absl import logging
import numpy as np

from rt2_jax.data import robot_card
from rt2_jax.data.index import index_arrays
from rt2_jax.data.readers import rlds_schema, tfrecord
from rt2_jax.data.robot import action_statistics

# The dtypes of the arrays that every index has; [N] but for cameras C and action length L.
DTYPES = {
    'episode_offset': np.int64,
    'episode_length': np.int64,
    'episode_steps': np.int32,
    'episode_success': np.int8,
    'episode_unlabelled': np.int32,
    'image_offset': np.int64,  # [N, C]
    'image_length': np.int32,  # [N, C]
    'image_checksum': np.uint32,  # [N, C]
    'action': np.float32,  # [N, L]
    'instruction': np.int32,
}


@dataclasses.dataclass(frozen=True)
class Job:
    """One shard to index.

    Attributes:
      path: the shard.
      result: the .npz to write.
      card, schema: what its features mean and how they are stored.
      records: how many the data set declares.
      on_corrupt: 'raise' or 'skip'.
    """

    path: str
    result: str
    card: robot_card.RobotCard
    schema: rlds_schema.Schema
    records: int
    on_corrupt: str


def run(job: Job) -> None:
    """Indexes a shard and writes the result.

    Raises:
      tfrecord.CorruptRecord: an unreadable record, with on_corrupt='raise'.
      OSError: the result can't be written.
    """
    builder = _Builder(job)
    for record in tfrecord.scan(job.path):
        builder.add(record)
    index_arrays.write_part(job.result, *builder.finish())


def column_name(number: int) -> str:
    """The array of the card's `number`-th column."""
    return f'column_{number}'


def packed_texts(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Texts as one run of UTF-8, 'text' uint8, and where each ends, 'text_end' int64."""
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return {'text': np.frombuffer(b''.join(encoded), np.uint8), 'text_end': ends}


class _Builder:
    """Collects the episodes of one shard."""

    def __init__(self, job: Job):
        self._job = job
        self._paths = {rlds_schema.full_path(path) for path in job.card.paths}
        self._end = 0
        self._digest = hashlib.sha256()
        self._skipped: list[list[Any]] = []
        self._texts: dict[str, int] = {}
        self._counts = {'records': 0, 'dropped_first': 0, 'dropped_last': 0}
        self._parts: dict[str, list[np.ndarray]] = {name: [] for name in self._names()}
        self._gripper: list[np.ndarray] = []  # the data's own values
        fits = lambda path: not rlds_schema.camera_problem(job.schema, path)
        self._cameras = {c: path for c, path in enumerate(job.card.images) if fits(path)}

    def _names(self) -> list[str]:
        return [*DTYPES, *(column_name(i) for i in range(len(self._job.card.columns)))]

    def add(self, record: tfrecord.Record) -> None:
        update_fingerprint(self._digest, record)
        self._counts['records'] += 1
        self._end = record.offset + record.length + tfrecord.HEADER_BYTES + tfrecord.FOOTER_BYTES
        error = record.error
        if error is None:
            try:
                for name, part in self._episode(record).items():
                    self._parts[name].append(part)
                return
            except ValueError as problem:
                reason = f'episode {self._counts["records"] - 1} of the file, {problem}'
                error = tfrecord.CorruptRecord(self._job.path, record.offset, reason)
        self._unreadable(error)

    def finish(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays, and what is said of them."""
        # A file that ends between two records has nothing else that gives it away.
        found, declared = self._counts['records'], self._job.records
        if found != declared and not self._skipped:
            self._unreadable(
                tfrecord.CorruptRecord(
                    self._job.path,
                    self._end,
                    f'the file ends after {found} records; dataset_info.json declares {declared}',
                )
            )
        joined = {name: self._joined(name) for name in self._names()}
        about = {
            'fingerprint': self._digest.hexdigest(),
            'episodes': len(joined['episode_steps']),
            'steps': int(joined['episode_steps'].sum()),
            'skipped': self._skipped,
            'counts': self._counts,
        }
        if gripper := self._job.card.gripper:
            values = np.concatenate([np.zeros(0, np.float32), *self._gripper])
            about['gripper'] = action_statistics.gripper_use(values, gripper)
        return {**joined, **packed_texts(list(self._texts))}, about

    def _joined(self, name: str) -> np.ndarray:
        parts = self._parts[name]
        if parts:
            return np.concatenate(parts)
        card = self._job.card
        cameras, length = (len(card.images),), (card.action_space.length,)
        tail = cameras if name.startswith('image_') else length if name == 'action' else ()
        return np.zeros([0, *tail], DTYPES.get(name, np.float32))

    def _unreadable(self, error: tfrecord.CorruptRecord) -> None:
        if self._job.on_corrupt == 'raise':
            raise error
        logging.warning('left out an unreadable record: %s', error)
        self._skipped.append([error.offset, error.reason])

    def _episode(self, record: tfrecord.Record) -> dict[str, np.ndarray]:
        card, schema = self._job.card, self._job.schema
        read = rlds_schema.Record(record.payload, schema, self._paths)
        steps = read.steps(rlds_schema.full_path(card.action[0].path))
        features = self._action_features(read, steps)
        action = card.to_action(features)
        kept = card.examples(action)
        _check_finite(action, kept, card.action_space.number_names)
        spans = self._pictures(read, steps)[kept]
        checksums = [
            [tfrecord.checksum(record.payload[a:b]) for a, b in row] for row in spans.tolist()
        ]
        texts = self._instructions(read, steps, kept)
        values = {
            'episode_offset': [record.offset],
            'episode_length': [record.length],
            'episode_steps': [len(texts)],
            'episode_success': [self._success(read)],
            'episode_unlabelled': [sum(not text.strip() for text in texts)],
            'image_offset': spans[..., 0] + record.offset + tfrecord.HEADER_BYTES,
            'image_length': spans[..., 1] - spans[..., 0],
            'image_checksum': np.reshape(checksums, spans.shape[:2]),
            'action': action[kept],
            'instruction': self._interned(texts),
        }
        found = {name: np.asarray(value, DTYPES[name]) for name, value in values.items()}
        for number, path in enumerate(card.columns):
            found[column_name(number)] = self._column(read, path, steps, kept)
        if card.gripper:
            self._gripper.append(card.gripper_values(features)[kept])
        self._counts['dropped_first'] += kept.start
        self._counts['dropped_last'] += steps - kept.stop
        return found

    def _action_features(self, read: rlds_schema.Record, steps: int) -> dict[str, np.ndarray]:
        card = self._job.card
        paths = [part.path for part in card.action]
        if card.terminate_rule != 'none':
            paths.append(card.terminate or 'is_last')
        return {path: read.numbers(f'steps/{path}', steps) for path in paths}

    def _pictures(self, read: rlds_schema.Record, steps: int) -> np.ndarray:
        """Where each step's pictures lie in the payload, int64 [steps, cameras, 2].

        Both numbers are 0 for a camera that hasn't a picture for each step of this episode.

        Raises:
          ValueError: no camera has.
        """
        spans = np.zeros([steps, len(self._job.card.images), 2], np.int64)
        counts = {}
        for camera, path in self._cameras.items():
            try:
                pictures = read.spans(f'steps/{path}')
            except ValueError:
                pictures = spans[:0, 0]
            counts[path] = len(pictures)
            if len(pictures) == steps:
                spans[:, camera] = pictures
        if steps not in counts.values():
            raise ValueError(f'{steps} steps, but other numbers of pictures: {counts}')
        return spans

    def _instructions(self, read: rlds_schema.Record, steps: int, kept: slice) -> list[str]:
        path = self._job.card.instruction
        if path.startswith('/'):
            return read.texts(path[1:], None) * (kept.stop - kept.start)
        return read.texts(rlds_schema.full_path(path), steps, kept)

    def _success(self, read: rlds_schema.Record) -> int:
        path = self._job.card.success
        return int((read.numbers(path, None) > 0).all()) if path else -1

    def _column(self, read: rlds_schema.Record, path: str, steps: int, kept: slice) -> np.ndarray:
        full = f'steps/{path}'
        if self._job.schema[full].dtype == 'text':
            return self._interned(read.texts(full, steps, kept))
        return read.numbers(full, steps)[kept]

    def _interned(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([self._texts.setdefault(t, len(self._texts)) for t in texts], np.int32)


def _check_finite(action: np.ndarray, kept: slice, names: Sequence[str]) -> None:
    """Raises ValueError for an example's action [T, L] that isn't finite, by its step."""
    bad = np.argwhere(~np.isfinite(action[kept]))
    if len(bad):
        step, number = bad[0].tolist()
        value = action[kept][step, number]
        raise ValueError(f'step {kept.start + step}: {names[number]!r} of the action is {value}')


def update_fingerprint(digest, record: tfrecord.Record) -> None:
    """Adds a record's place and stored checksum to a hash."""
    digest.update(np.array([record.offset, record.length, record.stored_checksum], '<i8').tobytes())
