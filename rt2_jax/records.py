"""Reads JSON back from disk; errors name the file and what is damaged, missing or unknown in it.

A field that an older version did not write takes its default, where that is certain. A field that this
version doesn't know may change the meaning of the others, so it is an error.
"""

from __future__ import annotations

from collections.abc import Iterable
import json
import os
from typing import Any

from etils import epath

import rt2_jax
from rt2_jax.errors import UserError


class RecordError(UserError, ValueError):
    """A file isn't the JSON that it should be."""


def parse(text: str | bytes, where: epath.PathLike, error: type[UserError] = RecordError) -> Any:
    """Parses a JSON text.

    Args:
        text: UTF-8 where it is bytes.
        where: the file, or another name for the message.
        error: the class of the error to raise.

    Raises:
        UserError: of the class `error`; the text is not JSON, not UTF-8, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as cause:
        raise error(f'{os.fspath(where)} is damaged: its brackets are nested too deeply') from cause
    except ValueError as cause:
        raise error(f'{os.fspath(where)} is damaged: {cause}') from cause


def read(path: epath.Path, error: type[UserError] = RecordError) -> Any:
    """Reads a JSON file; raises as `parse`, and OSError where it cannot be read."""
    return parse(path.read_bytes(), path, error)


def check_fields(
    record: Any,
    required: Iterable[str],
    optional: Iterable[str],
    where: epath.PathLike,
    error: type[UserError] = RecordError,
    written_by: str = '',
) -> None:
    """Raises if a record lacks a field, or has one that this version doesn't know.

    Args:
        record: the content of the file.
        required: names of fields that every version wrote.
        optional: names of other fields. Dots separate the levels of nested names, here and in `required`.
        where: the file.
        error: the class of the error to raise.
        written_by: the version of rt2_jax that wrote the file, if known.

    Raises:
        UserError: of the class `error`.
    """
    required, where = list(required), os.fspath(where)
    if not isinstance(record, dict):
        raise error(f'{where} must hold an object with {", ".join(required)}')
    if missing := [name for name in required if name not in record]:
        raise error(f'{where} lacks {", ".join(missing)}')
    refuse_unknown(set(record) - {*required, *optional}, where, error, written_by)


def refuse_unknown(
    names: Iterable[str],
    where: epath.PathLike,
    error: type[UserError] = RecordError,
    written_by: str = '',
) -> None:
    """Raises if `names` of unknown fields are not empty; other arguments as in `check_fields`."""
    if names := sorted(names):
        writer = f'rt2_jax {written_by}' if written_by else 'another version of rt2_jax'
        raise error(
            f'{os.fspath(where)} has {", ".join(names)}, which rt2_jax {rt2_jax.__version__} does not know; '
            f'it was written by {writer}: use that version, or take the field out'
        )


def written_by(folder: epath.Path, error: type[UserError] = RecordError) -> str:
    """The version of rt2_jax that wrote a folder, from its versions.json; '' where it has none."""
    path = folder / 'versions.json'
    versions = read(path, error) if path.exists() else {}
    return versions.get('rt2_jax', '') if isinstance(versions, dict) else ''
