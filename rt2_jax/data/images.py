"""Encoded picture -> pixels -> the model's frame size: one path for training and for inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import simplejpeg

from rt2_jax.data.data_errors import lfs_remedy

JPEG_MAGIC = b'\xff\xd8\xff'
PNG_MAGIC = b'\x89PNG\r\n\x1a\n'

# Up to here, linear weights come as near to an ideal filter as averages of areas (tests/data/test_images.py)
# and take a fifth of their time.
_LINEAR_SHRINK = 1.5

# The data pipeline has its own threads; OpenCV's pool beside them only costs.
cv2.setNumThreads(0)


def decode(encoded: bytes) -> np.ndarray:
    """JPEG, PNG or WebP bytes -> uint8 [H, W, 3], RGB.

    Raises:
        ValueError: for bytes that are none, that are damaged, or a PNG of 16 bits a channel, which
            is how depth is stored: cut to 8 bits it would be nearly black.
    """
    if encoded[:3] == JPEG_MAGIC:
        height, width, *_ = simplejpeg.decode_jpeg_header(encoded)
        # Rows that begin at multiples of 32 bytes libjpeg-turbo writes past the processor's caches,
        # and whoever reads them next must fetch them: decoding and resizing then take an eighth longer.
        # Memory begins at multiples of 16.
        memory = np.empty([height * width * 3 + 1], np.uint8)[1:]
        return simplejpeg.decode_jpeg(encoded, colorspace='RGB', buffer=memory)
    if encoded[:8] == PNG_MAGIC:
        # The header's bit depth and colour type (RFC 2083, 11.2.1).
        if encoded[24:25] == b'\x10':
            kind = 'grey, as depth is stored' if encoded[25:26] == b'\x00' else 'colour'
            raise ValueError(
                f'a PNG of 16 bits a channel ({kind}) is no picture of a camera: name a camera of '
                '8 bits, or convert it to them'
            )
        return _decoded_by_opencv(encoded, 'PNG')
    if is_webp(encoded):
        return _decoded_by_opencv(encoded, 'WebP')
    raise ValueError(
        lfs_remedy(encoded)
        or f'{len(encoded)} bytes starting with {encoded[:8]!r} are neither a JPEG nor a PNG nor a WebP'
    )


def _decoded_by_opencv(encoded: bytes, kind: str) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError(f'a {kind} of {len(encoded)} bytes cannot be decoded: it is damaged')
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def is_webp(encoded: bytes) -> bool:
    """Whether these are the bytes of a WebP picture."""
    return encoded[:4] == b'RIFF' and encoded[8:12] == b'WEBP'


def webp_size(encoded: bytes) -> tuple[int, int]:
    """Height and width of a WebP picture in pixels, from its header (RFC 9649, section 2).

    Raises:
        ValueError: the header is broken.
    """
    kind, number = (
        encoded[12:16],
        lambda at, count: int.from_bytes(encoded[at : at + count], 'little'),
    )
    if len(encoded) < 30:
        raise ValueError(f'picture: a WebP of {len(encoded)} bytes is truncated')
    if kind == b'VP8X':
        return number(27, 3) + 1, number(24, 3) + 1
    if kind == b'VP8L':
        bits = number(21, 4)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b'VP8 ':
        return number(28, 2) & 0x3FFF, number(26, 2) & 0x3FFF
    raise ValueError(f'picture: a WebP with an unknown chunk {kind!r}')


def encode_jpeg(pixels: np.ndarray, quality: int = 95) -> bytes:
    """uint8 [H, W, 3], RGB -> JPEG bytes."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=quality, colorspace='RGB', colorsubsampling='444'
    )


def resize(frames: np.ndarray, size: int, out: np.ndarray | None = None) -> np.ndarray:
    """Frames uint8 [..., H, W, 3] -> uint8 [..., size, size, 3], written to contiguous `out` if given.

    Interpolates linearly; averages over areas where the frame shrinks to less than two thirds, which
    linear weights would alias. The aspect ratio isn't kept, as in RT-1. Frames of the right size
    come back as they are.
    Robots' frames at inference must pass through this same function.
    """
    if frames.dtype != np.uint8 or frames.ndim < 3 or frames.shape[-1] != 3:
        raise ValueError(
            f'frames must be uint8 [..., H, W, 3]; got {frames.dtype} {list(frames.shape)}'
        )
    height, width = frames.shape[-3:-1]
    same = (height, width) == (size, size)
    if same and out is None:
        return frames
    if out is None:
        out = np.empty((*frames.shape[:-3], size, size, 3), np.uint8)
    elif out.shape != (*frames.shape[:-3], size, size, 3) or not out.flags.c_contiguous:
        raise ValueError(
            f'out must be contiguous {[*frames.shape[:-3], size, size, 3]}; got {list(out.shape)}'
        )
    if same:
        out[...] = frames
        return out
    shrinks = min(height, width) >= size and max(height, width) > _LINEAR_SHRINK * size
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    pairs = zip(frames.reshape(-1, height, width, 3), out.reshape(-1, size, size, 3), strict=True)
    for frame, resized in pairs:
        cv2.resize(frame, (size, size), dst=resized, interpolation=method)
    return out


def of_one_size(frames: Sequence[np.ndarray], like: int = -1) -> np.ndarray:
    """Frames uint8 [H, W, 3] as one array [F, H, W, 3], in the size of frame `like`, by default the last."""
    if len(frames) == 1:
        return frames[0][None]
    height, width = frames[like].shape[:2]
    if all(frame.shape == frames[like].shape for frame in frames):
        return np.stack(frames)
    method = lambda frame: cv2.INTER_AREA if frame.shape[0] > height else cv2.INTER_LINEAR
    return np.stack(
        [cv2.resize(frame, (width, height), interpolation=method(frame)) for frame in frames]
    )


def observed(image: Any) -> np.ndarray:
    """What a robot sends, to frames uint8 [F, H, W, 3], oldest first.

    Args:
        image: uint8 [H, W, 3] or [F, H, W, 3] RGB, JPEG or PNG bytes, or a list of either.

    Raises:
        ValueError: anything else.
    """
    if isinstance(image, bytes):
        image = decode(image)
    elif isinstance(image, (list, tuple)):
        image = [decode(x) if isinstance(x, bytes) else x for x in image]
        shapes = {np.shape(x) for x in image}
        if len(shapes) > 1:
            raise ValueError(f'The frames of one observation differ in shape: {sorted(shapes)}.')
    image = np.asarray(image)
    if image.dtype != np.uint8:
        raise ValueError(f'An image must be uint8 RGB, 0..255; got {_why_no_image(image)}')
    frames = image[None] if image.ndim == 3 else image
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f'An image must be [H, W, 3] or [F, H, W, 3]; got {list(frames.shape)}.')
    return frames


def _why_no_image(image: np.ndarray) -> str:
    """What an array of another type than uint8 is likely to be, and what to do."""
    if not np.issubdtype(image.dtype, np.number) or not np.isfinite(image).all():
        return f'{image.dtype} with values that are NaN, infinite or no numbers.'
    if (
        np.issubdtype(image.dtype, np.integer)
        or image.shape[-1:] != (3,)
        or image.max(initial=0) > 1
    ):
        return (
            f'{image.dtype} {list(image.shape)} with values up to {image.max(initial=0):g}. Round '
            "colours to uint8 first; depth is no picture: send the camera's colours."
        )
    return f'{image.dtype}. Scale and round it first, e.g. (255 * image).round().astype(np.uint8).'
