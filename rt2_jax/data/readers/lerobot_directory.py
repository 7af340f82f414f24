"""A LeRobot data set's directory: its features, its tasks, and where each episode's files are.

    meta/info.json      codebase_version, fps, features, templates of the files' names
    v2.1                meta/tasks.jsonl, meta/episodes.jsonl; each episode has a table, and a video of
                        each camera
    v3.0                meta/tasks.parquet, meta/episodes/chunk-000/file-000.parquet, ...; tables and videos
                        of many episodes each

Source: github.com/huggingface/lerobot, src/lerobot/datasets/utils.py, of 0.3 (v2.1) and 0.4 (v3.0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import math
from typing import Any, NamedTuple, TypeVar

from absl import logging
from etils import epath
import numpy as np

from rt2_jax.data import files
from rt2_jax.data.data_errors import DataSetError, lfs_remedy
from rt2_jax.data.readers import lerobot_info
from rt2_jax.errors import MissingPackage
from rt2_jax.nearest import nearest

VERSIONS = tuple(lerobot_info.PLACES)
INFO = 'meta/info.json'
META_TABLE = 'meta/episodes/chunk-{:03d}/file-{:03d}.parquet'

Result = TypeVar('Result')


class Video(NamedTuple):
    """Where a camera's frames of one episode are.

    Attributes:
        name: of the file, within the directory.
        start: time of the episode's first frame in it, seconds.
    """

    name: str
    start: float


class EpisodeFiles(NamedTuple):
    """Where one episode is.

    Attributes:
        number: the data set's own, its `episode_index`.
        steps: how many the data set declares.
        table: name of the file of its numbers, within the directory.
        videos: of each camera.
    """

    number: int
    steps: int
    table: str
    videos: tuple[Video, ...]

    @property
    def files(self) -> list[str]:
        """Its table, then its videos."""
        return [self.table, *(video.name for video in self.videos)]


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the folder `meta` says of one split.

    Attributes:
        fps: frames a second.
        features: name -> 'dtype', 'shape' and so on, as info.json has them.
        tasks: texts by task_index.
        episodes: in order.
        overlapping: by episode, which other one has frames of the same time in a video.
    """

    fps: float
    features: Mapping[str, Any]
    tasks: Mapping[int, str]
    episodes: Sequence[EpisodeFiles]
    overlapping: Mapping[int, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with anything that it says."""
        content = [self.fps, self.features, sorted(self.tasks.items()), self.episodes]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def is_lerobot(directory: epath.PathLike) -> bool:
    """Whether a directory is a LeRobot data set, of whatever version."""
    return (files.path(directory) / INFO).exists()


def info(directory: epath.PathLike) -> dict[str, Any]:
    """meta/info.json; raises as `read`."""
    folder = files.path(directory)
    version = _parsed(folder, INFO, lambda content: json.loads(content).get('codebase_version'))
    if version not in VERSIONS:
        raise DataSetError(
            f'{folder}: codebase_version {version!r} of LeRobot; {" and ".join(VERSIONS)} are read. '
            "lerobot's own conversion scripts (lerobot.datasets.v30) make v3.0 of older ones"
        )
    return _parsed(folder, INFO, lerobot_info.checked)


def read(directory: epath.PathLike, cameras: Sequence[str], split: str = 'train') -> Layout:
    """Reads the folder `meta`.

    Args:
        directory: the data set, local or remote.
        cameras: the features whose videos are wanted; those that are none are left out.
        split: which split.

    Raises:
        DataSetError: another version, a file that is missing or damaged, or no such split.
        MissingPackage: pyarrow isn't installed.
    """
    folder = files.path(directory)
    about = info(folder)
    present = [name for name in cameras if about['features'].get(name, {}).get('dtype') == 'video']
    make = _v21 if about['codebase_version'] == 'v2.1' else _v30
    tasks, episodes = make(folder, about, present)
    episodes.sort()
    total, ranges = about['total_episodes'], lerobot_info.splits(about)
    if len(episodes) != total:
        raise DataSetError(
            f'{folder}: {INFO} declares {total} episodes, its tables of episodes have '
            f'{len(episodes)}: one is missing, or the recording was interrupted'
        )
    for number, episode in enumerate(episodes):
        if episode.number != number:
            is_twice = episode.number < number
            problem = (
                f'have episode {episode.number} twice' if is_twice else f'lack episode {number}'
            )
            raise DataSetError(f'{folder}: its tables of episodes {problem}')
    if split not in ranges:
        raise DataSetError(f'{folder} has no split {split!r}{nearest(split, ranges)}')
    if not ranges[split]:
        raise DataSetError(f'{folder}: split {split!r} has no episodes, {INFO} says')
    if left := sorted(set(range(total)).difference(*ranges.values())):
        logging.warning(
            '%s: %d of %d episodes are in no split, the first is %d; %s has the splits %s',
            *(folder, len(left), total, left[0], INFO, about['splits']),
        )
    own = [episode for episode in episodes if episode.number in ranges[split]]
    overlapping = _overlapping(episodes, about['fps'])
    return Layout(about['fps'], about['features'], tasks, own, overlapping)


def read_table(content: bytes, columns: Sequence[str] | None = None) -> Any:
    """A parquet file's pyarrow.Table, of these columns as far as it has them.

    Raises:
        ValueError: the bytes are no parquet file, or a damaged one.
        MissingPackage: pyarrow isn't installed.
    """
    try:
        from pyarrow import parquet  # pylint: disable=g-import-not-at-top
    except ImportError as error:
        raise MissingPackage('a LeRobot data set', 'pyarrow', 'lerobot') from error
    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        wanted = [n for n in file.schema_arrow.names if columns is None or n in columns]
        return file.read(columns=wanted)
    except (OSError, ValueError) as error:  # pyarrow's own derive from these
        reason = str(error).strip().partition('\n')[0]
        raise ValueError(lfs_remedy(content) or f'no whole parquet file: {reason}') from error


def file_numbers(episodes: Iterable[EpisodeFiles]) -> dict[str, int]:
    """The files of episodes, each once in the order of the episodes, with their numbers."""
    names = dict.fromkeys(name for episode in episodes for name in episode.files)
    return {name: number for number, name in enumerate(names)}


def number_names(feature: Mapping[str, Any]) -> list[Any]:
    """What info.json calls a feature's numbers: a list, or a list within {'motors': ...}; [] for none."""
    names = feature.get('names')
    if isinstance(names, Mapping):
        names = next(iter(names.values()), None)
    return names if isinstance(names, list) else []


def as_array(column: Any, name: str, shape: tuple[int, ...], dtype: str = '') -> np.ndarray:
    """A pyarrow column as an array [rows, *shape], of the type it is stored in; objects [rows] for texts.

    Args:
        column: of a table.
        name: of the feature.
        shape: of a row.
        dtype: what info.json says of its type; '' for nothing.

    Raises:
        ValueError: it has gaps, rows of another shape, or values that this type can't hold.
    """
    from pyarrow import compute  # pylint: disable=g-import-not-at-top

    rows, values, is_even = len(column), column.combine_chunks(), True
    gaps = values.null_count
    while hasattr(values, 'flatten') and hasattr(values.type, 'value_type'):  # a list
        lengths = compute.list_value_length(values).to_numpy(zero_copy_only=False)
        is_even = is_even and not (lengths != lengths[:1]).any()
        values = values.flatten()
        gaps += values.null_count
    if gaps:
        raise ValueError(f'column {name!r} has {gaps} empty places')
    array = values.to_numpy(zero_copy_only=False)
    due = rows if array.dtype == object else rows * math.prod(shape)
    if array.size != due or not is_even:
        uneven = '' if is_even else ' in rows of different lengths'
        raise ValueError(
            f'column {name!r} has {array.size} values{uneven}; {rows} of {list(shape)} are due'
        )
    if not _fits(array, dtype):
        stored = 'texts' if array.dtype == object else array.dtype
        raise ValueError(
            f'column {name!r} holds {stored}; {INFO} says {dtype}, which these values do not fit'
        )
    return array if array.dtype == object else array.reshape(rows, *shape)


def _fits(array: np.ndarray, dtype: str) -> bool:
    """Whether values are of a type, or become it without loss but the rounding of fractions."""
    is_text = array.dtype == object
    try:
        wanted = np.dtype('O' if dtype == 'string' else dtype or array.dtype)
    except TypeError:  # a type of LeRobot's own
        return True
    if wanted == array.dtype or is_text or wanted.kind == 'O':
        return wanted == array.dtype
    with np.errstate(invalid='ignore', over='ignore'):
        cast = array.astype(wanted)
    if wanted.kind == array.dtype.kind == 'f':
        return np.array_equal(np.isfinite(cast), np.isfinite(array))
    return np.array_equal(cast.astype(array.dtype), array) and np.array_equal(cast, array)


def _v21(
    folder: files.Path, info: Mapping[str, Any], cameras: Sequence[str]
) -> tuple[dict[int, str], list[EpisodeFiles]]:
    tasks = _parsed(
        folder,
        'meta/tasks.jsonl',
        lambda content: _by_number((row['task_index'], row['task']) for row in _lines(content)),
    )

    def episode(row: Mapping[str, Any]) -> EpisodeFiles:
        number = int(lerobot_info.whole(row, 'episode_index'))
        place = {'episode_index': number, 'episode_chunk': number // int(info['chunks_size'])}
        names = [info['video_path'].format(video_key=key, **place) for key in cameras]
        table = info['data_path'].format(**place)
        return EpisodeFiles(
            number,
            int(lerobot_info.whole(row, 'length')),
            table,
            tuple(Video(name, 0.0) for name in names),
        )

    name = 'meta/episodes.jsonl'
    return tasks, _parsed(folder, name, lambda content: list(map(episode, _lines(content))))


def _v30(
    folder: files.Path, info: Mapping[str, Any], cameras: Sequence[str]
) -> tuple[dict[int, str], list[EpisodeFiles]]:
    tasks = _parsed(folder, 'meta/tasks.parquet', _tasks_of)
    columns = ['episode_index', 'length', 'data/chunk_index', 'data/file_index']
    of_video = ('chunk_index', 'file_index', 'from_timestamp')
    columns += [f'videos/{key}/{name}' for key in cameras for name in of_video]

    def video(row: Mapping[str, Any], key: str) -> Video:
        chunk, file = (lerobot_info.whole(row, f'videos/{key}/{name}') for name in of_video[:2])
        start = float(row[f'videos/{key}/from_timestamp'])
        if not 0 <= start < math.inf:
            number = row['episode_index']
            raise ValueError(f'videos/{key}/from_timestamp of episode {number} is {start}')
        name = info['video_path'].format(video_key=key, chunk_index=chunk, file_index=file)
        return Video(name, start)

    def episode(row: Mapping[str, Any]) -> EpisodeFiles:
        place = {
            name: lerobot_info.whole(row, f'data/{name}') for name in ('chunk_index', 'file_index')
        }
        videos = tuple(video(row, key) for key in cameras)
        table = info['data_path'].format(**place)
        number, steps = lerobot_info.whole(row, 'episode_index'), lerobot_info.whole(row, 'length')
        return EpisodeFiles(number, steps, table, videos)

    def rows(content: bytes) -> list[EpisodeFiles]:
        return [episode(row) for row in read_table(content, columns).to_pylist()]

    names = list(_meta_tables(folder, int(info['chunks_size'])))
    return tasks, [e for name in names for e in _parsed(folder, name, rows)]


def _tasks_of(content: bytes) -> dict[int, str]:
    """Tasks of a table whose texts are the index of a pandas frame, with or without a name."""
    table = read_table(content)
    others = [name for name in table.column_names if name != 'task_index']
    named = [name for name in others if name in ('task', '__index_level_0__')]
    if len(named or others) != 1:
        raise ValueError(f"beside 'task_index' it has the columns {others}; 'task' is due")
    texts = table[(named or others)[0]].to_pylist()
    return _by_number(zip(table['task_index'].to_pylist(), texts, strict=True))


def _by_number(rows: Iterable[tuple[Any, Any]]) -> dict[int, str]:
    """Texts of tasks by their numbers, each of which is there once."""
    tasks: dict[int, str] = {}
    for number, text in rows:
        if not isinstance(text, str):
            raise ValueError(f'the task of task_index {number} is {text!r}, no text')
        if tasks.setdefault(int(number), text) != text:
            raise ValueError(f'task_index {number} is both {tasks[number]!r} and {text!r}')
    return tasks


def _overlapping(episodes: Iterable[EpisodeFiles], fps: float) -> dict[int, str]:
    """Episodes whose frames in a video would be another's, too, with the reason."""
    of_video: dict[str, list[tuple[float, int, int]]] = {}
    for episode in episodes:
        for video in episode.videos:
            of_video.setdefault(video.name, []).append((video.start, episode.number, episode.steps))
    reasons = {}
    for name, spans in of_video.items():
        spans.sort()
        for (start, number, steps), (following, other, _) in itertools.pairwise(spans):
            if following < start + (steps - 0.5) / fps:
                reasons[number] = reasons[other] = (
                    f'by the folder meta, episode {number} begins at {start:g} s of {name} with {steps} '
                    f'steps, and episode {other} at {following:g} s: their frames overlap'
                )
    return reasons


def _meta_tables(folder: files.Path, chunk_size: int) -> Iterator[str]:
    """The tables of episodes, which are numbered without gaps."""
    chunk = file = 0
    while (folder / (name := META_TABLE.format(chunk, file))).exists():
        yield name
        chunk, file = (chunk, file + 1) if file + 1 < chunk_size else (chunk + 1, 0)


def _lines(content: bytes) -> list[Any]:
    return [json.loads(line) for line in content.splitlines() if line.strip()]


def _parsed(folder: files.Path, name: str, parse: Callable[[bytes], Result]) -> Result:
    """What `parse` makes of a file; a DataSetError that names it where it is missing or damaged."""
    path = folder / name
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataSetError(
            f'{path} is missing, so {folder} is no whole LeRobot data set'
        ) from error
    try:
        return parse(content)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        kind = '' if type(error) is ValueError else f'{type(error).__name__}: '
        raise DataSetError(
            f'{path} is damaged: {lfs_remedy(content) or f"{kind}{error}"}'
        ) from error
