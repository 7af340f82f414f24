"""Parts of a card from JSON, each field checked by its name and type."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

from rt2_jax.data.data_errors import CardError
from rt2_jax.nearest import nearest
from rt2_jax.text.actions import ActionSpace

# What JSON may hold for a field of these types; a field of another type is checked where it is made.
_JSON_TYPES: dict[Any, tuple[Any, str]] = {
    'str': (str, 'a text'),
    'int': (int, 'a whole number'),
    'float': ((int, float), 'a number'),
    'bool': (bool, 'true or false'),
    'tuple[str, ...]': ((list, tuple), 'a list of texts'),
}


def made(what: str, cls: type, fields: Any) -> Any:
    """An instance of a card's part; CardError names it."""
    fields = checked(what, cls, fields)
    try:
        return cls(**fields)
    except ValueError as error:
        raise CardError(f'{what}: {error}') from error


def parsed(text: str | bytes) -> Any:
    """What a JSON text holds; CardError where an object has a key twice, ValueError for no JSON."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise CardError(f'the field {", ".join(map(repr, twice))} is there twice; keep one')
        return dict(pairs)

    return json.loads(text, object_pairs_hook=once)


def space(what: str, fields: Any, default: Mapping[str, Any]) -> ActionSpace:
    """An ActionSpace of a card; CardError names it. `default` holds fields that may be left out."""
    if not isinstance(fields, Mapping):
        raise CardError(f'{what}: an object is needed, not {fields!r:.60}')
    for name, kind, words in (
        ('low', (int, float), 'a list of numbers'),
        ('high', (int, float), 'a list of numbers'),
        ('names', str, 'a list of texts'),
        ('units', str, 'a list of texts'),
    ):
        values = fields.get(name, [])
        if not isinstance(values, (list, tuple)) or not all(
            isinstance(value, kind) and not isinstance(value, bool) for value in values
        ):
            raise CardError(f'{what}: {name} must be {words}, not {values!r:.60}')
    bins = fields.get('bins', 2)
    if not isinstance(bins, int) or isinstance(bins, bool):
        raise CardError(f'{what}: bins must be a whole number, not {bins!r:.60}')
    try:
        return ActionSpace.from_json({**default, **fields})
    except (ValueError, TypeError, OverflowError) as error:
        raise CardError(f'{what}: {error}') from error


def checked(what: str, cls: type, fields: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON has them; CardError for a name or type that doesn't fit."""
    if not isinstance(fields, Mapping):
        raise CardError(f'{what}: an object is needed, not {fields!r:.60}')
    declared = {field.name: field for field in dataclasses.fields(cls)}
    for name, value in fields.items():
        if name not in declared:
            raise CardError(f'{what}: unknown field {name!r}{nearest(name, declared)}')
        kind, words = _JSON_TYPES.get(declared[name].type, (object, ''))
        wrong = not isinstance(value, kind) or (
            isinstance(value, bool) and kind not in (bool, object)
        )
        wrong |= words == 'a list of texts' and not all(isinstance(text, str) for text in value)
        if wrong:
            raise CardError(f'{what}: field {name!r} must be {words}, not {value!r:.60}')
    needed = [name for name, field in declared.items() if field.default is dataclasses.MISSING]
    if missing := [name for name in needed if name not in fields]:
        raise CardError(f'{what}: it lacks the field {", ".join(missing)}')
    return dict(fields)
