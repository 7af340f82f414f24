"""Writes the frames of one camera as an MP4 video, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import fractions
from typing import Any

from etils import epath
import numpy as np

from rt2_jax import paths
from rt2_jax.errors import MissingPackage

CODEC = 'libx264'
# H.264 is what every FFmpeg decodes, cheaply. All colours are kept: halving them, as players' videos
# and lerobot do, costs small robot frames 12 dB. On the tabletop's, at 128 pixels, this is as near to the
# original as JPEG of quality 95 (42.6 and 42.3 dB) at a third of the bytes. Chips that decode video mostly
# don't do it, software does. A key frame at each second frame, as lerobot writes it, makes random access
# cheap: a training frame costs two packets at most. No frame is stored ahead of its turn (bf), so that
# packets lie in the order of time. One thread, because several processes write.
PIXELS = 'yuv444p'
OPTIONS = {'crf': '18', 'g': '2', 'bf': '0', 'preset': 'fast', 'threads': '1'}


class Frames:
    """Takes the frames of a video, one after the other.

    Args:
        container: PyAV's, opened to write.
        fps: frames a second.
        size: height and width, pixels.

    Raises:
        ValueError: a rate that videos don't have.
    """

    def __init__(self, container: Any, fps: float, size: tuple[int, int]) -> None:
        self._container, self._size = container, tuple(size)
        rate = fractions.Fraction(fps).limit_denominator(1001)
        if abs(rate / fps - 1) > 1e-4:
            raise ValueError(f'a video has no frames at {fps:g} Hz: its rate would be {rate}')
        self._stream = container.add_stream(CODEC, rate=rate, options=dict(OPTIONS))
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = PIXELS

    def add(self, pixels: np.ndarray) -> None:
        """Adds a frame, uint8 [H, W, 3], RGB.

        Raises:
            ValueError: it has another size or type than the video.
        """
        import av  # pylint: disable=g-import-not-at-top

        if pixels.shape != (*self._size, 3) or pixels.dtype != np.uint8:
            raise ValueError(
                f'a frame is {pixels.dtype} {list(pixels.shape)}; the video is uint8 '
                f'{[*self._size, 3]}, as all frames of a camera must be'
            )
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format='rgb24')
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Writes what the encoder still holds."""
        self._container.mux(self._stream.encode())


@contextlib.contextmanager
def writing(path: epath.PathLike, fps: float, size: tuple[int, int]) -> Iterator[Frames]:
    """Yields what takes a video's frames; the file appears when the block ends without an error.

    Raises:
        MissingPackage: PyAV isn't installed.
        PathError: it cannot be written.
    """
    av = pyav()
    with paths.writing(paths.of(path)) as local:
        with av.open(str(local), 'w', format='mp4') as container:
            frames = Frames(container, fps, size)
            yield frames
            frames.close()


def pyav() -> Any:
    """The package that encodes.

    Raises:
        MissingPackage: it isn't installed.
    """
    try:
        import av  # pylint: disable=g-import-not-at-top
    except ImportError as error:
        raise MissingPackage('writing a LeRobot data set', 'av', 'lerobot') from error
    return av
