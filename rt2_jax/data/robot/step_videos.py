"""The pictures of an index's steps where they are frames of videos (readers/video_packets)."""

from __future__ import annotations

from collections.abc import Iterator
import itertools
import operator
from typing import NamedTuple

import numpy as np

from rt2_jax.data import images, picture_files
from rt2_jax.data.data_errors import CorruptFrame, CorruptRecord
from rt2_jax.data.index.episode_index import EpisodeIndex
from rt2_jax.data.readers import video_packets


class VideoPlace(NamedTuple):
    """Where an example's frames are, oldest first.

    Attributes:
        file: number of the video that holds them all.
        codec: row of its codec in the index's texts.
        packets: row of each one's own packet in the index's arrays.
        times: of each, seconds from the start of the video.
    """

    file: int
    codec: int
    packets: list[int]
    times: list[float]


class VideoFrames:
    """Reads frames, from any thread; as step_pictures.Pictures does.

    Args:
        index: the opened index.
        camera: which of the card's images.

    Attributes:
        files: the videos that they are read from.
    """

    def __init__(self, index: EpisodeIndex, camera: int) -> None:
        self._index, self._camera = index, camera
        self.files = picture_files.PictureFiles(index.files, index.stamps)

    def places(self, rows: np.ndarray, episodes: np.ndarray) -> list[VideoPlace]:
        """Where the frames of examples are.

        Args:
            rows: int64 [N, F], the steps that each example shows, as rows of the index's arrays.
            episodes: int64 [N], the one that these are all of.
        """
        arrays = self._index.arrays
        first = arrays['episode_packet'][episodes]
        columns = (
            arrays['episode_video'][episodes, self._camera],
            arrays['episode_codec'][episodes, self._camera],
            arrays['image_packet'][rows, self._camera] + first[:, None],
            arrays['image_time'][rows, self._camera],
        )
        return list(map(VideoPlace, *(column.tolist() for column in columns)))

    def frames(self, place: VideoPlace) -> np.ndarray:
        """An example's frames, uint8 [F, H, W, 3], in the size of the newest.

        Raises:
            CorruptFrame: one isn't there as it was indexed, or can't be decoded.
        """
        times = dict(zip(place.packets, place.times, strict=True))  # a step may be shown twice
        shown: dict[int, np.ndarray] = {}
        for run in self._runs(sorted(times)):
            shown |= self._decoded(place, run, times[run[0]])
        return images.of_one_size([shown[packet] for packet in place.packets])

    def _runs(self, packets: list[int]) -> Iterator[list[int]]:
        """Packets in runs, within each of which decoding begins at one place."""
        backs = self._index.arrays['packet_back']
        begins = [packet - int(backs[packet]) for packet in packets]
        for _, run in itertools.groupby(zip(packets, begins), operator.itemgetter(1)):
            yield [packet for packet, _ in run]

    def _decoded(self, place: VideoPlace, run: list[int], time: float) -> dict[int, np.ndarray]:
        """The frames of a run of packets, the first of which is shown at `time`."""
        arrays = self._index.arrays
        begin = run[0] - int(arrays['packet_back'][run[0]])
        stretch = slice(begin, run[-1] + 1)
        offsets, lengths, checksums = (
            arrays[f'packet_{name}'][stretch].tolist() for name in ('offset', 'length', 'checksum')
        )
        path = self.files.paths[place.file]
        try:
            packets = self.files.read(place.file, list(zip(offsets, lengths, strict=True)))
            for data, checksum, offset in zip(packets, checksums, offsets, strict=True):
                picture_files.check(data, checksum, path, offset)
            wanted = [packet - begin for packet in run]
            decoded = video_packets.decode(self._index.texts[place.codec], packets, wanted)
        except CorruptRecord as error:
            raise CorruptFrame(path, time, f'{error.reason} (byte {error.offset})') from error
        except ValueError as error:
            raise CorruptFrame(path, time, str(error)) from error
        return {begin + number: frame for number, frame in decoded.items()}
