"""The schema of an RLDS data set, and the values of its features in a serialised episode.

features.json is read by tensorflow-datasets. It says of each feature its shape, its type, and
whether its tensors are stored as numbers or as bytes: raw, or compressed by zlib.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
import dataclasses
import zlib

from absl import logging
from etils import epath
import numpy as np

from rt2_jax.data import robot_card
from rt2_jax.data.errors import DataSetError
from rt2_jax.data.readers import tf_example, tfds_directory
from rt2_jax.nearest import nearest


@dataclasses.dataclass(frozen=True)
class Field:
    """How one feature is stored.

    Attributes:
      shape: without the step axis; None for a dimension that varies.
      dtype: a NumPy type's name, 'text', 'picture' for encoded pictures of 8 bits a channel, or
        'picture of uint16' and the like for others.
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
    if hasattr(feature, 'encoding_format'):  # tfds.features.Image, of which others are derived
        pixels = np.dtype(feature.np_dtype).name
        name = 'picture' if pixels == 'uint8' else f'picture of {pixels}'
        return {path: Field(tuple(feature.shape), name)}
    stored = feature.get_serialized_info()
    if isinstance(stored, dict):  # a sequence of several features, which no card names
        return {}
    dtype = np.dtype(stored.np_dtype)
    name = 'text' if dtype == np.dtype(object) else dtype.name
    return {path: Field(tuple(stored.shape), name)}


def full_path(path: str) -> str:
    """A card's path ('observation/image', '/aspects/success') as the schema has it."""
    return path[1:] if path.startswith('/') else f'steps/{path}'


def check_card(schema: Schema, card: robot_card.RobotCard, directory: epath.PathLike) -> None:
    """Compares a card with the schema, before any record is read.

    Cameras that don't fit are logged, and have no pictures in the index; one at least must fit.

    Raises:
      DataSetError: the card names what the schema lacks, or has in another form; says all of it.
    """
    problems = [_action_problem(schema, part) for part in card.action]
    problems.append(_instruction_problem(schema, card.instruction))
    problems += [_number_problem(schema, path) for path in _flags(card)]
    problems += [_column_problem(schema, path) for path in card.columns]
    cameras = [problem for path in card.images if (problem := camera_problem(schema, path))]
    if len(cameras) == len(card.images):
        problems += cameras
    if problems := [problem for problem in dict.fromkeys(problems) if problem]:
        raise DataSetError(f"{directory} doesn't fit the card {card.name!r}: {'; '.join(problems)}")
    for problem in cameras:
        logging.warning('%s: a camera of the card is left out: %s', directory, problem)


def camera_problem(schema: Schema, path: str) -> str:
    """Why a camera of a card can't be used; '' if it can."""
    if missing := _missing(schema, path):
        return missing
    field = schema[full_path(path)]
    if field.dtype == 'picture' and len(field.shape) == 3:
        return ''
    remedy = (
        'depth and other pictures of more than 8 bits a channel are no RGB cameras'
        if field.dtype.startswith('picture of')
        else 'a camera must be one tfds.features.Image a step (JPEG or PNG); write the set anew with one'
    )
    return f'camera {_described(schema, path)}; {remedy}'


def _flags(card: robot_card.RobotCard) -> list[str]:
    flags = [card.terminate or 'is_last'] if card.terminate_rule != 'none' else []
    return flags + ([f'/{card.success}'] if card.success else [])


def _missing(schema: Schema, path: str) -> str:
    full = full_path(path)
    if full in schema:
        return ''
    return f'there is no feature {full!r}, which the card names{nearest(full, schema)}'


def _described(schema: Schema, path: str) -> str:
    field = schema[full_path(path)]
    return f'{full_path(path)!r} is {field.dtype} {list(field.shape)}'


def _action_problem(schema: Schema, part: robot_card.ActionPart) -> str:
    if missing := _missing(schema, part.path):
        return missing
    field = schema[full_path(part.path)]
    width = 1 if not field.shape else field.shape[-1] if len(field.shape) == 1 else None
    if _is_number(field) and width is not None and width >= part.stop:
        return ''
    return (
        f'{_described(schema, part.path)}; the card takes numbers {part.start} to {part.stop - 1} of '
        'a vector from it'
    )


def _instruction_problem(schema: Schema, path: str) -> str:
    if missing := _missing(schema, path):
        return missing
    field = schema[full_path(path)]
    if field.dtype == 'text' and field.shape:
        return (
            f'the instruction {_described(schema, path)}: several texts a step; name, or write, a '
            'feature of one'
        )
    whole = field.dtype.startswith(('int', 'uint')) and field.shape and None not in field.shape
    if field.dtype == 'text' or whole:
        return ''
    return f'the instruction {_described(schema, path)}, neither text nor a vector of UTF-8 bytes'


def _number_problem(schema: Schema, path: str) -> str:
    if missing := _missing(schema, path):
        return missing
    field = schema[full_path(path)]
    fits = _is_number(field) and None not in field.shape
    return '' if fits else f'{_described(schema, path)}, no numbers of a fixed shape'


def _column_problem(schema: Schema, path: str) -> str:
    if missing := _missing(schema, path):
        return missing
    field = schema[full_path(path)]
    is_text = field.dtype == 'text' and not field.shape
    return '' if is_text else _number_problem(schema, path)


def _is_number(field: Field) -> bool:
    return field.dtype != 'text' and not field.dtype.startswith('picture')


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
        values = self._values(path)
        if None in full or values.size != np.prod(full, dtype=np.int64):
            raise ValueError(
                f'feature {path!r} has {values.size} values; {list(full)} are expected'
            )
        return values.reshape(full).astype(field.dtype)

    def steps(self, path: str) -> int:
        """The number of the episode's steps, by a numeric feature that each of them has."""
        size, row = self._values(path).size, int(np.prod(self.schema[path].shape))
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
            found = [self.payload[a:b] for a, b in self.spans(path).tolist()]
        else:
            rows = self.numbers(path, steps)
            found = [_padded_bytes(row, path) for row in (rows if steps is not None else [rows])]
        expected = 1 if steps is None else steps
        if len(found) != expected:
            raise ValueError(f'feature {path!r} has {len(found)} texts; {expected} are expected')
        try:
            return [text.decode() for text in found[kept]]
        except UnicodeDecodeError as error:
            raise ValueError(f"feature {path!r} isn't UTF-8: {error}") from error

    def _values(self, path: str) -> np.ndarray:
        field = self.schema[path]
        if field.encoding != 'none':
            return self._decoded(path, field)
        return self._feature(path, (tf_example.FLOAT_LIST, tf_example.INT64_LIST)).values

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
