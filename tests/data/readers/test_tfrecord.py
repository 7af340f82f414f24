"""TFRecord framing and the tf.train.Example walker, against protobuf's own classes."""

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from rt2_jax.data.readers import tf_example, tfrecord


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'records'
    with open(path, 'wb') as file:
        for payload in (b'first', b'', b'x' * 1000):
            tfrecord.write_record(file, payload)
    return path


def test_known_checksum():
    # RFC 3720, appendix B.4: 32 bytes of zeros.
    assert tfrecord.checksum(bytes(32)) == 0x8A9136AA
    # The header that TensorFlow itself writes for a record of 5 bytes.
    assert tfrecord.masked(tfrecord.checksum((5).to_bytes(8, 'little'))) == 0x3E04B2EA


def test_round_trip(path):
    records = list(tfrecord.scan(path))
    assert [r.payload for r in records] == [b'first', b'', b'x' * 1000]
    assert [r.offset for r in records] == [0, 21, 37]
    framing = list(tfrecord.scan(path, payloads=False))
    assert [r.stored_checksum for r in framing] == [r.stored_checksum for r in records]


@pytest.mark.parametrize('position', range(0, 37 + 16 + 1000, 13))
def test_every_flipped_byte_is_named(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(bytes(data))
    errors = [r.error for r in tfrecord.scan(path) if r.error]
    expected = max(start for start in (0, 21, 37) if start <= position)
    assert [e.offset for e in errors] == [expected]
    assert str(path) in str(errors[0]) and f'byte {expected}' in str(errors[0])


@pytest.mark.parametrize('size', [5, 12, 20, 30, 40, 500, 1052])
def test_truncation_is_named(path, size):
    path.write_bytes(path.read_bytes()[:size])
    *whole, last = tfrecord.scan(path)
    assert all(r.error is None for r in whole)
    assert 'truncated' in str(last.error)
    assert last.error.offset == max(start for start in (0, 21, 37) if start <= size)


def test_a_bad_payload_leaves_the_next_records_readable(path):
    data = bytearray(path.read_bytes())
    data[14] ^= 1
    path.write_bytes(bytes(data))
    first, *others = tfrecord.scan(path)
    assert first.error is not None
    assert [r.payload for r in others] == [b'', b'x' * 1000]


def test_parse_agrees_with_protobuf():
    example = tf_example_pb2.Example()
    features = example.features.feature
    numbers = [0, 1, 127, 128, 300, 2**40, 2**63 - 1, -1, -(2**63)]
    features['ints'].int64_list.value.extend(numbers)
    features['small'].int64_list.value.extend([1, 0, 1])
    features['floats'].float_list.value.extend([0.5, -2.0, float('nan')])
    features['bytes'].bytes_list.value.extend([b'', b'abc', bytes(300)])
    features['a/nested/näme'].bytes_list.value.append(b'q')
    features['nothing'].SetInParent()
    buffer = example.SerializeToString()
    parsed = tf_example.parse(buffer)
    assert set(parsed) == set(features)
    assert parsed['ints'].values.tolist() == numbers
    assert parsed['small'].values.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(parsed['floats'].values, np.float32([0.5, -2.0, np.nan]))
    assert [buffer[a:b] for a, b in parsed['bytes'].values] == [b'', b'abc', bytes(300)]
    assert parsed['nothing'].values.size == 0


def test_unpacked_lists():
    # field 1 (value) repeated without packing, as an old writer may leave it.
    assert tf_example._integers(b'\x08\x05\x08\xac\x02', 0, 5).tolist() == [5, 300]
    packed = np.array([1.5, 2.5], '<f4').tobytes()
    unpacked = b'\x0d' + packed[:4] + b'\x0d' + packed[4:]
    assert tf_example._floats(unpacked, 0, len(unpacked)).tolist() == [1.5, 2.5]


def test_garbage_is_an_error():
    rng = np.random.default_rng(0)
    example = tf_example_pb2.Example()
    example.features.feature['a'].int64_list.value.extend([1, 2, 300])
    buffer = example.SerializeToString()
    for cut in range(1, len(buffer)):
        with pytest.raises(ValueError, match='not a tf.train.Example'):
            tf_example.parse(buffer[:cut])
    for _ in range(200):
        try:
            tf_example.parse(rng.bytes(40))
        except ValueError as error:
            assert 'not a tf.train.Example' in str(error)
