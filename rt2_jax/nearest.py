"""The nearest valid name, for error messages about a mistyped one."""

from collections.abc import Collection, Iterable, Mapping
import difflib
from typing import Any

from etils import epath


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns the tail of an error message: the closest valid name and the list of all.

    >>> nearest('sen', ['seen', 'emergent'])
    "; did you mean 'seen'? Valid: emergent, seen"
    """
    valid = sorted(valid)
    if not valid:
        return '; there is none'
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    hint = f'; did you mean {close[0]!r}?' if close else '.'
    return f'{hint} Valid: {", ".join(valid)}'


def beside(path: epath.PathLike) -> str:
    """As `nearest`, for a directory that isn't there: those beside it are the valid names."""
    parent = epath.Path(path).parent
    names = [other.name for other in parent.iterdir() if other.is_dir()] if parent.exists() else []
    return nearest(epath.Path(path).name, names) if names else ''


def check(what: str, name: str, valid: Iterable[str]) -> str:
    """Returns `name`; raises ValueError with the nearest valid one if it is none of `valid`."""
    valid = tuple(valid)
    if name not in valid:
        raise ValueError(f'Unknown {what} {name!r}{nearest(name, valid)}')
    return name


def closest(name: str, valid: Iterable[str]) -> str:
    """As `nearest` where the valid names are too many to list: "; did you mean 'seen'?" or ''."""
    close = difflib.get_close_matches(str(name), list(valid), n=1, cutoff=0.5)
    return f'; did you mean {close[0]!r}?' if close else ''


def check_fields(
    path: str, fields: Mapping[str, Any], valid: Collection[str], required: Collection[str] = ()
) -> dict[str, Any]:
    """Returns the fields of a part of a config.

    Args:
        path: dotted name of the part, such as 'config.data.robot.NAME'.
        fields: its fields.
        valid: names that it may have.
        required: names that it must have.

    Raises:
        ValueError: names the unknown field with its path and the nearest valid name, or what is missing.
    """
    for name in fields:
        if name not in valid:
            raise ValueError(f'{path}.{name}: there is no such field{nearest(name, valid)}')
    if missing := [name for name in required if name not in fields]:
        raise ValueError(f'{path} lacks {", ".join(missing)}')
    return dict(fields)
