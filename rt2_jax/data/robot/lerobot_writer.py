"""Writes robot episodes as a LeRobot v3.0 data set.

A set is written in parts, each a table and a video of each camera, by as many processes as one likes. A part
is there when its table is in the folder `unfinished`; `finish` numbers episodes and tasks over all parts and
writes meta/info.json last, so that a directory without it is half-written.

    meta/info.json, stats.json, tasks.parquet, episodes/chunk-000/file-000.parquet
    data/chunk-000/file-000.parquet               a part's numbers and texts, a row a step
    videos/CAMERA/chunk-000/file-000.mp4          its pictures, see video_writer

Source: github.com/huggingface/lerobot, src/lerobot/datasets/{utils,lerobot_dataset}.py, of 0.4.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import contextlib
import dataclasses
import json
from typing import Any

from etils import epath
import numpy as np

from rt2_jax import paths
from rt2_jax.data.readers import lerobot_directory
from rt2_jax.data.robot import lerobot_statistics, video_writer
from rt2_jax.errors import MissingPackage

CHUNK = 1000  # files a folder
_UNFINISHED = 'unfinished'
_DATA = 'data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet'
_VIDEO = 'videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4'
_COUNTS = b'picture_values'
_TASK, _EPISODE = 'task', 'episode'  # columns of an unfinished table
# What says which step a row is; every set has these, and the writer makes them.
KEYS = {
    'timestamp': 'float32',
    'frame_index': 'int64',
    'episode_index': 'int64',
    'index': 'int64',
    'task_index': 'int64',
}
RESERVED = (*KEYS, _TASK, _EPISODE)

Features = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class WrittenEpisode:
    """An episode of T steps to be written.

    Attributes:
        tasks: T texts, what each step is to do.
        columns: by feature, its values [T, *shape], or T texts.
        pictures: by camera, T pictures uint8 [H, W, 3], RGB, one at a time.
    """

    tasks: Sequence[str]
    columns: Mapping[str, Any]
    pictures: Mapping[str, Iterable[np.ndarray]]


def camera(size: tuple[int, int], fps: float) -> dict[str, Any]:
    """The entry of a camera in info.json: pictures of this height and width."""
    about = {
        'height': size[0],
        'width': size[1],
        'codec': 'h264',
        'pix_fmt': video_writer.PIXELS,
        'is_depth_map': False,
        'fps': _whole(fps),
        'channels': 3,
    }
    info = {f'video.{name}': value for name, value in about.items()} | {'has_audio': False}
    return {
        'dtype': 'video',
        'shape': [*size, 3],
        'names': ['height', 'width', 'channels'],
        'info': info,
    }


def is_part(directory: epath.PathLike, part: int) -> bool:
    """Whether a part is written whole."""
    return _unfinished(paths.of(directory), part).exists()


def write_part(
    directory: epath.PathLike,
    part: int,
    features: Features,
    fps: float,
    episodes: Iterable[WrittenEpisode],
) -> None:
    """Writes a part: its videos, then its table.

    Args:
        directory: the data set.
        part: its number, from 0, without gaps.
        features: name -> 'dtype', 'shape', 'names', as info.json has them, without KEYS.
        fps: frames a second.
        episodes: one at least.

    Raises:
        ValueError: an episode that the features don't fit; names the feature.
        MissingPackage: PyAV or pyarrow isn't installed.
    """
    pa = _pyarrow()
    directory = paths.of(directory)
    if taken := sorted(set(features) & set(RESERVED)):
        raise ValueError(f'a LeRobot data set has a {taken[0]!r} of its own; call it otherwise')
    cameras = {name: about for name, about in features.items() if about['dtype'] == 'video'}
    columns: dict[str, list[Any]] = {name: [] for name in features if name not in cameras}
    tasks, numbers, counts = list[str](), list[int](), list[dict[str, Any]]()
    with contextlib.ExitStack() as stack:
        videos = {}
        for name, about in cameras.items():
            path = directory / _place(_VIDEO, part, video_key=name)
            path.parent.mkdir(parents=True, exist_ok=True)
            size = about['shape'][0], about['shape'][1]
            videos[name] = stack.enter_context(video_writer.writing(path, fps, size))
        for number, episode in enumerate(episodes):
            steps = len(episode.tasks)
            tasks += episode.tasks
            numbers += [number] * steps
            for name, rows in columns.items():
                rows.append(_checked(episode.columns, name, features[name], steps))
            counts.append(
                {
                    name: _add(video, name, episode.pictures[name], steps)
                    for name, video in videos.items()
                }
            )
    table = {name: _column(rows, features[name]) for name, rows in columns.items()}
    table |= {_TASK: pa.array(tasks, pa.string()), _EPISODE: pa.array(numbers, pa.int64())}
    metadata = {_COUNTS: json.dumps(counts).encode()}
    _write_table(_unfinished(directory, part), pa.table(table).replace_schema_metadata(metadata))


def finish(
    directory: epath.PathLike,
    features: Features,
    fps: float,
    *,
    parts: int,
    splits: Mapping[str, int],
    robot: str = '',
    about_tasks: Mapping[str, Any] | None = None,
) -> None:
    """Numbers episodes and tasks over all parts, and writes tables and metadata.

    Args:
        directory: where the parts are.
        features: as the parts were written with.
        fps: likewise.
        parts: how many.
        splits: episodes of each split, in the order of the episodes.
        robot: the robot's name.
        about_tasks: 'info' of the feature 'task_index'.

    Raises:
        FileNotFoundError: for a missing part.
        ValueError: the splits declare other numbers of episodes.
    """
    directory = paths.of(directory)
    if missing := [part for part in range(parts) if not is_part(directory, part)]:
        raise FileNotFoundError(f'{directory} lacks part {missing[0]}, of {parts}')
    features = {**features, **{k: {'dtype': d, 'shape': [1]} for k, d in KEYS.items()}}
    if about_tasks:
        features['task_index'] = {**features['task_index'], 'info': dict(about_tasks)}
    tasks: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    statistics: list[dict[str, lerobot_statistics.Statistics]] = []
    for part in range(parts):
        for row, about in _number(directory, part, features, fps, tasks, len(rows), rows):
            rows.append(row)
            statistics.append(about)
    if sum(splits.values()) != len(rows):
        raise ValueError(f'there are {len(rows)} episodes; the splits {dict(splits)} have others')
    _write_meta(directory, rows, statistics, tasks)
    merged = {
        name: lerobot_statistics.merge([episode[name] for episode in statistics])
        for name in statistics[0]
    }
    as_lists = {
        name: {key: value.tolist() for key, value in about.items()}
        for name, about in merged.items()
    }
    paths.write(directory / 'meta/stats.json', json.dumps(as_lists, indent=4).encode())
    info = _info(features, fps, rows, len(tasks), splits, robot)
    paths.write(directory / lerobot_directory.INFO, json.dumps(info, indent=4).encode())
    for part in range(parts):
        paths.delete(_unfinished(directory, part))
    with contextlib.suppress(OSError):  # an empty folder; buckets have none
        (directory / _UNFINISHED).rmdir()


def _number(
    directory: epath.Path,
    part: int,
    features: Features,
    fps: float,
    tasks: dict[str, int],
    first: int,
    before: Sequence[Mapping[str, Any]],
) -> list[tuple[dict[str, Any], dict[str, lerobot_statistics.Statistics]]]:
    """Writes a part's table; returns each episode's row of the metadata, and its statistics."""
    pa = _pyarrow()
    table = lerobot_directory.read_table(paths.read(_unfinished(directory, part)))
    counts = json.loads(table.schema.metadata[_COUNTS])
    texts = table[_TASK].to_pylist()
    of_row = table[_EPISODE].to_numpy()
    lengths = np.bincount(of_row, minlength=len(counts))
    start = before[-1]['dataset_to_index'] if before else 0
    frame = np.concatenate([np.arange(length) for length in lengths])
    keys = {
        'timestamp': (frame / fps).astype(np.float32),
        'frame_index': frame,
        'episode_index': of_row + first,
        'index': np.arange(len(frame)) + start,
        'task_index': np.array([tasks.setdefault(text, len(tasks)) for text in texts], np.int64),
    }
    table = table.drop_columns([_TASK, _EPISODE])
    for name, values in keys.items():
        table = table.append_column(name, pa.array(values))
    _write_table(directory / _place(_DATA, part), table.replace_schema_metadata(None))
    plain = [n for n, about in features.items() if about['dtype'] not in ('video', 'string')]
    values = {
        name: lerobot_directory.as_array(table[name], name, tuple(features[name]['shape']))
        for name in plain
    }
    place = {'chunk_index': part // CHUNK, 'file_index': part % CHUNK}
    episodes, behind = [], 0
    for number, length in enumerate(lengths.tolist()):
        inside = slice(behind, behind + length)
        row = {
            'episode_index': first + number,
            'tasks': list(dict.fromkeys(texts[inside])),
            'length': length,
            **{f'data/{key}': value for key, value in place.items()},
            'dataset_from_index': start + behind,
            'dataset_to_index': start + behind + length,
        }
        about = {name: lerobot_statistics.of_numbers(values[name][inside]) for name in plain}
        for name, pixels in counts[number].items():
            row |= {f'videos/{name}/{key}': value for key, value in place.items()}
            row[f'videos/{name}/from_timestamp'] = behind / fps
            row[f'videos/{name}/to_timestamp'] = (behind + length) / fps
            about[name] = lerobot_statistics.of_pictures(np.array(pixels), length)
        episodes.append((row, about))
        behind += length
    return episodes


def _write_meta(
    directory: epath.Path,
    rows: Sequence[Mapping[str, Any]],
    statistics: Sequence[Mapping[str, lerobot_statistics.Statistics]],
    tasks: Mapping[str, int],
) -> None:
    """The tables of episodes and of tasks."""
    pa = _pyarrow()
    described = [
        {
            **row,
            **{
                f'stats/{name}/{key}': value.tolist()
                for name, values in about.items()
                for key, value in values.items()
            },
            'meta/episodes/chunk_index': 0,
            'meta/episodes/file_index': 0,
        }
        for row, about in zip(rows, statistics, strict=True)
    ]
    place = lerobot_directory.META_TABLE.format(0, 0)
    _write_table(directory / place, pa.Table.from_pylist(described))
    # lerobot reads it by pandas, and takes the frame's index for the texts.
    index = '__index_level_0__'
    kinds = (('task_index', 'task_index', 'int64', 'int64'), (None, index, 'unicode', 'object'))
    keys = ('name', 'field_name', 'pandas_type', 'numpy_type')
    described_columns = [dict(zip(keys, kind), metadata=None) for kind in kinds]
    pandas = {'index_columns': [index], 'column_indexes': [], 'columns': described_columns}
    table = pa.table({'task_index': list(tasks.values()), index: pa.array(tasks, pa.string())})
    table = table.replace_schema_metadata({b'pandas': json.dumps(pandas).encode()})
    _write_table(directory / 'meta/tasks.parquet', table)


def _info(
    features: Features,
    fps: float,
    rows: Sequence[Mapping[str, Any]],
    tasks: int,
    splits: Mapping[str, int],
    robot: str,
) -> dict[str, Any]:
    ends = np.cumsum([0, *splits.values()]).tolist()
    return {
        'codebase_version': 'v3.0',
        'robot_type': robot or None,
        'total_episodes': len(rows),
        'total_frames': rows[-1]['dataset_to_index'],
        'total_tasks': tasks,
        'chunks_size': CHUNK,
        'data_files_size_in_mb': 100,
        'video_files_size_in_mb': 200,
        'fps': _whole(fps),
        'splits': {name: f'{a}:{b}' for name, a, b in zip(splits, ends, ends[1:])},
        'data_path': _DATA,
        'video_path': _VIDEO,
        'features': {name: {'names': None, **about} for name, about in features.items()},
    }


def _whole(fps: float) -> float:
    return int(fps) if fps == int(fps) else fps


def _checked(columns: Mapping[str, Any], name: str, about: Mapping[str, Any], steps: int) -> Any:
    """A feature's values of an episode: [T, *shape] of its type, or T texts."""
    if name not in columns:
        raise ValueError(f'an episode lacks {name!r}, which the features name')
    values = columns[name]
    if about['dtype'] == 'string':
        if len(values) != steps:
            raise ValueError(f'{name!r} has {len(values)} texts; {steps} are due')
        return list(values)
    values = np.asarray(values)
    if values.dtype != about['dtype'] or values.shape != (steps, *about['shape']):
        raise ValueError(
            f'{name!r} is {values.dtype} {list(values.shape)}; {about["dtype"]} '
            f'{[steps, *about["shape"]]} is due'
        )
    return values


