"""The pictures of an index's steps: where they are, and what is there, compared with the index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from rt2_jax.data import images, picture_files, views
from rt2_jax.data.index.episode_index import EpisodeIndex
from rt2_jax.data.robot.step_videos import VideoFrames, VideoPlace


class Place(NamedTuple):
    """Where an example's frames are, oldest first.

    Attributes:
        file: number of the file that holds them all.
        offsets: first byte of each.
        lengths: bytes of each.
        checksums: CRC-32C of each.
    """

    file: int
    offsets: list[int]
    lengths: list[int]
    checksums: list[int]


class Pictures:
    """Reads pictures, from any thread.

    Args:
        index: the opened index.
        camera: which of the card's images.

    Attributes:
        files: the files that they are read from.
    """

    def __init__(self, index: EpisodeIndex, camera: int) -> None:
        self._index, self._camera = index, camera
        self.files = picture_files.PictureFiles(index.files, index.stamps)

    def places(self, rows: np.ndarray, episodes: np.ndarray) -> list[Place]:
        """Where the frames of examples are.

        Args:
            rows: int64 [N, F], the steps that each example shows, as rows of the index's arrays.
            episodes: int64 [N], the one that these are all of.
        """
        arrays = self._index.arrays
        columns = (
            arrays[f'image_{what}'][rows, self._camera] for what in ('offset', 'length', 'checksum')
        )
        numbers = [column.tolist() for column in (arrays['episode_file'][episodes], *columns)]
        return list(map(Place, *numbers))

    def frames(self, place: Place) -> np.ndarray:
        """An example's frames, uint8 [F, H, W, 3], in the size of the newest.

        Raises:
            tfrecord.CorruptRecord: one isn't there as it was indexed.
        """
        file, offsets, lengths, checksums = place
        if len(offsets) == 1:
            (encoded,) = self.files.read(file, [(offsets[0], lengths[0])])
            return self._decode(file, offsets[0], encoded, checksums[0])[None]
        wanted = dict(zip(zip(offsets, lengths), checksums))  # a step may be shown twice
        shown = {
            span[0]: self._decode(file, span[0], encoded, wanted[span])
            for span, encoded in zip(wanted, self.files.read(file, list(wanted)))
        }
        return images.of_one_size([shown[offset] for offset in offsets])

    def _decode(self, file: int, offset: int, encoded: bytes, checksum: int) -> np.ndarray:
        return picture_files.decode(encoded, checksum, self.files.paths[file], offset)


AnyPlace: TypeAlias = Place | VideoPlace | tuple[Any, ...]  # of several cameras


class PictureReader(Protocol):
    """What Pictures and VideoFrames do."""

    files: picture_files.PictureFiles

    def places(self, rows: np.ndarray, episodes: np.ndarray) -> list[Any]:
        """Where the frames of examples are."""

    def frames(self, place: Any) -> np.ndarray:
        """An example's frames, uint8 [F, H, W, 3]."""


class TurnedColours:
    """Pictures stored as blue, green, red, read as red, green, blue.

    Args:
        pictures: reads them as they are stored.

    Attributes:
        files: the files that they are read from.
    """

    def __init__(self, pictures: PictureReader) -> None:
        self._pictures, self.files = pictures, pictures.files

    def places(self, rows: np.ndarray, episodes: np.ndarray) -> list[Any]:
        """Where the frames of examples are."""
        return self._pictures.places(rows, episodes)

    def frames(self, place: Any) -> np.ndarray:
        """An example's frames, uint8 [F, H, W, 3]."""
        return np.ascontiguousarray(self._pictures.frames(place)[..., ::-1])


class SeveralCameras:
    """The pictures of several cameras; a frame is one of each, in their order.

    Args:
        cameras: a reader of each camera's pictures.

    Attributes:
        files: the files that the first camera's are read from.
    """

    def __init__(self, cameras: Sequence[PictureReader]) -> None:
        self._cameras, self.files = cameras, cameras[0].files

    def places(self, rows: np.ndarray, episodes: np.ndarray) -> list[tuple[Any, ...]]:
        """Where the frames of examples are, by camera."""
        return list(zip(*(camera.places(rows, episodes) for camera in self._cameras), strict=True))

    def frames(self, place: tuple[Any, ...]) -> np.ndarray:
        """An example's pictures, uint8 [F * V, H, W, 3]; see `views.py`."""
        pairs = zip(self._cameras, place, strict=True)
        return views.interleave([camera.frames(part) for camera, part in pairs])


def reader_of(index: EpisodeIndex, cameras: Sequence[int]) -> PictureReader:
    """Reads the pictures of one camera of the card's images or of several; see `reader`."""
    readers = [reader(index, camera) for camera in cameras]
    return readers[0] if len(readers) == 1 else SeveralCameras(readers)


def reader(index: EpisodeIndex, camera: int) -> PictureReader:
    """Reads one camera's pictures, whether they are pictures in records or frames of videos.

    Args:
        index: the opened index.
        camera: which of the card's images.
    """
    is_video = 'packet_offset' in index.arrays
    pictures = VideoFrames(index, camera) if is_video else Pictures(index, camera)
    blue_first = index.card.images[camera] in index.card.blue_first
    return TurnedColours(pictures) if blue_first else pictures
