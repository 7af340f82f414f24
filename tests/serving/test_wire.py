"""The two forms of messages: the bytes of the published clients, and what is refused."""

import base64
import json

import msgpack
import numpy as np
import pytest

from rt2_jax.serving import codec

GOLDEN = bytes.fromhex(
    '81a16184c40b5f5f6e6461727261795f5fc3c40464617461c4020001c4056474797065a37c7531c40573686170659102'
)
VALUES = [
    np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
    np.array([[1.5, -2.0]], np.float32),
    np.array(3.25),
    np.zeros([0, 4], np.int64),
    np.array([True, False]),
    np.array(['pick', 'banana']),
    np.int16(-3),
]


def test_the_golden_bytes_of_openpi():
    assert codec.packb({'a': np.array([0, 1], np.uint8)}) == GOLDEN
    np.testing.assert_array_equal(codec.unpackb(GOLDEN)['a'], [0, 1])


@pytest.mark.parametrize(
    'write, read',
    [(codec.packb, codec.unpackb), (codec.dumps, codec.loads)],
    ids=['msgpack', 'json'],
)
@pytest.mark.parametrize('value', VALUES, ids=lambda value: f'{value.dtype}{list(value.shape)}')
def test_arrays_come_back_as_they_were(write, read, value):
    found = read(write({'a': value, 'b': 'text'}))
    assert found['a'].dtype == value.dtype and found['b'] == 'text'
    np.testing.assert_array_equal(found['a'], value)


def test_json_is_as_json_numpy_writes_it():
    value = {'image': np.array([[0, 1]], np.uint8)}
    assert json.loads(codec.dumps(value)) == {
        'image': {'__numpy__': base64.b64encode(b'\0\1').decode(), 'dtype': '|u1', 'shape': [1, 2]}
    }
    assert codec.loads_any(codec.dumps({'encoded': codec.dumps(value)}))[0]['image'].tolist() == [
        [0, 1]
    ]


@pytest.mark.parametrize('dtype', [object, 'V4', [('x', 'i4')], np.complex64])
def test_objects_records_and_complex_numbers_are_not_sent(dtype):
    for write in (codec.packb, codec.dumps):
        with pytest.raises(ValueError, match='not sent'):
            write({'a': np.zeros([2], dtype)})


def as_msgpack(data, dtype, shape):
    return msgpack.packb({b'__ndarray__': True, b'data': data, b'dtype': dtype, b'shape': shape})


def as_json(data, dtype, shape):
    return json.dumps(
        {'__numpy__': base64.b64encode(data).decode(), 'dtype': dtype, 'shape': shape}
    )


@pytest.mark.parametrize(
    'data, dtype, shape, says',
    [
        (b'\x80\4K\1.', '|O', [1], "'|O'"),
        (b'12345678', '|V8', [1], "'|V8'"),
        (b'12345678', '<c8', [1], "'<c8'"),
        (b'12345678', [['x', '<i8']], [1], 'plain'),
        (b'12', '|u1', [3], '3 bytes'),
        (b'12', '|u1', [2**40, 2**40], f'{2**80} bytes'),
        (b'', '|u1', [-1, 0], 'whole numbers'),
        (b'1', '|u1', [True], 'whole numbers'),
        (b'1', '|u1', 'x', 'whole numbers'),
        (b'1', '|u1', [1] * 33, 'whole numbers'),
    ],
)
def test_arrays_that_are_none_are_refused_before_they_are_made(data, dtype, shape, says):
    for read, message in (
        (codec.unpackb, as_msgpack(data, dtype, shape)),
        (codec.loads, as_json(data, dtype, shape)),
    ):
        with pytest.raises(ValueError, match='openpi-client|json_numpy') as error:
            read(message)
        assert says in str(error.value)


def test_every_truncated_message_is_refused():
    whole = codec.packb({'a': np.arange(9, dtype=np.int32), 'b': ['text', 1.5, None]})
    text = codec.dumps({'a': np.arange(9, dtype=np.int32), 'b': ['text', 1.5, None]})
    for read, message in ((codec.unpackb, whole), (codec.loads, text)):
        for length in range(len(message)):
            with pytest.raises(ValueError):
                read(message[:length])


@pytest.mark.parametrize(
    'message',
    [
        b'\x91' * 100_000,
        b'\xdd\xff\xff\xff\xff',
        b'\xc7\xff\x01' + b'x' * 255,
        b'\xa2\xff\xfe',
        msgpack.packb(list(range(5000))),
    ],
    ids=['deep', 'claims too many', 'extension', 'not UTF-8', 'too many'],
)
def test_hostile_msgpack_is_refused(message):
    with pytest.raises(ValueError, match='not msgpack as openpi-client'):
        codec.unpackb(message)


@pytest.mark.parametrize(
    'message', [b'[' * 100_000, b'{"a": NaN}', b'"\xff"', b'9' * 10_000], ids=lambda m: str(m[:9])
)
def test_hostile_json_is_refused(message):
    with pytest.raises(ValueError, match='not JSON as json_numpy'):
        codec.loads(message)
