"""Small LeRobot data sets, v2.1 and v3.0, written with pyarrow and PyAV alone."""

import itertools
import json

import av
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from rt2_jax.data.robot_card import ActionPart, Gripper, RobotCard
from rt2_jax.text.actions import ActionSpace

FPS, SIZE = 10, 64
CAMERAS = ('observation.images.front', 'observation.images.wrist')
TASKS = ('pick the cube', 'push the ball')
LENGTHS = (5, 8, 3, 6)  # steps of each episode
NAMES = ('dx', 'dy', 'dz', 'gripper')
CARD = RobotCard(
    name='arm',
    images=CAMERAS,
    instruction='task',
    action=(ActionPart('action', 0, 3), ActionPart('action', 3, 4)),
    terminate='',
    terminate_rule='last_step',
    action_space=ActionSpace(
        low=(-1.0,) * 4, high=(1.0,) * 4, names=NAMES, units=('m',) * 3 + ('1',), bins=256
    ),
    frequency=FPS,
    frame='base',
    gripper=Gripper('absolute', closed=0.0, open=1.0),
    columns=('observation.state', 'timestamp'),
)


def frame(episode, step, camera):
    """Pixels of a step: a bar whose place says which step it is, over the colour of its episode."""
    pixels = np.full([SIZE, SIZE, 3], (60 * episode, 120 * camera, 40), np.uint8)
    pixels[6 * step : 6 * step + 6] = 230
    return pixels


def numbers(episode, steps):
    """The tables' columns of numbers of an episode."""
    rng = np.random.default_rng(episode)
    return {
        'action': rng.uniform(0, 1, [steps, 4]).astype(np.float32),
        'observation.state': rng.uniform(-1, 1, [steps, 6]).astype(np.float32),
        'timestamp': (np.arange(steps) / FPS).astype(np.float32),
        'frame_index': np.arange(steps),
        'episode_index': np.full(steps, episode),
        'task_index': np.full(steps, episode % len(TASKS)),
    }


def write_video(path, frames, codec='libx264', options=None):
    """Writes frames uint8 [N, H, W, 3] as a video; yields nothing where the codec isn't there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, 'w') as container:
        stream = container.add_stream(codec, rate=FPS, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = 'yuv420p'
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format='rgb24')))
        container.mux(stream.encode())
    return path


def decoded(path):
    """All frames of a video as FFmpeg decodes them from its start."""
    with av.open(path) as container:
        return [shown.to_ndarray(format='rgb24') for shown in container.decode(video=0)]


def write(directory, version='v3.0', **video):
    """A whole data set of LENGTHS; v3.0 has two tables, and its videos hold two episodes each.

    Args:
        directory: made.
        version: 'v2.1' or 'v3.0'.
        **video: codec and options of `write_video`.
    """
    (directory / 'meta').mkdir(parents=True)
    written = _write_v21 if version == 'v2.1' else _write_v30
    templates = written(directory, video)
    plain = {
        name: dict(dtype='int64', shape=[1])
        for name in ('frame_index', 'episode_index', 'task_index')
    }
    features = plain | {
        'action': dict(dtype='float32', shape=[4], names=list(NAMES)),
        'observation.state': dict(dtype='float32', shape=[6]),
        'timestamp': dict(dtype='float32', shape=[1]),
        **{camera: dict(dtype='video', shape=[SIZE, SIZE, 3]) for camera in CAMERAS},
    }
    info = dict(
        codebase_version=version,
        fps=FPS,
        features=features,
        total_episodes=len(LENGTHS),
        chunks_size=1000,
        splits=dict(train=f'0:{len(LENGTHS)}'),
    )
    (directory / 'meta/info.json').write_text(json.dumps(info | templates))
    return directory


def _write_v21(directory, video):
    for episode, steps in enumerate(LENGTHS):
        _write_table(
            directory / f'data/chunk-000/episode_{episode:06d}.parquet', numbers(episode, steps)
        )
        for number, camera in enumerate(CAMERAS):
            path = directory / f'videos/chunk-000/{camera}/episode_{episode:06d}.mp4'
            write_video(path, [frame(episode, t, number) for t in range(steps)], **video)
    lines = [
        dict(episode_index=episode, tasks=[TASKS[episode % 2]], length=steps)
        for episode, steps in enumerate(LENGTHS)
    ]
    tasks = [dict(task_index=number, task=task) for number, task in enumerate(TASKS)]
    for name, rows in (('episodes', lines), ('tasks', tasks)):
        (directory / f'meta/{name}.jsonl').write_text(
            ''.join(json.dumps(row) + '\n' for row in rows)
        )
    return dict(
        data_path='data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet',
        video_path='videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4',
    )


def _write_v30(directory, video):
    rows = []
    for file in range(2):
        episodes = [2 * file, 2 * file + 1]
        tables = [numbers(episode, LENGTHS[episode]) for episode in episodes]
        joined = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        _write_table(directory / f'data/chunk-000/file-{file:03d}.parquet', joined)
        for number, camera in enumerate(CAMERAS):
            path = directory / f'videos/{camera}/chunk-000/file-{file:03d}.mp4'
            frames = [frame(e, t, number) for e in episodes for t in range(LENGTHS[e])]
            write_video(path, frames, **video)
        starts = itertools.accumulate((LENGTHS[e] / FPS for e in episodes), initial=0.0)
        for episode, start in zip(episodes, starts):
            row = {'episode_index': episode, 'length': LENGTHS[episode]}
            for key in ('data', *(f'videos/{camera}' for camera in CAMERAS)):
                row |= {f'{key}/chunk_index': 0, f'{key}/file_index': file}
            rows.append(row | {f'videos/{camera}/from_timestamp': start for camera in CAMERAS})
    path = directory / 'meta/episodes/chunk-000/file-000.parquet'
    path.parent.mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(rows), path)
    tasks = {'task_index': list(range(len(TASKS))), '__index_level_0__': list(TASKS)}
    parquet.write_table(pa.table(tasks), directory / 'meta/tasks.parquet')
    return dict(
        data_path='data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet',
        video_path='videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4',
    )


def _write_table(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    lists = {
        name: pa.array(list(values)) if values.ndim > 1 else pa.array(values)
        for name, values in columns.items()
    }
    parquet.write_table(pa.table(lists), path)
