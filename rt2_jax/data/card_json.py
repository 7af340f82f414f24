"""Parts of a card from JSON, each field checked by its name and type."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from rt2_jax.data.data_errors import CardError
from rt2_jax.nearest import nearest

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
