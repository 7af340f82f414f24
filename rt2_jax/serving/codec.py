"""Messages with numpy arrays in them: msgpack, as openpi's and vla-eval's clients send it, and JSON.

openpi-client 0.1.2 writes arrays and scalars as maps whose keys are bytes:

    {b'__ndarray__': True, b'data': bytes, b'dtype': '|u1', b'shape': [H, W, 3]}
    {b'__npgeneric__': True, b'data': 3, b'dtype': '<i8'}

Clients that use the package msgpack-numpy 0.4.8 write the same otherwise, and are answered so:

    {b'nd': True, b'type': '|u1', b'kind': b'', b'shape': [H, W, 3], b'data': bytes}
    {b'nd': False, b'type': '<i8', b'data': bytes}

vla-eval 0.8 (protocol/numpy_codec.py and image_codec.py) has texts as keys, numpy scalars as plain
numbers, and pictures (uint8 [H, W, C]) as PNG unless another format is chosen:

    {'__ndarray__': True, 'data': bytes, 'dtype': '<f8', 'shape': [8]}
    {'__image__': True, 'format': 'png', 'data': bytes, 'shape': [H, W, 3]}    also 'jpeg'
    {'__image__': True, 'format': 'raw', 'data': bytes, 'shape': [H, W, 3], 'dtype': '|u1'}

OpenVLA's vla-scripts/deploy.py takes JSON as json_numpy 2.1 writes it:

    {"__numpy__": BASE64, "dtype": "|u1", "shape": [H, W, 3]}

Where a client sends {"encoded": TEXT}, the text is such JSON once more, and so is the answer.
Unlike in the published packages, sizes are checked before an array is made, and maps and lists have a
largest length and depth.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
import functools
import json
import math
import re
from typing import Any

import msgpack
import numpy as np

from rt2_jax.nearest import nearest

# Booleans, integers, floats, and fixed-length bytes and text, as numpy writes them; byte order first.
# Objects (which would need pickle), records and complex numbers are no part of either protocol.
_DTYPE = re.compile(r'[<>|=](b1|[iu][1248]|f[248]|[SU]\d{1,4})')
_MAX_AXES = 8
# Of maps and lists within each other; pictures in a list of frames, as lists of numbers, have 6.
_MAX_DEPTH = 12
# An observation is a map of a few dozen entries; what is large in it are arrays, which are bytes.
_MAX_ENTRIES = 4096
_PICTURE_FORMATS = ('png', 'jpeg', 'raw')


def packb(value: Any, *, msgpack_numpy: bool = False) -> bytes:
    """A msgpack message; `msgpack_numpy` writes arrays in that package's form."""
    return msgpack.packb(value, default=functools.partial(_pack_array, msgpack_numpy=msgpack_numpy))


def unpackb(message: bytes) -> Any:
    """The content of a msgpack message; raises as `unpack_any`."""
    return unpack_any(message)[0]


def unpack_any(message: bytes) -> tuple[Any, bool]:
    """The content of a msgpack message, and whether its arrays are in msgpack-numpy's form.

    Raises:
        ValueError: whatever is wrong with it.
    """
    foreign = []

    def unpack_map(fields: dict[Any, Any]) -> Any:
        if b'__ndarray__' in fields or b'__npgeneric__' in fields:
            return _unpack_openpi(fields)
        if b'nd' in fields or 'nd' in fields:
            foreign.append(True)
            return _unpack_msgpack_numpy(fields)
        return fields

    return _unpack(message, unpack_map, 'openpi-client'), bool(foreign)


def pack_vla_eval(value: Any) -> bytes:
    """A msgpack message as vla-eval reads it; arrays are never sent as pictures."""
    return msgpack.packb(value, default=_pack_vla_eval)


def unpack_vla_eval(message: bytes) -> Any:
    """The content of vla-eval's msgpack message; pictures stay encoded, as bytes.

    Raises:
        ValueError: whatever is wrong with it, but for a picture's pixels.
    """
    return _unpack(message, _unpack_vla_eval, 'vla-eval')


