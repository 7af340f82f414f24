"""Bytes, type and shape of an array as a message names them, checked before anything is made of them."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

# Booleans, integers, floats, and fixed-length bytes and text, as numpy writes them; byte order first.
# Objects (which would need pickle), records and complex numbers are no part of either protocol.
_TYPE = re.compile(r'[<>|=](b1|[iu][1248]|f[248]|[SU]\d{1,4})')
_MOST_AXES = 8
# Of maps and lists within each other; pictures in a list of frames, as lists of numbers, have 6.
_MOST_DEPTH = 12


def array_type(name: Any) -> np.dtype:
    """The type that a message names ('|u1'); ValueError for any but plain ones."""
    if not isinstance(name, str) or not _TYPE.fullmatch(name):
        raise ValueError(
            f'an array has the type {str(name)[:40]!r}; plain booleans, integers, floats and texts '
            "are taken ('|u1', '<f4', ...), objects, records and complex numbers are not"
        )
    return np.dtype(name)


def array_size(dtype: np.dtype, shape: Any) -> int:
    """Bytes that an array of this type and shape has; ValueError if that is no shape."""
    whole = isinstance(shape, (list, tuple)) and all(
        isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape
    )
    if not whole or len(shape) > _MOST_AXES:
        raise ValueError(
            f'an array has the shape {str(shape)[:80]}; at most {_MOST_AXES} whole numbers of 0 or '
            'more are needed'
        )
    return math.prod(shape) * dtype.itemsize


def to_array(data: Any, name: Any, shape: Any) -> np.ndarray:
    """The array of a message, read-only, over its bytes.

    Args:
      data: its bytes in C order.
      name: of its type.
      shape: list of whole numbers.

    Raises:
      ValueError: for a type that is not plain, no shape, or bytes that don't fit the two.
    """
    dtype = array_type(name)
    needed = array_size(dtype, shape)
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ValueError(f"an array's data are {type(data).__name__}, not bytes")
    if len(data) != needed:
        raise ValueError(
            f'an array of type {name} and shape {list(shape)} has {needed} bytes; {len(data)} came'
        )
    return np.ndarray(buffer=data, dtype=dtype, shape=shape)


def check_plain(dtype: np.dtype) -> None:
    """ValueError for a type that is not sent: objects, records, complex numbers."""
    if dtype.kind in 'OVc':
        raise ValueError(f'arrays of type {dtype} are not sent: only plain numbers and texts are')


def check_depth(content: Any) -> None:
    """ValueError for maps and lists within each other beyond any use, on which recursion would fail."""
    level = [content] if isinstance(content, (dict, list)) else []
    for _ in range(_MOST_DEPTH):
        level = [
            entry
            for value in level
            for entry in (value.values() if isinstance(value, dict) else value)
            if isinstance(entry, (dict, list))
        ]
        if not level:
            return
    raise ValueError(f'its maps and lists are nested more than {_MOST_DEPTH} deep')
