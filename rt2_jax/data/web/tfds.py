"""TFDS sets of captions, questions and objects: TFRecords of tf.train.Examples, as they lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import os
from typing import Any

from etils import epath

from rt2_jax.data import tf_example, tfrecord
from rt2_jax.data.robot import rlds_index
from rt2_jax.data.web import records as web_records
from rt2_jax.data.web.cards import WebCard
from rt2_jax.data.web.records import Record, Unit
from rt2_jax.nearest import nearest


@dataclasses.dataclass(frozen=True)
class Tfds:
    """One split of a TFDS set.

    Attributes:
      directory: with features.json, dataset_info.json and the shards.
      card: paths are those of the schema's features.
      split: which split.
      names: path of a class label -> the names of its classes; known once prepared.
    """

    directory: str
    card: WebCard
    split: str = 'train'
    names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    kind = 'tfds'

    @property
    def fingerprint(self) -> str:
        return f'{self.kind} {self.card.fingerprint} {self.split}'

    def prepare(self) -> Tfds:
        """Holds the card against the schema and looks up the names of classes.

        Raises:
          rlds_index.DataSetError: not a whole TFDS set, or its schema lacks what the card names.
        """
        # TFDS is wanted for the schema only, at indexing; training reads the index alone.
        import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top

        rlds_index.split_files(self.directory, self.split)
        if not (epath.Path(self.directory) / 'features.json').exists():
            raise rlds_index.DataSetError(
                f'{self.directory} has no features.json, so its schema is unknown'
            )
        schema = _leaves(tfds.features.FeaturesDict.from_config(self.directory))
        names = {}
        for field, path in {'image': self.card.image, **self.card.paths}.items():
            whose = f'{path!r}, which the card {self.card.name!r} names as its {field}'
            if path not in schema:
                raise rlds_index.DataSetError(
                    f'{self.directory} has no feature {whose}{nearest(path, schema)}'
                )
            if isinstance(schema[path], tfds.features.ClassLabel):
                names[path] = tuple(schema[path].names)
            elif field in ('box', 'score') and isinstance(schema[path], tfds.features.Text):
                raise rlds_index.DataSetError(f'{self.directory}: feature {whose}, holds text')
        return dataclasses.replace(self, names=names)

    def units(self) -> list[Unit]:
        """One a shard."""
        files = rlds_index.split_files(self.directory, self.split)
        return [
            Unit(number, os.fspath(file), 0, os.path.getsize(file))
            for number, file in enumerate(files)
        ]

    def records(self, unit: Unit, digest: Any) -> Iterator[Record | tfrecord.CorruptRecord]:
        """The shard's records in order, with what is damaged in its place."""
        for found in tfrecord.scan(unit.path):
            _update(digest, found)
            if found.error is not None:
                yield found.error
                continue
            try:
                yield self._record(found)
            except ValueError as error:
                yield tfrecord.CorruptRecord(unit.path, found.offset, str(error))

    def framing(self, unit: Unit, digest: Any) -> None:
        """From the lengths and checksums that the file itself holds."""
        for found in tfrecord.scan(unit.path, payloads=False):
            _update(digest, found)

    def keys(self) -> list[str]:
        """Nothing new: `prepare` has held the card against the schema."""
        return list(self.card.paths.values())

    def _record(self, found: tfrecord.Record) -> Record:
        payload = found.payload
        features = tf_example.parse(payload)
        picture = features.get(self.card.image)
        if picture is None or picture.kind != tf_example.BYTES_LIST or len(picture.values) != 1:
            raise ValueError(f'feature {self.card.image!r} holds no picture')
        start, stop = picture.values[0].tolist()
        values = {
            field: self._values(payload, features[path], path)
            for field, path in self.card.paths.items()
            if path in features
        }
        offset = found.offset + tfrecord.HEADER_BYTES + start
        return web_records.make(values, payload[start:stop], offset, self.card)

    def _values(self, payload: bytes, feature: tf_example.Feature, path: str) -> list[Any]:
        if feature.kind == tf_example.BYTES_LIST:
            return [payload[a:b] for a, b in feature.values.tolist()]
        if path not in self.names:
            return [feature.values] if path == self.card.box else feature.values.tolist()
        names = self.names[path]
        outside = [k for k in feature.values.tolist() if not 0 <= k < len(names)]
        if outside:
            raise ValueError(f'feature {path!r}: class {outside[0]} of {len(names)}')
        return [names[k] for k in feature.values.tolist()]


def _update(digest: Any, found: tfrecord.Record) -> None:
    digest.update(f'{found.offset} {found.length} {found.stored_checksum},'.encode())


def _leaves(features: Any, prefix: str = '') -> dict[str, Any]:
    """Innermost features by flat path, as their records name them."""
    # A Sequence of a dict is stored as a dict of sequences.
    inner = getattr(features, 'feature', features)
    if not hasattr(inner, 'keys'):
        return {prefix: inner}
    leaves = {}
    for key in inner.keys():
        leaves |= _leaves(inner[key], f'{prefix}/{key}' if prefix else key)
    return leaves
