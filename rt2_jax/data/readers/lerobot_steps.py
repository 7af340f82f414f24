"""The steps of a LeRobot data set's episodes: numbers and texts from tables, frames from videos."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
import os

from etils import epath
import numpy as np

from rt2_jax.data import files
from rt2_jax.data.data_errors import CorruptFrame
from rt2_jax.data.index.episode_columns import Frames
from rt2_jax.data.readers import lerobot_directory, video_packets
from rt2_jax.data.readers.lerobot_directory import EpisodeFiles, Layout
from rt2_jax.data.readers.video_packets import VideoPackets

# What a card's path may name beside LeRobot's features: the text of a step's task, and the last step.
TASK, IS_LAST = 'task', 'is_last'
# Columns of every table, that say which step a row is.
KEYS = ('episode_index', 'frame_index', 'timestamp', 'task_index')
_TOGETHER = 128  # pictures that are decoded at a time
# Seconds that the time from step to step may differ from 1/fps: lerobot 0.3.3, check_timestamps_sync.
_TOLERANCE = 1e-4


class StepReader:
    """Reads what is stored of episodes.

    The table and the videos of the last episode are kept, for the next one is often in them, too.

    Args:
        directory: the data set, local or remote.
        cameras: features of pictures; those that are no videos have none.
        columns: features of numbers and texts.
        layout: what its folder `meta` says.
        numbers: of its files, by name.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        cameras: Sequence[str],
        columns: Collection[str],
        layout: Layout,
        numbers: Mapping[str, int],
    ) -> None:
        self._folder, self._views = files.path(directory), len(cameras)
        self._layout, self._numbers = layout, numbers
        video = lambda path: layout.features.get(path, {}).get('dtype') == 'video'
        self._cameras = [number for number, path in enumerate(cameras) if video(path)]
        made = {TASK} if IS_LAST in layout.features else {TASK, IS_LAST}
        self._columns = {*KEYS, *columns} - made
        self._table: tuple[str, dict[str, np.ndarray] | str] = ('', '')
        self._videos: dict[int, tuple[str, VideoPackets | CorruptFrame]] = {}

    def steps(self, episode: EpisodeFiles) -> dict[str, np.ndarray]:
        """The columns of an episode's steps, [T, ...] each, texts as objects; TASK and IS_LAST among them.

        Raises:
            ValueError: the table is damaged, or has other steps or times than the metadata say.
        """
        if reason := self._layout.overlapping.get(episode.number):
            raise ValueError(reason)
        if not episode.steps:
            raise ValueError('it has no steps')
        table = self._opened(episode.table)
        rows = np.flatnonzero(table['episode_index'].reshape(-1) == episode.number)
        if not np.array_equal(table['frame_index'].reshape(-1)[rows], np.arange(episode.steps)):
            raise ValueError(
                f'the table has {len(rows)} steps of it, or in another order; the metadata say '
                f'{episode.steps}'
            )
        steps = {name: values[rows] for name, values in table.items()}
        _check_times(steps['timestamp'].reshape(-1), self._layout.fps)
        if IS_LAST not in steps:
            steps[IS_LAST] = np.arange(episode.steps) == episode.steps - 1
        tasks = steps['task_index'].reshape(-1).tolist()
        if unknown := sorted(set(tasks) - set(self._layout.tasks)):
            raise ValueError(f'task_index {unknown[0]} is none of the tasks in the folder meta')
        steps[TASK] = np.array([self._layout.tasks[task] for task in tasks], object)
        return steps

    def _opened(self, name: str) -> dict[str, np.ndarray]:
        """The columns of a table that the card needs."""
        if self._table[0] != name:
            try:
                content = (self._folder / name).read_bytes()
                self._table = name, self._arrays(content)
            except FileNotFoundError:
                self._table = name, 'there is no such file'
            except ValueError as error:
                self._table = name, str(error)
        table = self._table[1]
        if isinstance(table, str):
            raise ValueError(table)
        return table

    def _arrays(self, content: bytes) -> dict[str, np.ndarray]:
        table = lerobot_directory.read_table(content, sorted(self._columns))
        if missing := sorted(self._columns - set(table.column_names)):
            raise ValueError(f'the table lacks the column {", ".join(missing)}')
        features = self._layout.features
        return {
            name: lerobot_directory.as_array(
                table[name], name, tuple(entry.get('shape', ())), entry.get('dtype', '')
            )
            for name in table.column_names
            for entry in [features.get(name, {})]
        }

    def frames(
        self, episode: EpisodeFiles, times: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Frames]:
        """Where the frames at these times [T] of the episode are.

        Returns:
            As Episode has them: pictures int64 [T, C, 2], checksums uint32 [T, C], and frames.
        """
        shape = len(times), self._views
        pictures, checksums = np.zeros([*shape, 2], np.int64), np.zeros(shape, np.uint32)
        videos, codecs = [-1] * shape[1], [''] * shape[1]
        numbers, seconds = np.zeros(shape, np.int32), np.zeros(shape, np.float64)
        stretches, count = [], 0
        for video, camera in zip(episode.videos, self._cameras, strict=True):
            shown = video.start + times.astype(np.float64)
            packets = self._packets(camera, video.name, float(shown[0]) if len(shown) else 0.0)
            own = self._own(packets, shown, video.name)
            first, stop = _stretch(own, packets.backs)
            pictures[:, camera, 0] = packets.offsets[own]
            pictures[:, camera, 1] = packets.offsets[own] + packets.lengths[own]
            checksums[:, camera] = packets.checksums[own]
            numbers[:, camera], seconds[:, camera] = own - first + count, shown
            videos[camera], codecs[camera] = self._numbers[video.name], packets.codec
            stretches.append((packets, slice(first, stop)))
            count += stop - first
        columns = {
            name: [getattr(packets, f'{name}s')[stretch] for packets, stretch in stretches]
            for name in ('offset', 'length', 'checksum', 'back')
        }
        joined = {
            name: np.concatenate(parts) if parts else np.zeros(0, np.int64)
            for name, parts in columns.items()
        }
        return pictures, checksums, Frames(videos, codecs, joined, numbers, seconds)

    def pictures(self, episode: EpisodeFiles, times: np.ndarray, view: int) -> Iterator[np.ndarray]:
        """A camera's pictures at these times [T] of the episode, decoded, uint8 [H, W, 3] each.

        Args:
            episode: which one.
            times: float [T], seconds from its start.
            view: the camera's place among `cameras`.

        Raises:
            CorruptFrame: a video is missing or damaged, or has no frame for a time.
        """
        for start in range(0, len(times), _TOGETHER):
            _, _, frames = self.frames(episode, times[start : start + _TOGETHER])
            own = frames.numbers[:, view]
            first = int((own - frames.packets['back'][own]).min())
            name = next(n for n, number in self._numbers.items() if number == frames.videos[view])
            coded = slice(first, int(own.max()) + 1)
            with files.open_file(os.fspath(self._folder / name)) as file:
                packets = [
                    file.read(int(offset), int(length))
                    for offset, length in zip(
                        frames.packets['offset'][coded], frames.packets['length'][coded]
                    )
                ]
            try:
                shown = video_packets.decode(frames.codecs[view], packets, (own - first).tolist())
            except ValueError as error:
                time = float(frames.times[0, view])
                raise CorruptFrame(self._folder / name, time, str(error)) from error
            yield from (shown[number] for number in (own - first).tolist())

    def _packets(self, camera: int, name: str, time: float) -> VideoPackets:
        """The packets of a video, opened for the frame at a time."""
        if camera not in self._videos or self._videos[camera][0] != name:
            try:
                packets = video_packets.read(os.fspath(self._folder / name), time)
            except CorruptFrame as error:
                self._videos[camera] = name, error
            else:
                self._videos[camera] = name, packets
        opened = self._videos[camera][1]
        if isinstance(opened, CorruptFrame):
            raise CorruptFrame(opened.path, time, opened.reason)
        return opened

    def _own(self, packets: VideoPackets, shown: np.ndarray, name: str) -> np.ndarray:
        """The packet of the frame that is nearest to each of the times [T] in a video, int64 [T]."""
        order = np.argsort(packets.times, kind='stable')
        times = packets.times[order]
        middles = (times[1:] + times[:-1]) / 2
        nearest = np.searchsorted(middles, shown)
        beyond = np.abs(times[nearest] - shown) > 0.5 / self._layout.fps
        if beyond.any():
            time = float(shown[beyond][0])
            raise CorruptFrame(
                self._folder / name,
                time,
                f'there is no frame within half of 1/{self._layout.fps:g} s of it; the video has '
                f'{len(times)} from {times[0]:.3f} to {times[-1]:.3f} s',
            )
        return order[nearest]


def _check_times(times: np.ndarray, fps: float) -> None:
    """Raises ValueError for timestamps [T] that aren't those of the steps' frames."""
    single = np.asarray(times, np.float32)  # what LeRobot stores
    times = np.asarray(times, np.float64)
    due = np.concatenate([[0.0], times[:-1] + 1 / fps])
    allowed = np.concatenate([[0.5 / fps], _TOLERANCE + np.spacing(np.abs(single[1:]))])
    wrong = np.flatnonzero(~(np.abs(times - due) <= allowed))  # NaN is wrong, too
    if len(wrong):
        step = int(wrong[0])
        raise ValueError(
            f'step {step} has the timestamp {times[step]:g} s; at {fps:g} frames a second, as '
            f'{lerobot_directory.INFO} says, {due[step]:g} s is due'
        )


def _stretch(own: np.ndarray, backs: np.ndarray) -> tuple[int, int]:
    """The first packet that decoding the packets `own` takes, and the one behind the last."""
    if not len(own):
        return 0, 0
    return int((own - backs[own]).min()), int(own.max()) + 1
