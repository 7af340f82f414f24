"""The schema of an RLDS data set, and the values of its features in a serialised episode.

features.json is read by tensorflow-datasets. It says of each feature its shape, its type, and
whether its tensors are stored as numbers or as bytes: raw, or compressed by zlib.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
import dataclasses
import zlib

from etils import epath
import numpy as np

from rt2_jax.data import embodiment, tf_example, tfds_directory
from rt2_jax.data.errors import DataSetError
from rt2_jax.nearest import nearest


@dataclasses.dataclass(frozen=True)
class Field:
    """How one feature is stored.

    Attributes:
      shape: without the step axis; None for a dimension that varies.
      dtype: a NumPy type's name, or 'text' for text and encoded pictures.
      encoding: 'none', 'bytes' or 'zlib'.
    """

    shape: tuple[int | None, ...]
    dtype: str
    encoding: str = 'none'


Schema = Mapping[str, Field]


def read(directory: epath.PathLike) -> Schema:
    """Flat feature path ('steps/action', 'aspects/success') -> Field.

    Raises:
      DataSetError: without a features.json that TFDS understands.
    """
    import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top

    fields = {}

    def walk(feature, path):
        if isinstance(feature, tfds.features.Dataset):
            feature = feature.feature
        if isinstance(feature, tfds.features.FeaturesDict):
            for key, value in feature.items():
                walk(value, f'{path}/{key}' if path else key)
        else:
            fields.update(_fields(feature, path))

    walk(tfds_directory.features(directory), '')
    return fields


def _fields(feature, path: str) -> dict[str, Field]:
    encoding = getattr(feature.to_json_content(), 'encoding', '') or 'none'
    if encoding != 'none':
        return {path: Field(tuple(feature.shape), np.dtype(feature.np_dtype).name, encoding)}
    stored = feature.get_serialized_info()
    if isinstance(stored, dict):  # a sequence of several features, which no card names
        return {}
    dtype = np.dtype(stored.np_dtype)
    name = 'text' if dtype == np.dtype(object) else dtype.name
    return {path: Field(tuple(stored.shape), name)}


def full_path(path: str) -> str:
    """A card's path ('observation/image', '/aspects/success') as the schema has it."""
    return path[1:] if path.startswith('/') else f'steps/{path}'


def check_card(schema: Schema, card: embodiment.Embodiment, directory: epath.PathLike) -> None:
    """Raises DataSetError where a card names what the schema lacks, or has of another shape."""
    for path in map(full_path, card.paths):
        if path not in schema:
            raise DataSetError(
                f'{directory} has no feature {path!r}, which the card {card.name!r} names'
                + nearest(path, schema)
            )
    for part in card.action:
        field = schema[full_path(part.path)]
        width = 1 if not field.shape else field.shape[-1] if len(field.shape) == 1 else None
        if field.dtype == 'text' or width is None or width < part.stop:
            raise DataSetError(
                f'{directory}: feature {full_path(part.path)!r} is {field.dtype} '
                f'{list(field.shape)}; the card {card.name!r} takes numbers {part.start} to '
                f'{part.stop - 1} of a vector from it'
            )
    field = schema[full_path(card.instruction)]
    if field.dtype != 'text' and not (field.dtype.startswith(('int', 'uint')) and field.shape):
        raise DataSetError(
            f'{directory}: the instruction {full_path(card.instruction)!r} is {field.dtype} '
            f'{list(field.shape)}, neither text nor a vector of UTF-8 bytes'
        )


class Record:
    """The features of one serialised episode, read as the schema has them.

    Args:
      payload: the serialised tf.train.Example.
      schema: see `read`.
      paths: the features that will be asked for; all of the schema's by default.

    Raises (all methods):
      ValueError: a feature that is missing, or not as the schema says.
    """

    def __init__(self, payload: bytes, schema: Schema, paths: Container[str] | None = None):
        self.payload = payload
        self.schema = schema
        self.features = tf_example.parse(payload, paths)

    def spans(self, path: str) -> np.ndarray:
        """Where the values of a bytes feature lie in the payload, int64 [N, 2]."""
        return self._feature(path, (tf_example.BYTES_LIST,)).values.reshape(-1, 2)

    def numbers(self, path: str, steps: int | None) -> np.ndarray:
        """A numeric feature, [steps, ...] or, with steps None, of its own shape."""
        field = self.schema[path]
        full = field.shape if steps is None else (steps, *field.shape)
        if field.encoding != 'none':
            values = self._decoded(path, field)
        else:
            kinds = (tf_example.FLOAT_LIST, tf_example.INT64_LIST)
            values = self._feature(path, kinds).values
        if None in full or values.size != np.prod(full, dtype=np.int64):
            raise ValueError(
                f'feature {path!r} has {values.size} values; {list(full)} are expected'
            )
        return values.reshape(full).astype(field.dtype)

    def texts(self, path: str, steps: int | None) -> list[str]:
        """Texts of a feature, one a step; of text, or of integers that are the bytes of UTF-8."""
        if self.schema[path].dtype == 'text':
            found = [self.payload[a:b] for a, b in self.spans(path).tolist()]
        else:
            rows = self.numbers(path, steps)
            found = [_padded_bytes(row, path) for row in (rows if steps is not None else [rows])]
        expected = 1 if steps is None else steps
        if len(found) != expected:
            raise ValueError(f'feature {path!r} has {len(found)} texts; {expected} are expected')
        try:
            return [text.decode() for text in found]
        except UnicodeDecodeError as error:
            raise ValueError(f"feature {path!r} isn't UTF-8: {error}") from error

    def _feature(self, path: str, kinds) -> tf_example.Feature:
        if path not in self.features:
            raise ValueError(f'feature {path!r} is missing')
        feature = self.features[path]
        if feature.kind not in (0, *kinds):
            raise ValueError(f"feature {path!r} isn't of the type that the schema declares")
        return feature

    def _decoded(self, path: str, field: Field) -> np.ndarray:
        parts = [self.payload[a:b] for a, b in self.spans(path).tolist()]
        try:
            if field.encoding == 'zlib':
                parts = [zlib.decompress(part) for part in parts]
            return np.frombuffer(b''.join(parts), field.dtype)
        except (zlib.error, ValueError) as error:
            raise ValueError(f'feature {path!r}: {error}') from error


def _padded_bytes(row: np.ndarray, path: str) -> bytes:
    row = row.reshape(-1)
    used = np.flatnonzero(row)
    text = row[: used[-1] + 1 if used.size else 0]
    if ((text < 0) | (text > 255)).any():
        raise ValueError(
            f'feature {path!r} holds {int(text[(text < 0) | (text > 255)][0])}, no byte'
        )
    return text.astype(np.uint8).tobytes()