def dumps(value: Any) -> str:
    """JSON of a value with arrays in it."""
    return json.dumps(value, default=_json_array)


def loads(text: bytes | str) -> Any:
    """The content of a JSON message.

    Raises:
        ValueError: whatever is wrong with it.
    """
    try:
        content = json.loads(text, object_hook=_load_map, parse_constant=_refuse_constant)
        _check_depth(content)
        return content
    except (ValueError, TypeError, RecursionError, binascii.Error) as error:
        deep = isinstance(error, RecursionError)
        reason = 'its maps and lists are nested thousands deep' if deep else error
        raise ValueError(f'The message is not JSON as json_numpy writes it: {reason}') from error


def loads_any(text: bytes) -> tuple[Any, bool]:
    """The content of a JSON message, and whether it was {"encoded": TEXT}; raises as `loads`."""
    content = loads(text)
    if not isinstance(content, dict) or 'encoded' not in content:
        return content, False
    if set(content) != {'encoded'} or not isinstance(content['encoded'], str):
        raise ValueError('A message with "encoded" holds that text and nothing else.')
    return loads(content['encoded']), True


def _unpack(message: bytes, unpack_map: Callable[[dict], Any], client: str) -> Any:
    try:
        content = msgpack.unpackb(
            message,
            object_hook=unpack_map,
            max_array_len=_MAX_ENTRIES,
            max_map_len=_MAX_ENTRIES,
            max_ext_len=0,
        )
        _check_depth(content)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f'The message is not msgpack as {client} sends it: {reason}') from error
    return content


def _pack_array(value: Any, msgpack_numpy: bool) -> dict[bytes, Any]:
    dtype, scalar = _sent_dtype(value).str, isinstance(value, np.generic)
    if msgpack_numpy:
        shape = {} if scalar else {b'kind': b'', b'shape': value.shape}
        return {b'nd': not scalar, b'type': dtype, **shape, b'data': value.tobytes()}
    if scalar:
        return {b'__npgeneric__': True, b'data': value.item(), b'dtype': dtype}
    return {b'__ndarray__': True, b'data': value.tobytes(), b'dtype': dtype, b'shape': value.shape}


def _unpack_openpi(fields: dict[Any, Any]) -> Any:
    if b'__ndarray__' in fields:
        return _to_array(*(fields.get(key) for key in (b'data', b'dtype', b'shape')))
    dtype, value = _parse_dtype(fields.get(b'dtype')), fields.get(b'data')
    if not isinstance(value, (bool, int, float, str, bytes)):
        raise ValueError(f'a scalar of type {dtype} is {type(value).__name__}')
    return dtype.type(value)


def _unpack_msgpack_numpy(fields: dict[Any, Any]) -> Any:
    # Keys are texts where the client packs with use_bin_type=False.
    fields = {key.encode() if isinstance(key, str) else key: x for key, x in fields.items()}
    data, name = fields.get(b'data'), fields.get(b'type')
    name = name.decode('ascii', 'replace') if isinstance(name, bytes) else name
    array = _to_array(data, name, fields.get(b'shape') if fields[b'nd'] else [])
    return array if fields[b'nd'] else array[()]


def _pack_vla_eval(value: Any) -> Any:
    dtype = _sent_dtype(value).str
    if isinstance(value, np.generic):
        return value.item()
    return {'__ndarray__': True, 'data': value.tobytes(), 'dtype': dtype, 'shape': value.shape}


def _unpack_vla_eval(fields: dict[Any, Any]) -> Any:
    if '__ndarray__' in fields:
        return _to_array(*(fields.get(key) for key in ('data', 'dtype', 'shape')))
    return _unpack_picture(fields) if '__image__' in fields else fields


