"""Columns of an index of robot episodes: a part for each shard, joined into memory-mapped arrays.

    episode_{file,offset,length}.npy    the record of each episode
    episode_first.npy                   first step of each episode, and the number of steps
    episode_success.npy                 1, 0, or -1 where the data don't say
    episode_unlabelled.npy              how many of its steps have no instruction
    image_{offset,length,checksum}.npy  [steps, cameras], offsets from the start of the file
    action.npy                          float32 [steps, L], terminate flag first where there is one
    instruction.npy                     each step's instruction, as a row of the texts
    column_*.npy                        further features that the card keeps
    text.npy, text_end.npy              the distinct texts as one run of UTF-8, and where each ends

Of episodes whose pictures are frames of videos, a picture is a packet (readers/video_packets), and the
image_* arrays are of the frame's own one. There is no episode_file, but

    episode_{video,codec}.npy           [episodes, cameras], the file of the video and a text: its codec
    episode_packet.npy                  first packet of each episode, and the number of packets
    packet_{offset,length,checksum}.npy [packets], by episode and camera, in the order of the file
    packet_back.npy                     how many packets before it decoding must begin
    image_packet.npy                    [steps, cameras], among the episode's packets
    image_time.npy                      float64 [steps, cameras], seconds from the start of the video

In a part, texts are rows of the shard's own texts. Joining holds one array of one shard, the distinct
texts, and a few numbers an episode: ten million steps are joined in the memory of one shard.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from rt2_jax.data import robot_card
from rt2_jax.data.index import index_arrays
from rt2_jax.data.index.indexable import Part
from rt2_jax.data.robot import action_statistics

# The arrays that every part has; [N] but for cameras C and action length L.
DTYPES = {
    'episode_offset': np.int64,
    'episode_length': np.int64,
    'episode_steps': np.int32,  # episode_first, once joined
    'episode_success': np.int8,
    'episode_unlabelled': np.int32,
    'image_offset': np.int64,  # [N, C]
    'image_length': np.int32,  # [N, C]
    'image_checksum': np.uint32,  # [N, C]
    'action': np.float32,  # [N, L]
    'instruction': np.int32,
}
# Those that a part has, too, if its pictures are frames of videos; P packets.
VIDEO_DTYPES = {
    'episode_video': np.int32,  # [N, C]
    'episode_codec': np.int32,  # [N, C]
    'episode_packets': np.int32,  # episode_packet, once joined
    'packet_offset': np.int64,  # [P]
    'packet_length': np.int32,
    'packet_checksum': np.uint32,
    'packet_back': np.int32,
    'image_packet': np.int32,  # [N, C]
    'image_time': np.float64,  # [N, C]
}
# Joined, they are where each episode begins.
_COUNTS = {'episode_steps': 'episode_first', 'episode_packets': 'episode_packet'}


@dataclasses.dataclass(frozen=True)
class Frames:
    """Where the frames of one episode are: T steps, C cameras, P packets.

    Attributes:
        videos: numbers of the C files; -1 for a camera without a video.
        codecs: C texts, see video_packets.VideoPackets.
        packets: 'offset', 'length', 'checksum' and 'back' of the packets [P], as VideoPackets has them.
        numbers: int32 [T, C], each frame's own packet among them.
        times: float64 [T, C], seconds from the start of the video.
    """

    videos: list[int]
    codecs: list[str]
    packets: dict[str, np.ndarray]
    numbers: np.ndarray
    times: np.ndarray


@dataclasses.dataclass(frozen=True)
class Episode:
    """An episode's steps that are examples, T of them, without pictures.

    Attributes:
        offset: first byte of the episode's record in the file; 0 in a table.
        length: bytes of its payload, or rows of a table.
        success: 1, 0, or -1 where the data don't say.
        actions: float32 [T, L].
        pictures: int64 [T, C, 2], where each picture lies in the file: first byte and the byte behind;
            twice the same for a camera that has no picture.
        checksums: uint32 [T, C], CRC-32C of each picture.
        instructions: T texts.
        columns: of each of the card's columns T texts, or numbers [T, ...].
        gripper: float32 [T], the data's own values; None without a gripper.
        dropped_first: how many steps before these are no examples.
        dropped_last: how many steps after them.
        frames: where the pictures are, if they are frames of videos.
    """

    offset: int
    length: int
    success: int
    actions: np.ndarray
    pictures: np.ndarray
    checksums: np.ndarray
    instructions: list[str]
    columns: list[list[str] | np.ndarray]
    gripper: np.ndarray | None
    dropped_first: int
    dropped_last: int
    frames: Frames | None = None


class EpisodeColumns:
    """The columns of one shard, in the making.

    Args:
        card: of the robot.
        videos: whether the pictures are frames of videos.
    """

    def __init__(self, card: robot_card.RobotCard, videos: bool = False) -> None:
        self._card, self._dtypes = card, _dtypes(videos)
        self._parts: dict[str, list[np.ndarray]] = {name: [] for name in _names(card, videos)}
        self._texts: dict[str, int] = {}
        self._gripper: list[np.ndarray] = []
        self._dropped_first = self._dropped_last = 0

    def add(self, episode: Episode) -> None:
        """Appends an episode."""
        starts, stops = episode.pictures[..., 0], episode.pictures[..., 1]
        values: dict[str, Any] = {
            'episode_offset': [episode.offset],
            'episode_length': [episode.length],
            'episode_steps': [len(episode.actions)],
            'episode_success': [episode.success],
            'episode_unlabelled': [sum(not text.strip() for text in episode.instructions)],
            'image_offset': starts,
            'image_length': stops - starts,
            'image_checksum': episode.checksums,
            'action': episode.actions,
            'instruction': self._rows_of(episode.instructions),
        }
        if frames := episode.frames:
            values |= {
                'episode_video': [frames.videos],
                'episode_codec': [self._rows_of(frames.codecs)],
                'episode_packets': [len(frames.packets['offset'])],
                **{f'packet_{name}': value for name, value in frames.packets.items()},
                'image_packet': frames.numbers,
                'image_time': frames.times,
            }
        for name, value in values.items():
            self._parts[name].append(np.asarray(value, self._dtypes[name]))
        for number, column in enumerate(episode.columns):
            rows = self._rows_of(column) if isinstance(column, list) else column
            self._parts[_column_name(number)].append(rows)
        if episode.gripper is not None:
            self._gripper.append(episode.gripper)
        self._dropped_first += episode.dropped_first
        self._dropped_last += episode.dropped_last

    def finish(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays, and what JSON says of them."""
        arrays = {name: self._joined(name) for name in self._parts}
        steps = int(arrays['episode_steps'].sum())
        about: dict[str, Any] = {
            'rows': steps,
            'episodes': len(arrays['episode_steps']),
            'dropped_first': self._dropped_first,
            'dropped_last': self._dropped_last,
        }
        if 'packet_offset' in arrays:
            about['packets'] = len(arrays['packet_offset'])
        if gripper := self._card.gripper:
            values = np.concatenate([np.zeros(0, np.float32), *self._gripper])
            about['gripper'] = action_statistics.gripper_use(values, gripper)
        return arrays | _packed_texts(list(self._texts)), about

    def _joined(self, name: str) -> np.ndarray:
        parts = self._parts[name]
        if parts:
            return np.concatenate(parts)
        by_camera = name.startswith('image_') or name in ('episode_video', 'episode_codec')
        cameras, length = (len(self._card.images),), (self._card.action_space.length,)
        tail = cameras if by_camera else length if name == 'action' else ()
        return np.zeros([0, *tail], self._dtypes.get(name, np.float32))

    def _rows_of(self, texts: Sequence[str]) -> np.ndarray:
        """The texts' rows among the shard's own texts, int32 [len(texts)]."""
        rows = [self._texts.setdefault(text, len(self._texts)) for text in texts]
        return np.array(rows, np.int32)


