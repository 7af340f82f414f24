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
import json
import math
from typing import Any, NamedTuple, TypeVar

from etils import epath
import numpy as np

from rt2_jax.data import files
from rt2_jax.data.data_errors import DataSetError, lfs_remedy
from rt2_jax.errors import MissingPackage
from rt2_jax.nearest import nearest

VERSIONS = ('v2.1', 'v3.0')
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
    """

    fps: float
    features: Mapping[str, Any]
    tasks: Mapping[int, str]
    episodes: Sequence[EpisodeFiles]

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
    return _parsed(files.path(directory), INFO, _checked_info)


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
    version = _parsed(folder, INFO, lambda content: json.loads(content).get('codebase_version'))
    if version not in VERSIONS:
        raise DataSetError(
            f'{folder}: codebase_version {version!r} of LeRobot; {" and ".join(VERSIONS)} are read. '
            "lerobot's own conversion scripts (lerobot.datasets.v30) make v3.0 of older ones"
        )
    about = info(folder)
    present = [name for name in cameras if about['features'].get(name, {}).get('dtype') == 'video']
    tasks, episodes = (_v21 if version == 'v2.1' else _v30)(folder, about, present)
    episodes.sort()
    if len(episodes) != about['total_episodes']:
        raise DataSetError(
            f'{folder}: {INFO} declares {about["total_episodes"]} episodes, its tables of episodes have '
            f'{len(episodes)}: one is missing, or the recording was interrupted'
        )
    first, behind = _split(folder, about, split)
    return Layout(
        about['fps'], about['features'], tasks, [e for e in episodes if first <= e.number < behind]
    )


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


def as_array(column: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A pyarrow column as an array [rows, *shape]; objects [rows] for texts.

    Raises:
        ValueError: it has gaps, or values of another shape.
    """
    if column.null_count:
        raise ValueError(f'column {name!r} has {column.null_count} empty places')
    rows, values = len(column), column.combine_chunks()
    while hasattr(values, 'flatten') and hasattr(values.type, 'value_type'):  # a list
        values = values.flatten()
    array = values.to_numpy(zero_copy_only=False)
    if array.dtype == object:
        return array
    if array.size != rows * math.prod(shape):
        raise ValueError(
            f'column {name!r} has {array.size} values; {rows} of {list(shape)} are due'
        )
    return array.reshape(rows, *shape)


def _v21(
    folder: files.Path, info: Mapping[str, Any], cameras: Sequence[str]
) -> tuple[dict[int, str], list[EpisodeFiles]]:
    tasks = _parsed(
        folder,
        'meta/tasks.jsonl',
        lambda content: {int(row['task_index']): str(row['task']) for row in _lines(content)},
    )

    def episode(row: Mapping[str, Any]) -> EpisodeFiles:
        number = int(row['episode_index'])
        place = {'episode_index': number, 'episode_chunk': number // int(info['chunks_size'])}
        names = [info['video_path'].format(video_key=key, **place) for key in cameras]
        table = info['data_path'].format(**place)
        return EpisodeFiles(
            number, int(row['length']), table, tuple(Video(name, 0.0) for name in names)
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
        chunk, file, start = (row[f'videos/{key}/{name}'] for name in of_video)
        name = info['video_path'].format(video_key=key, chunk_index=chunk, file_index=file)
        return Video(name, float(start))

    def episode(row: Mapping[str, Any]) -> EpisodeFiles:
        place = {name: row[f'data/{name}'] for name in ('chunk_index', 'file_index')}
        videos = tuple(video(row, key) for key in cameras)
        table = info['data_path'].format(**place)
        return EpisodeFiles(row['episode_index'], row['length'], table, videos)

    def rows(content: bytes) -> list[EpisodeFiles]:
        return [episode(row) for row in read_table(content, columns).to_pylist()]

    names = list(_meta_tables(folder, int(info['chunks_size'])))
    return tasks, [e for name in names for e in _parsed(folder, name, rows)]


def _tasks_of(content: bytes) -> dict[int, str]:
    """Tasks of a table whose texts are the index of a pandas frame, with or without a name."""
    table = read_table(content)
    (text,) = (name for name in table.column_names if name != 'task_index')
    numbers, texts = table['task_index'].to_pylist(), table[text].to_pylist()
    return {int(number): str(words) for number, words in zip(numbers, texts, strict=True)}


def _meta_tables(folder: files.Path, chunk_size: int) -> Iterator[str]:
    """The tables of episodes, which are numbered without gaps."""
    chunk = file = 0
    while (folder / (name := META_TABLE.format(chunk, file))).exists():
        yield name
        chunk, file = (chunk, file + 1) if file + 1 < chunk_size else (chunk + 1, 0)


def _split(folder: files.Path, info: Mapping[str, Any], split: str) -> tuple[int, int]:
    """The first episode of a split and the one behind it."""
    splits = info.get('splits') or {'train': f'0:{info["total_episodes"]}'}
    if split not in splits:
        raise DataSetError(f'{folder} has no split {split!r}{nearest(split, splits)}')
    first, _, behind = str(splits[split]).partition(':')
    if not (first.isdigit() and behind.isdigit()):
        raise DataSetError(
            f"{folder / INFO}: split {split!r} is {splits[split]!r}; 'FIRST:BEHIND', numbers of "
            'episodes, is what is read'
        )
    return int(first), int(behind)


def _checked_info(content: bytes) -> dict[str, Any]:
    info = json.loads(content)
    needed = ('fps', 'features', 'total_episodes', 'chunks_size', 'data_path')
    if missing := [name for name in needed if name not in info]:
        raise KeyError(f'it lacks {", ".join(missing)}')
    return info


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
        reason = lfs_remedy(content) or f'{type(error).__name__}: {error}'
        raise DataSetError(f'{path} is damaged: {reason}') from error