def _unpack_picture(fields: dict[Any, Any]) -> np.ndarray | bytes:
    """Pixels that came raw, else the PNG's or JPEG's bytes."""
    name, data, shape = (fields.get(key) for key in ('format', 'data', 'shape'))
    if name not in _PICTURE_FORMATS:
        raise ValueError(
            f'a picture has the format {str(name)[:40]!r}{nearest(str(name)[:40], _PICTURE_FORMATS)}'
        )
    if not isinstance(shape, list) or len(shape) != 3 or shape[2] != 3:
        raise ValueError(f'a picture has the shape {str(shape)[:80]}; [H, W, 3], RGB, is needed')
    if name == 'raw':
        return _to_array(data, fields.get('dtype'), shape)
    if not isinstance(data, bytes):
        raise ValueError(f"a picture's data are {type(data).__name__}, not bytes")
    return data


def _json_array(value: Any) -> dict[str, Any]:
    dtype = _sent_dtype(value).str
    text = base64.b64encode(value.tobytes()).decode()
    return {'__numpy__': text, 'dtype': dtype, 'shape': value.shape}


def _load_map(fields: dict[str, Any]) -> Any:
    if '__numpy__' not in fields:
        return fields
    text, name, shape = (fields.get(key) for key in ('__numpy__', 'dtype', 'shape'))
    needed = _array_bytes(_parse_dtype(name), shape)
    if not isinstance(text, str) or len(text) != 4 * -(-needed // 3):
        raise ValueError(
            f'an array of type {name} and shape {shape} has {needed} bytes, which are '
            f'{4 * -(-needed // 3)} characters of base64; '
            + (f'{len(text)} came' if isinstance(text, str) else f'{type(text).__name__} came')
        )
    return _to_array(base64.b64decode(text, validate=True), name, shape)


def _refuse_constant(name: str) -> None:
    raise ValueError(f'{name} is no JSON')


def _parse_dtype(name: Any) -> np.dtype:
    """The type that a message names ('|u1'); ValueError for any but plain ones."""
    if not isinstance(name, str) or not _DTYPE.fullmatch(name):
        raise ValueError(
            f'an array has the type {str(name)[:40]!r}; plain booleans, integers, floats and texts '
            "are taken ('|u1', '<f4', ...), objects, records and complex numbers are not"
        )
    return np.dtype(name)


def _array_bytes(dtype: np.dtype, shape: Any) -> int:
    """Bytes of an array of this type and shape; ValueError if that is no shape."""
    whole = isinstance(shape, (list, tuple)) and all(
        isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape
    )
    if not whole or len(shape) > _MAX_AXES:
        raise ValueError(
            f'an array has the shape {str(shape)[:80]}; at most {_MAX_AXES} whole numbers of 0 or '
            'more are needed'
        )
    return math.prod(shape) * dtype.itemsize


def _to_array(data: Any, name: Any, shape: Any) -> np.ndarray:
    """A read-only array over a message's bytes (C order); ValueError if the three don't fit."""
    dtype = _parse_dtype(name)
    needed = _array_bytes(dtype, shape)
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ValueError(f"an array's data are {type(data).__name__}, not bytes")
    if len(data) != needed:
        raise ValueError(
            f'an array of type {name} and shape {list(shape)} has {needed} bytes; {len(data)} came'
        )
    return np.ndarray(buffer=data, dtype=dtype, shape=shape)


def _sent_dtype(value: Any) -> np.dtype:
    """The type of an array or scalar to be sent.

    Raises:
        TypeError: it is neither.
        ValueError: objects, records and complex numbers, which are not sent.
    """
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f'a message holds no {type(value).__name__}')
    if value.dtype.kind in 'OVc':
        raise ValueError(
            f'arrays of type {value.dtype} are not sent: only plain numbers and texts are'
        )
    return value.dtype


def _check_depth(content: Any) -> None:
    """ValueError for maps and lists nested beyond any use, on which recursion would fail."""
    level = [content] if isinstance(content, (dict, list)) else []
    for _ in range(_MAX_DEPTH):
        level = [
            entry
            for value in level
            for entry in (value.values() if isinstance(value, dict) else value)
            if isinstance(entry, (dict, list))
        ]
        if not level:
            return
    raise ValueError(f'its maps and lists are nested more than {_MAX_DEPTH} deep')
