"""openpi's messages: msgpack, with numpy arrays as maps whose keys are bytes.

    {b'__ndarray__': True, b'data': bytes, b'dtype': '|u1', b'shape': [H, W, 3]}
    {b'__npgeneric__': True, b'data': 3, b'dtype': '<i8'}

Source: the messages of the published `openpi-client` 0.1.2. Unlike it, sizes are checked before an
array is made, and a message may hold a few hundred values, not as many as fit.
"""

from __future__ import annotations

import functools
from typing import Any

import msgpack
import numpy as np

from rt2_jax.serving.array_fields import array_type, check_plain, to_array

# An observation is a map of a few dozen entries; what is large in it are arrays, which are bytes.
_MOST_VALUES = 4096


def _pack(value: Any) -> dict[bytes, Any]:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f'a message holds no {type(value).__name__}')
    check_plain(value.dtype)
    if isinstance(value, np.generic):
        return {b'__npgeneric__': True, b'data': value.item(), b'dtype': value.dtype.str}
    return {
        b'__ndarray__': True,
        b'data': value.tobytes(),
        b'dtype': value.dtype.str,
        b'shape': value.shape,
    }


def _unpack(found: dict[Any, Any]) -> Any:
    if b'__ndarray__' in found:
        data, name, shape = (found.get(key) for key in (b'data', b'dtype', b'shape'))
        return to_array(data, name, shape)
    if b'__npgeneric__' in found:
        dtype, value = array_type(found.get(b'dtype')), found.get(b'data')
        if not isinstance(value, (bool, int, float, str, bytes)):
            raise ValueError(f'a scalar of type {dtype} is {type(value).__name__}')
        return dtype.type(value)
    return found


packb = functools.partial(msgpack.packb, default=_pack)


def unpackb(message: bytes) -> Any:
    """A message's content.

    Raises:
      ValueError: whatever is wrong with it.
    """
    try:
        return msgpack.unpackb(
            message,
            object_hook=_unpack,
            max_array_len=_MOST_VALUES,
            max_map_len=_MOST_VALUES,
            max_ext_len=0,
        )
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(
            f'The message is not msgpack as openpi-client sends it: {reason}'
        ) from error
