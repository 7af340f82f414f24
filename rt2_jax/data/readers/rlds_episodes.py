"""RLDS robot episodes: one serialised tf.train.Example an episode, in the TFRecord shards of TFDS."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
import dataclasses
import math
from typing import Any
import zlib

from etils import epath
import numpy as np

from rt2_jax.data import robot_card
from rt2_jax.data.index import episode_columns
from rt2_jax.data.index.episode_columns import Episode
from rt2_jax.data.index.indexable import Part, RobotEpisodes, Unit
from rt2_jax.data.readers import rlds_schema, tf_example, tfds_directory, tfrecord

FORMAT = 2


@dataclasses.dataclass(frozen=True)
class Rlds(RobotEpisodes):
    """One split of a TFDS set in RLDS form.

    Attributes:
        directory: with features.json, dataset_info.json and the shards; local or remote.
        card: what its features mean.
        split: which split.
        schema: how the features that the card names are stored; known once prepared.
        episodes: how many each shard holds, as the set declares; known once prepared.
    """

    directory: epath.PathLike
    card: robot_card.RobotCard
    split: str = 'train'
    schema: rlds_schema.Schema = dataclasses.field(default_factory=dict)
    episodes: tuple[int, ...] = ()

    @property
    def identity(self) -> dict[str, Any]:
        """What an index must have been built with."""
        return {
            'format': FORMAT,
            'card': self.card.name,
            'card_fingerprint': self.card.fingerprint,
            'split': self.split,
        }

    @property
    def fingerprint(self) -> str:
        """Changes with the card and with how its features are stored."""
        return f'{self.card.fingerprint} {sorted(self.schema.items())}'

    def prepare(self) -> Rlds:
        """Compares the card with the schema.

        Raises:
            DataSetError: not a whole TFDS set, or one that doesn't fit the card.
        """
        declared = tfds_directory.declared(self.directory, self.split)
        schema = rlds_schema.read(self.directory)
        rlds_schema.check_card(schema, self.card, self.directory)
        paths = {rlds_schema.full_path(path) for path in self.card.paths}
        return dataclasses.replace(
            self,
            schema={path: field for path, field in schema.items() if path in paths},
            episodes=tuple(episodes for _, episodes in declared),
        )

    def files(self) -> list[str]:
        """The split's shards."""
        return tfds_directory.shard_names(self.directory, self.split)

    def units(self, sizes: Sequence[int]) -> list[Unit]:
        """One a shard."""
        declared = self.episodes or [0] * len(sizes)
        return [
            Unit(number, 0, size, records)
            for number, (size, records) in enumerate(zip(sizes, declared, strict=True))
        ]

    def records(
        self, path: str, unit: Unit, digest: Any
    ) -> Iterator[Episode | tfrecord.CorruptRecord]:
        """The shard's episodes in order, with what is damaged in its place."""
        read = _EpisodeReader(self.card, self.schema)
        count, end, is_whole = 0, 0, True
        for record in tfrecord.scan(path):
            _update(digest, record)
            error = record.error
            if error is None:
                try:
                    yield read(record)
                except ValueError as problem:
                    reason = f'episode {count} of the file, {problem}'
                    error = tfrecord.CorruptRecord(path, record.offset, reason)
            if error is not None:
                is_whole = False
                yield error
            count, end = count + 1, record.end
        # A file that ends between two records has nothing else that gives it away.
        if count != unit.records and is_whole:
            yield tfrecord.CorruptRecord(
                path,
                end,
                f'the file ends after {count} records; dataset_info.json declares {unit.records}',
            )

    def framing(self, path: str, unit: Unit, digest: Any) -> None:
        """From the lengths and checksums that the file itself holds."""
        for record in tfrecord.scan(path, payloads=False):
            _update(digest, record)

    def columns(self) -> episode_columns.EpisodeColumns:
        """Columns for the episodes of one shard."""
        return episode_columns.EpisodeColumns(self.card)

    def join(self, parts: Sequence[Part], folder: epath.Path, framing: str) -> dict[str, Any]:
        """Writes the columns of all shards; returns what index.json says of them."""
        texts = [
            path for path in self.card.kept_columns if self.schema[f'steps/{path}'].dtype == 'text'
        ]
        about = episode_columns.join(parts, folder, self.card, texts)
        return {'fingerprint': framing, **about}


