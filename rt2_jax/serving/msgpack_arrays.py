"""openpi's messages: msgpack, with numpy arrays as maps whose keys are bytes.

    {b'__ndarray__': True, b'data': bytes, b'dtype': '|u1', b'shape': [H, W, 3]}
    {b'__npgeneric__': True, b'data': 3, b'dtype': '<i8'}

Clients that use the package `msgpack-numpy` write the same otherwise, and are answered so:

    {b'nd': True, b'type': '|u1', b'kind': b'', b'shape': [H, W, 3], b'data': bytes}
    {b'nd': False, b'type': '<i8', b'data': bytes}

Source: the messages of the published `openpi-client` 0.1.2 and `msgpack-numpy` 0.4.8. Unlike them,
sizes are checked before an array is made, and a message's maps and lists have a largest length.
"""

from __future__ import annotations

import functools
from typing import Any

import msgpack
import numpy as np

from rt2_jax.serving.array_fields import array_type, check_depth, check_plain, to_array

# An observation is a map of a few dozen entries; what is large in it are arrays, which are bytes.
_MOST_VALUES = 4096


def _pack(value: Any, foreign: bool = False) -> dict[bytes, Any]:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f'a message holds no {type(value).__name__}')
    check_plain(value.dtype)
    scalar, kind = isinstance(value, np.generic), value.dtype.str
    if foreign:
        shape = {} if scalar else {b'kind': b'', b'shape': value.shape}
        return {b'nd': not scalar, b'type': kind, **shape, b'data': value.tobytes()}
    if scalar:
        return {b'__npgeneric__': True, b'data': value.item(), b'dtype': kind}
    return {b'__ndarray__': True, b'data': value.tobytes(), b'dtype': kind, b'shape': value.shape}


def _openpi(fields: dict[Any, Any]) -> Any:
    if b'__ndarray__' in fields:
        data, name, shape = (fields.get(key) for key in (b'data', b'dtype', b'shape'))
        return to_array(data, name, shape)
    dtype, value = array_type(fields.get(b'dtype')), fields.get(b'data')
    if not isinstance(value, (bool, int, float, str, bytes)):
        raise ValueError(f'a scalar of type {dtype} is {type(value).__name__}')
    return dtype.type(value)


def _msgpack_numpy(fields: dict[Any, Any]) -> Any:
    # Keys are texts where the client packs with use_bin_type=False.
    fields = {key.encode() if isinstance(key, str) else key: x for key, x in fields.items()}
    data, name = fields.get(b'data'), fields.get(b'type')
    name = name.decode('ascii', 'replace') if isinstance(name, bytes) else name
    array = to_array(data, name, fields.get(b'shape') if fields[b'nd'] else [])
    return array if fields[b'nd'] else array[()]


def packb(value: Any, *, msgpack_numpy: bool = False) -> bytes:
    """A message; `msgpack_numpy` writes arrays in that package's form."""
    return msgpack.packb(value, default=functools.partial(_pack, foreign=msgpack_numpy))


def read(message: bytes) -> tuple[Any, bool]:
    """A message's content, and whether arrays came in msgpack-numpy's form.

    Raises:
      ValueError: whatever is wrong with it.
    """
    foreign = False

    def unpack(fields: dict[Any, Any]) -> Any:
        nonlocal foreign
        if b'__ndarray__' in fields or b'__npgeneric__' in fields:
            return _openpi(fields)
        if b'nd' in fields or 'nd' in fields:
            foreign = True
            return _msgpack_numpy(fields)
        return fields

    try:
        content = msgpack.unpackb(
            message,
            object_hook=unpack,
            max_array_len=_MOST_VALUES,
            max_map_len=_MOST_VALUES,
            max_ext_len=0,
        )
        check_depth(content)
        return content, foreign
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(
            f'The message is not msgpack as openpi-client sends it: {reason}'
        ) from error


def unpackb(message: bytes) -> Any:
    """A message's content; raises as `read`."""
    return read(message)[0]
