"""OpenVLA's messages: JSON, with numpy arrays as `json_numpy` writes them.

    {"__numpy__": BASE64, "dtype": "|u1", "shape": [H, W, 3]}

Source: OpenVLA's vla-scripts/deploy.py and the published `json_numpy` 2.1. Where a client sends
`{"encoded": TEXT}`, the text is such JSON once more, and so is the answer.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import numpy as np

from rt2_jax.serving.array_fields import array_size, array_type, check_depth, check_plain, to_array


def _default(value: Any) -> dict[str, Any]:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f'a message holds no {type(value).__name__}')
    check_plain(value.dtype)
    return {
        '__numpy__': base64.b64encode(value.tobytes()).decode(),
        'dtype': value.dtype.str,
        'shape': value.shape,
    }


def _array(found: dict[str, Any]) -> Any:
    if '__numpy__' not in found:
        return found
    text, name, shape = (found.get(key) for key in ('__numpy__', 'dtype', 'shape'))
    needed = array_size(array_type(name), shape)
    if not isinstance(text, str) or len(text) != 4 * -(-needed // 3):
        raise ValueError(
            f'an array of type {name} and shape {shape} has {needed} bytes, which are '
            f'{4 * -(-needed // 3)} characters of base64; '
            + (f'{len(text)} came' if isinstance(text, str) else f'{type(text).__name__} came')
        )
    return to_array(base64.b64decode(text, validate=True), name, shape)


def _no_constant(name: str) -> None:
    raise ValueError(f'{name} is no JSON')


def dumps(value: Any) -> str:
    """JSON of a value with arrays in it."""
    return json.dumps(value, default=_default)


def loads(text: bytes | str) -> Any:
    """A message's content.

    Raises:
      ValueError: whatever is wrong with it.
    """
    try:
        content = json.loads(text, object_hook=_array, parse_constant=_no_constant)
        check_depth(content)
        return content
    except (ValueError, TypeError, RecursionError, binascii.Error) as error:
        deep = isinstance(error, RecursionError)
        reason = 'its maps and lists are nested thousands deep' if deep else error
        raise ValueError(f'The message is not JSON as json_numpy writes it: {reason}') from error


def doubly_encoded(message: Any) -> bool:
    """Whether a message is {"encoded": TEXT}."""
    return isinstance(message, dict) and 'encoded' in message


def inner(message: dict[str, Any]) -> Any:
    """What a doubly encoded message holds; ValueError as `loads`."""
    if set(message) != {'encoded'} or not isinstance(message['encoded'], str):
        raise ValueError('A message with "encoded" holds that text and nothing else.')
    return loads(message['encoded'])