def _update(digest: Any, record: tfrecord.Record) -> None:
    digest.update(np.array([record.offset, record.length, record.stored_checksum], '<i8').tobytes())


class SerializedEpisode:
    """The features of one serialised episode, read as the schema has them.

    Args:
        payload: the serialised tf.train.Example.
        schema: see `rlds_schema.read`.
        paths: the features that will be used; all of the schema's by default.

    Raises (all methods):
        ValueError: a feature that is missing, or not as the schema says.
    """

    def __init__(
        self, payload: bytes, schema: rlds_schema.Schema, paths: Container[str] | None = None
    ) -> None:
        self.payload = payload
        self.schema = schema
        self.features = tf_example.parse(payload, paths)

    def spans(self, path: str) -> np.ndarray:
        """Where the values of a bytes feature lie in the payload, int64 [N, 2]."""
        return self._feature(path, (tf_example.BYTES_LIST,)).values.reshape(-1, 2)

    def numbers(self, path: str, steps: int | None) -> np.ndarray:
        """A numeric feature, [steps, ...] or, with steps None, of its own shape."""
        field = self.schema[path]
        shape = field.shape if steps is None else (steps, *field.shape)
        fixed = [size for size in shape if size is not None]
        values = self._values(path)
        if len(fixed) < len(shape) or values.size != math.prod(fixed):
            raise ValueError(
                f'feature {path!r} has {values.size} values; {list(shape)} are expected'
            )
        return values.reshape(fixed).astype(field.dtype)

    def steps(self, path: str) -> int:
        """The number of the episode's steps, by a numeric feature that each of them has."""
        row = math.prod(size for size in self.schema[path].shape if size is not None)
        size = self._values(path).size
        if size % row:
            raise ValueError(f'feature {path!r} has {size} values, not {row} a step')
        return size // row

    def texts(self, path: str, steps: int | None, kept: slice = slice(None)) -> list[str]:
        """Texts of a feature, one a step; of text, or of integers that are the bytes of UTF-8.

        Args:
            path: the feature.
            steps: of the episode; None for a text of the episode.
            kept: the steps whose texts are wanted.
        """
        if self.schema[path].dtype == 'text':
            encoded = [self.payload[a:b] for a, b in self.spans(path).tolist()]
        else:
            rows = self.numbers(path, steps)
            encoded = [padded_bytes(row, path) for row in (rows if steps is not None else [rows])]
        expected = 1 if steps is None else steps
        if len(encoded) != expected:
            raise ValueError(f'feature {path!r} has {len(encoded)} texts; {expected} are expected')
        try:
            return [text.decode() for text in encoded[kept]]
        except UnicodeDecodeError as error:
            raise ValueError(f"feature {path!r} isn't UTF-8: {error}") from error

    def _values(self, path: str) -> np.ndarray:
        field = self.schema[path]
        if field.encoding != 'none':
            return self._decoded(path, field)
        return self._feature(path, (tf_example.FLOAT_LIST, tf_example.INT64_LIST)).values

    def _feature(self, path: str, kinds: Container[int]) -> tf_example.Feature:
        if path not in self.features:
            raise ValueError(f'feature {path!r} is missing')
        feature = self.features[path]
        if feature.kind and feature.kind not in kinds:
            raise ValueError(f"feature {path!r} isn't of the type that the schema declares")
        return feature

    def _decoded(self, path: str, field: rlds_schema.Field) -> np.ndarray:
        parts = [self.payload[a:b] for a, b in self.spans(path).tolist()]
        try:
            if field.encoding == 'zlib':
                parts = [zlib.decompress(part) for part in parts]
            return np.frombuffer(b''.join(parts), field.dtype)
        except (zlib.error, ValueError) as error:
            raise ValueError(f'feature {path!r}: {error}') from error