def join(
    parts: Sequence[Part],
    folder: epath.Path,
    card: robot_card.RobotCard,
    text_columns: Collection[str],
    videos: bool = False,
) -> dict[str, Any]:
    """Writes the columns of all parts, one after another, and counts what they hold.

    Args:
        parts: of all shards, in order.
        folder: of the index.
        card: of the robot.
        text_columns: paths of those of the card's columns that hold text.
        videos: whether the pictures are frames of videos.

    Returns:
        What index.json says: the columns, the arrays, counts and statistics.
    """
    columns = {
        path: {'array': _column_name(number), 'text': path in text_columns}
        for number, path in enumerate(card.kept_columns)
    }
    with_texts = {'instruction', 'episode_codec'}
    with_texts |= {str(column['array']) for column in columns.values() if column['text']}
    paths = [part.path for part in parts]
    episodes, steps, packets = (
        sum(part.about.get(key, 0) for part in parts) for key in ('episodes', 'rows', 'packets')
    )
    writer = index_arrays.Writer(folder)
    texts, rows_of = _joined_texts(paths)
    whole = _packed_texts(texts)
    for name in _names(card, videos):
        if name in _COUNTS:
            of_episodes = np.concatenate(list(index_arrays.of_parts(paths, name)))
            whole[_COUNTS[name]] = np.concatenate([[0], np.cumsum(of_episodes, dtype=np.int64)])
    if not videos:
        whole['episode_file'] = np.repeat(
            np.array([part.file for part in parts], np.int32),
            [part.about['episodes'] for part in parts],
        )
    for name, array in whole.items():
        writer.write(name, [array], len(array))
    rows_by_kind = {'episode': episodes, 'packet': packets}
    for name in _names(card, videos):
        if name in _COUNTS:
            continue
        arrays = index_arrays.of_parts(paths, name)
        if name in with_texts:
            arrays = (rows[array] for rows, array in zip(rows_of, arrays, strict=True))
        writer.write(name, arrays, rows_by_kind.get(name.partition('_')[0], steps))
    counts = {'episodes': episodes, 'steps': steps, **_counts(folder, parts, card)}
    return {'columns': columns, 'arrays': writer.arrays, **counts}


