"""The schema of an RLDS data set, and whether a card fits it.

features.json is read by tensorflow-datasets. It says of each feature its shape, its type, and
whether its tensors are stored as numbers or as bytes: raw, or compressed by zlib.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from absl import logging
from etils import epath
import numpy as np

from rt2_jax.data import robot_card
from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.readers import tfds_directory
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
    # Protobuf's maps have another order in each process.
    return dict(sorted(fields_of(tfds_directory.features(directory)).items()))


def fields_of(features: Any) -> Schema:
    """The same of a tfds.features.FeaturesDict."""
    import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top

    fields: dict[str, Field] = {}

    def walk(feature: Any, path: str) -> None:
        if isinstance(feature, tfds.features.Dataset):
            feature = feature.feature
        if isinstance(feature, tfds.features.FeaturesDict):
            for key, value in feature.items():
                walk(value, f'{path}/{key}' if path else key)
        else:
            fields.update(_fields(feature, path))

    walk(features, '')
    return fields


def _fields(feature: Any, path: str) -> dict[str, Field]:
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


def size(field: Field) -> int:
    """Numbers a step of a feature; 0 where it varies."""
    return math.prod(length or 0 for length in field.shape)


def full_path(path: str) -> str:
    """A card's path ('observation/image', '/aspects/success') as the schema has it."""
    return path[1:] if path.startswith('/') else f'steps/{path}'


def check_card(schema: Schema, card: robot_card.RobotCard, directory: epath.PathLike) -> None:
    """Compares a card with the schema, before any record is read.

    Cameras that don't fit are logged, and have no pictures in the index; one at least must fit.

    Raises:
        DataSetError: the card names what the schema lacks, or has in another form; says all of it.
    """
    problems = [_action_problem(schema, part) for part in (*card.action, *card.state)]
    problems.append(_instruction_problem(schema, card.instruction))
    problems += [_number_problem(schema, path) for path in _flags(card)]
    problems.append(_terminate_problem(schema, card))
    problems += [_column_problem(schema, path) for path in card.kept_columns]
    cameras = [problem for path in card.images if (problem := camera_problem(schema, path))]
    if len(cameras) == len(card.images):
        problems += cameras
    if problems := [problem for problem in dict.fromkeys(problems) if problem]:
        raise DataSetError(f"{directory} doesn't fit the card {card.name!r}: {'; '.join(problems)}")
    for problem in cameras:
        logging.warning('%s: a camera of the card is left out: %s', directory, problem)


def _terminate_problem(schema: Schema, card: robot_card.RobotCard) -> str:
    """A rule that would read something else in numbers of this shape, such as argmax of one number."""
    needed = {'flag': 1, 'argmax': 3}.get(card.terminate_rule, 0)
    if not needed or _missing(schema, card.terminate):
        return ''
    if size(schema[full_path(card.terminate)]) == needed:
        return ''
    return (
        f"terminate {_described(schema, card.terminate)}; the rule '{card.terminate_rule}' needs "
        f'{robot_card.TERMINATE_RULES[card.terminate_rule]}'
    )


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