def padded_bytes(row: np.ndarray, path: str) -> bytes:
    """The bytes that a row of integers is, without the zeros at its end.

    Raises:
        ValueError: a number that is no byte.
    """
    row = row.reshape(-1)
    used = np.flatnonzero(row)
    text = row[: used[-1] + 1 if used.size else 0]
    if ((text < 0) | (text > 255)).any():
        raise ValueError(
            f'feature {path!r} holds {int(text[(text < 0) | (text > 255)][0])}, no byte'
        )
    return text.astype(np.uint8).tobytes()


class _EpisodeReader:
    """Reads episodes by a card; a ValueError where one can't be what the card says."""

    def __init__(self, card: robot_card.RobotCard, schema: rlds_schema.Schema) -> None:
        self._card, self._schema = card, schema
        self._paths = {rlds_schema.full_path(path) for path in card.paths}
        self._cameras = {
            camera: path
            for camera, path in enumerate(card.images)
            if not rlds_schema.camera_problem(schema, path)
        }

    def __call__(self, record: tfrecord.Record) -> Episode:
        card, payload = self._card, record.payload
        assert payload is not None
        stored = SerializedEpisode(payload, self._schema, self._paths)
        steps = stored.steps(rlds_schema.full_path(card.action[0].path))
        features = self._action_features(stored, steps)
        actions = card.to_action(features)
        kept = card.examples(actions)
        check_finite(actions, kept, card.action_space.number_names)
        spans = self._pictures(stored, steps)[kept]
        checksums = [[tfrecord.checksum(payload[a:b]) for a, b in row] for row in spans.tolist()]
        return Episode(
            offset=record.offset,
            length=record.length,
            pictures=spans + record.payload_offset,
            checksums=np.reshape(np.array(checksums, np.uint32), spans.shape[:2]),
            instructions=self._instructions(stored, steps, kept),
            success=self._success(stored),
            actions=actions[kept],
            columns=[self._column(stored, path, steps, kept) for path in card.kept_columns],
            gripper=card.gripper_values(features)[kept] if card.gripper else None,
            dropped_first=kept.start,
            dropped_last=steps - kept.stop,
        )

    def _action_features(self, stored: SerializedEpisode, steps: int) -> dict[str, np.ndarray]:
        card = self._card
        paths = [part.path for part in card.action]
        if card.terminate_rule != 'none':
            paths.append(card.terminate or 'is_last')
        return {path: stored.numbers(f'steps/{path}', steps) for path in paths}

    def _pictures(self, stored: SerializedEpisode, steps: int) -> np.ndarray:
        """Where each step's pictures lie in the payload, int64 [steps, cameras, 2].

        Both numbers are 0 for a camera that hasn't a picture for each step of this episode.

        Raises:
            ValueError: no camera has.
        """
        spans = np.zeros([steps, len(self._card.images), 2], np.int64)
        counts = {}
        for camera, path in self._cameras.items():
            try:
                pictures = stored.spans(f'steps/{path}')
            except ValueError:
                pictures = spans[:0, 0]
            counts[path] = len(pictures)
            if len(pictures) == steps:
                spans[:, camera] = pictures
        if steps not in counts.values():
            raise ValueError(f'{steps} steps, but other numbers of pictures: {counts}')
        return spans

    def _instructions(self, stored: SerializedEpisode, steps: int, kept: slice) -> list[str]:
        path = self._card.instruction
        if path.startswith('/'):
            return stored.texts(path[1:], None) * (kept.stop - kept.start)
        return stored.texts(rlds_schema.full_path(path), steps, kept)

    def _success(self, stored: SerializedEpisode) -> int:
        path = self._card.success
        return int((stored.numbers(path, None) > 0).all()) if path else -1

    def _column(
        self, stored: SerializedEpisode, path: str, steps: int, kept: slice
    ) -> list[str] | np.ndarray:
        full = f'steps/{path}'
        if self._schema[full].dtype == 'text':
            return stored.texts(full, steps, kept)
        return stored.numbers(full, steps)[kept]


def check_finite(actions: np.ndarray, kept: slice, names: Sequence[str]) -> None:
    """Raises ValueError for an example's action [T, L] that isn't finite, by its step."""
    bad = np.argwhere(~np.isfinite(actions[kept]))
    if len(bad):
        step, number = bad[0].tolist()
        value = actions[kept][step, number]
        raise ValueError(f'step {kept.start + step}: {names[number]!r} of the action is {value}')
