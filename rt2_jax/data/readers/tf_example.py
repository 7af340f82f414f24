"""Where the values of a serialised tf.train.Example lie, without copying the large ones.

The indexer needs the byte position of every encoded image inside a record, which protobuf's own
classes don't tell. This walks the wire format (protobuf.dev/programming-guides/encoding) of

    Example  { Features features = 1; }
    Features { map<string, Feature> feature = 1; }
    Feature  { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; }

with `value` = field 1 of each list, floats and integers packed or not.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

# A bytes feature is its values' [start, end) spans, int64 [N, 2]; others are the values themselves.
BYTES_LIST, FLOAT_LIST, INT64_LIST = 1, 2, 3


class Feature:
    """One feature of an Example.

    Attributes:
        kind: BYTES_LIST, FLOAT_LIST, INT64_LIST, or 0 for an empty feature.
        values: spans int64 [N, 2] into the buffer, float32 [N] or int64 [N].
    """

    __slots__ = ('kind', 'values')

    def __init__(self, kind: int, values: np.ndarray) -> None:
        self.kind = kind
        self.values = values


def parse(buffer: bytes, names: Container[str] | None = None) -> dict[str, Feature]:
    """Features by name of one serialised tf.train.Example.

    Args:
        buffer: the Example.
        names: the features wanted; all by default. What others hold isn't looked at.

    Raises:
        ValueError: if `buffer` isn't one.
    """
    features: dict[str, Feature] = {}
    try:
        for number, start, end in _messages(buffer, 0, len(buffer)):
            if number != 1:
                continue
            for entry, entry_start, entry_end in _messages(buffer, start, end):
                if entry == 1:
                    name, value = _map_entry(buffer, entry_start, entry_end)
                    if names is None or name in names:
                        features[name] = _feature(buffer, *value)
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError(f'not a tf.train.Example: {error}') from error
    return features


def _varint(buffer: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f'not a tf.train.Example: endless varint at byte {at} of the record')


def _messages(buffer: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields (field number, start, end) of the length-delimited fields; skips the others."""
    while at < end:
        key, at = _varint(buffer, at)
        wire = key & 7
        if wire == BYTES:
            length, at = _varint(buffer, at)
            if at + length > end:
                raise ValueError(
                    f'not a tf.train.Example: a field of {length} bytes at byte {at} of the record '
                    f"reaches past its message's end at {end}"
                )
            yield key >> 3, at, at + length
            at += length
        elif wire == VARINT:
            _, at = _varint(buffer, at)
        elif wire == FIXED64:
            at += 8
        elif wire == FIXED32:
            at += 4
        else:
            raise ValueError(
                f'not a tf.train.Example: wire type {wire} at byte {at - 1} of the record'
            )


def _map_entry(buffer: bytes, start: int, end: int) -> tuple[str, tuple[int, int]]:
    name, value = '', (end, end)
    for number, at, stop in _messages(buffer, start, end):
        if number == 1:
            name = buffer[at:stop].decode()
        elif number == 2:
            value = (at, stop)
    return name, value


def _feature(buffer: bytes, start: int, end: int) -> Feature:
    feature = Feature(0, np.zeros([0], np.int64))
    for kind, list_start, list_end in _messages(buffer, start, end):
        feature = _value_list(buffer, kind, list_start, list_end)
    return feature


def _value_list(buffer: bytes, kind: int, start: int, end: int) -> Feature:
    if kind == BYTES_LIST:
        spans = [(at, stop) for number, at, stop in _messages(buffer, start, end) if number == 1]
        return Feature(kind, np.asarray(spans, np.int64).reshape(-1, 2))
    if kind == FLOAT_LIST:
        return Feature(kind, _floats(buffer, start, end))
    if kind == INT64_LIST:
        return Feature(kind, _integers(buffer, start, end))
    raise ValueError(f'not a tf.train.Example: unknown kind of feature {kind}')


def _floats(buffer: bytes, at: int, end: int) -> np.ndarray:
    parts = []
    while at < end:
        key, at = _varint(buffer, at)
        length = 4
        if key & 7 == BYTES:
            length, at = _varint(buffer, at)
        if at + length > end or length % 4:
            raise ValueError('not a tf.train.Example: a float list of a broken length')
        parts.append(np.frombuffer(buffer, '<f4', length // 4, at))
        at += length
    return np.concatenate(parts) if parts else np.zeros([0], np.float32)


def _integers(buffer: bytes, at: int, end: int) -> np.ndarray:
    parts = []
    while at < end:
        key, at = _varint(buffer, at)
        if key & 7 == BYTES:
            length, at = _varint(buffer, at)
            if at + length > end:
                raise ValueError('not a tf.train.Example: an integer list of a broken length')
            parts.append(_packed_varints(np.frombuffer(buffer, np.uint8, length, at)))
            at += length
        else:
            value, at = _varint(buffer, at)
            parts.append(np.array([value], np.uint64).view(np.int64))
    return np.concatenate(parts) if parts else np.zeros([0], np.int64)


def _packed_varints(data: np.ndarray) -> np.ndarray:
    """Varints in `data` uint8 [bytes] -> int64 [N]."""
    last = data < 0x80
    if last.all():
        return data.astype(np.int64)
    if not last[-1]:
        raise ValueError('not a tf.train.Example: an integer list ends within a number')
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    position = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
    parts = (data & 0x7F).astype(np.uint64) << (7 * position).astype(np.uint64)
    return np.bitwise_or.reduceat(parts, starts).view(np.int64)