def _column(rows: Sequence[Any], about: Mapping[str, Any]) -> Any:
    """The values of all episodes as a pyarrow array: scalars where the shape is [1], else lists."""
    pa = _pyarrow()
    if about['dtype'] == 'string':
        return pa.array([text for texts in rows for text in texts], pa.string())
    values = np.concatenate(rows)
    shape = tuple(about['shape'])
    column = pa.array(values.reshape(-1))
    for size in reversed(() if shape == (1,) else shape):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def _add(
    video: video_writer.Frames, name: str, pictures: Iterable[np.ndarray], steps: int
) -> list[list[int]]:
    """Adds an episode's pictures to a video; returns how often each value is in them."""
    counts, added = np.zeros([3, 256], np.int64), 0
    for pixels in pictures:
        try:
            video.add(pixels)
        except ValueError as error:
            raise ValueError(f'{name!r}, step {added}: {error}') from error
        counts += lerobot_statistics.count_values(pixels)
        added += 1
    if added != steps:
        raise ValueError(f'{name!r} has {added} pictures; {steps} are due')
    return counts.tolist()


def _place(template: str, part: int, **fields: str) -> str:
    return template.format(chunk_index=part // CHUNK, file_index=part % CHUNK, **fields)


def _unfinished(directory: epath.Path, part: int) -> epath.Path:
    return directory / _UNFINISHED / f'part-{part:06d}.parquet'


def _write_table(path: epath.Path, table: Any) -> None:
    from pyarrow import parquet  # pylint: disable=g-import-not-at-top

    path.parent.mkdir(parents=True, exist_ok=True)
    with paths.writing(path) as local:
        parquet.write_table(table, local, compression='snappy', use_dictionary=True)


def check_packages() -> None:
    """Checks that what writes a data set is installed, before anybody works for it.

    Raises:
        MissingPackage: PyAV or pyarrow isn't installed.
    """
    video_writer.pyav()
    _pyarrow()


def _pyarrow() -> Any:
    try:
        import pyarrow  # pylint: disable=g-import-not-at-top
    except ImportError as error:
        raise MissingPackage('writing a LeRobot data set', 'pyarrow', 'lerobot') from error
    return pyarrow
