"""TFDS sets of captions, questions and objects: TFRecords of tf.train.Examples, as they lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

from rt2_jax.data import remote_files
from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.index.indexable import Unit
from rt2_jax.data.readers import tf_example, tfds_directory, tfrecord, web_records
from rt2_jax.data.readers.web_format import WebFormat
from rt2_jax.data.readers.web_records import Record
from rt2_jax.nearest import nearest


@dataclasses.dataclass(frozen=True)
class Tfds(WebFormat):
    """One split of a TFDS set.

    Attributes:
        directory: with features.json, dataset_info.json and the shards; local or remote.
        card: paths are those of the schema's features.
        split: which split.
        class_names: path of a class label -> the names of its classes; known once prepared.
    """

    split: str = 'train'
    class_names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    kind = 'tfds'

    @property
    def fingerprint(self) -> str:
        """Changes with the card and the split."""
        return f'{self.kind} {self.card.fingerprint} {self.split}'

    def prepare(self) -> Tfds:
        """Compares the card with the schema and looks up the names of classes.

        Raises:
            DataSetError: not a whole TFDS set, or its schema lacks what the card names.
        """
        import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top

        tfds_directory.declared(self.directory, self.split)
        schema = _leaves(tfds_directory.features(self.directory))
        class_names = {}
        for field, path in {'image': self.card.image, **self.card.paths}.items():
            name = f'{path!r}, which the card {self.card.name!r} names as its {field}'
            if path not in schema:
                raise DataSetError(f'{self.directory} has no feature {name}{nearest(path, schema)}')
            keys, feature = schema[path]
            if isinstance(feature, tfds.features.ClassLabel):
                class_names[path] = tfds_directory.class_names(self.directory, keys)
            elif field in ('box', 'score') and isinstance(feature, tfds.features.Text):
                raise DataSetError(f'{self.directory}: feature {name}, holds text')
        return dataclasses.replace(self, class_names=class_names)

    def files(self) -> list[str]:
        """The split's shards."""
        return tfds_directory.shard_names(self.directory, self.split)

    def records(
        self, path: str, unit: Unit, digest: Any
    ) -> Iterator[Record | tfrecord.CorruptRecord]:
        """The shard's records in order, with what is damaged in its place."""
        for record in tfrecord.scan(path):
            _update(digest, record)
            if record.error is not None:
                yield record.error
                continue
            try:
                yield from self._records(record)
            except ValueError as error:
                yield tfrecord.CorruptRecord(path, record.offset, str(error))

    def framing(self, path: str, unit: Unit, digest: Any) -> None:
        """From the lengths and checksums that the file itself holds."""
        # Of a remote shard all is read: a request for each record takes longer than a picture.
        for record in tfrecord.scan(path, payloads=remote_files.is_remote(path)):
            _update(digest, record)

    def keys(self) -> list[str]:
        """The card's own: `prepare` has compared it with the schema."""
        return list(self.card.paths.values())

    def _records(self, record: tfrecord.Record) -> list[Record]:
        payload = record.payload
        assert payload is not None
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
        offset = record.payload_offset + start
        return web_records.make(values, payload[start:stop], offset, self.card)

    def _values(self, payload: bytes, feature: tf_example.Feature, path: str) -> list[Any]:
        if feature.kind == tf_example.BYTES_LIST:
            return [payload[a:b] for a, b in feature.values.tolist()]
        if path not in self.class_names:
            return [feature.values] if path == self.card.box else feature.values.tolist()
        names = self.class_names[path]
        outside = [k for k in feature.values.tolist() if not 0 <= k < len(names)]
        if outside:
            raise ValueError(f'feature {path!r}: class {outside[0]} of {len(names)}')
        return [names[k] for k in feature.values.tolist()]


def _update(digest: Any, record: tfrecord.Record) -> None:
    digest.update(f'{record.offset} {record.length} {record.stored_checksum},'.encode())


def _leaves(features: Any, keys: tuple[str, ...] = ()) -> dict[str, tuple[tuple[str, ...], Any]]:
    """Innermost features with their keys, by flat path, as their records name them."""
    # A Sequence of a dict is stored as a dict of sequences.
    inner = getattr(features, 'feature', features)
    if not hasattr(inner, 'keys'):
        return {'/'.join(keys): (keys, inner)}
    leaves: dict[str, tuple[tuple[str, ...], Any]] = {}
    for key in inner.keys():
        leaves |= _leaves(inner[key], (*keys, key))
    return leaves
