"""Decoding and resizing: what comes out, and how near it is to the ideal."""

import cv2
import jax
import numpy as np
import pytest

from rt2_jax.benchmarks import kitchen
from rt2_jax.data import images


def test_resize():
    frames = np.zeros([2, 4, 4, 3], np.uint8)
    frames[:, ::2] = 200
    assert (images.resize(frames, 2) == 100).all()
    assert images.resize(frames, 4) is frames
    assert images.resize(frames[0], 8).shape == (8, 8, 3)
    with pytest.raises(ValueError, match='uint8'):
        images.resize(frames.astype(np.float32), 2)
    with pytest.raises(ValueError, match='neither a JPEG nor a PNG'):
        images.decode(b'GIF89a')


@pytest.mark.parametrize('size', [2, 4, 8])
def test_resize_into_a_batch(size):
    frames = np.random.default_rng(0).integers(0, 256, [2, 4, 4, 3], np.uint8)
    batch = np.zeros([3, 2, size, size, 3], np.uint8)
    assert np.shares_memory(images.resize(frames, size, batch[1]), batch)
    np.testing.assert_array_equal(batch[1], images.resize(frames, size))
    assert not batch[[0, 2]].any()
    with pytest.raises(ValueError, match='out must be contiguous'):
        images.resize(frames, size, batch[1, :, ::-1])


@pytest.fixture(scope='module')
def frames():
    return [images.decode(encoded) for encoded in kitchen.frames(4)]


def nearness(frames, shape, size, method=None):
    """PSNR in dB, on average, against the ideal: Lanczos with antialiasing, as JAX has it."""
    found = []
    for frame in frames:
        frame = frame[: shape[0], : shape[1]]
        ideal = jax.image.resize(frame.astype(np.float32), (size, size, 3), 'lanczos3')
        if method is None:
            resized = images.resize(frame, size)
        else:
            resized = cv2.resize(frame, (size, size), interpolation=method)
        found.append(np.mean((resized - np.clip(ideal, 0, 255)) ** 2))
    return np.mean(10 * np.log10(255**2 / np.array(found)))


@pytest.mark.parametrize('shape,size', [((256, 320), 224), ((256, 320), 256), ((128, 128), 96)])
def test_a_small_shrink_is_as_near_to_the_ideal_as_averages_of_areas(frames, shape, size):
    assert nearness(frames, shape, size) > nearness(frames, shape, size, cv2.INTER_AREA) - 0.5 > 30


def test_a_large_shrink_does_not_alias(frames):
    assert nearness(frames, (256, 256), 96) > nearness(frames, (256, 256), 96, cv2.INTER_LINEAR) + 3


@pytest.mark.parametrize('width', [320, 37])
def test_decoded_rows_do_not_begin_where_they_would_miss_the_caches(frames, width):
    encoded = images.encode_jpeg(frames[0][:, :width])
    decoded = images.decode(encoded)
    assert decoded.shape == (256, width, 3) and decoded.flags.c_contiguous
    rows = decoded.ctypes.data + np.arange(256) * decoded.strides[0]
    assert (rows % 32 == 0).mean() < 0.05