def _counts(
    folder: epath.Path, parts: Sequence[Part], card: robot_card.RobotCard
) -> dict[str, Any]:
    """What index.json says of the numbers of things, and of the actions."""
    lengths = np.load(folder / 'image_length.npy', mmap_mode='r')
    actions = np.load(folder / 'action.npy', mmap_mode='r')
    counts = {
        'empty_episodes': int((np.diff(np.load(folder / 'episode_first.npy')) == 0).sum()),
        'unlabelled_steps': int(np.load(folder / 'episode_unlabelled.npy').sum()),
        'without_picture': (lengths == 0).sum(axis=0).tolist(),  # steps, by camera
        'statistics': action_statistics.compute(actions, card.action_space),
    }
    for name in ('dropped_first', 'dropped_last'):
        counts[name] = sum(part.about[name] for part in parts)
    if card.gripper:
        uses = [part.about['gripper'] for part in parts]
        counts['gripper'] = action_statistics.joined_gripper_use(uses)
    return counts


def _dtypes(videos: bool) -> dict[str, Any]:
    return DTYPES | (VIDEO_DTYPES if videos else {})


def _names(card: robot_card.RobotCard, videos: bool) -> list[str]:
    return [*_dtypes(videos), *(_column_name(number) for number in range(len(card.kept_columns)))]


def _column_name(number: int) -> str:
    """The array of the card's `number`-th column."""
    return f'column_{number}'


def _packed_texts(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Texts as one run of UTF-8, 'text' uint8, and where each ends, 'text_end' int64."""
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return {'text': np.frombuffer(b''.join(encoded), np.uint8), 'text_end': ends}


def _joined_texts(paths: Sequence[str]) -> tuple[list[str], list[np.ndarray]]:
    """The distinct texts of all parts, and for each part the new rows of its own texts."""
    rows: dict[bytes, int] = {}
    rows_of = []
    columns = (index_arrays.of_parts(paths, name) for name in ('text', 'text_end'))
    for text, ends in zip(*columns, strict=True):
        run, starts = text.tobytes(), np.concatenate([[0], ends[:-1]])
        own = [run[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=False)]
        rows_of.append(np.array([rows.setdefault(t, len(rows)) for t in own], np.int32))
    return [text.decode() for text in rows], rows_of
