"""Writes a data set with the real `lerobot` package and dumps what its own loader gives.

    LEROBOT_PYTHON tests/data/lerobot_own.py OUTPUT FRAMES.npz

Run by test_lerobot_package in an environment of its own: lerobot 0.4 writes v3.0, lerobot 0.3 v2.1.
"""

import inspect
import pathlib
import sys

from lerobot.datasets.lerobot_dataset import LeRobotDataset
import numpy as np

FPS, HEIGHT, WIDTH = 10, 96, 128
CAMERAS = ('observation.images.front', 'observation.images.wrist')
LENGTHS, TASKS = (7, 12, 5), ('pick the cube', 'push the ball', 'pick the cube')


def frame(rng, step):
    """A moving picture with edges and noise, which no codec keeps exactly."""
    pixels = np.full([HEIGHT, WIDTH, 3], 90, np.uint8)
    pixels[4 * step : 4 * step + 20, 10:60] = rng.integers(0, 256, 3)
    return pixels + rng.integers(0, 20, pixels.shape, dtype=np.uint8)


def write(root):
    features = {
        'action': dict(dtype='float32', shape=(4,), names=['dx', 'dy', 'dz', 'gripper']),
        'observation.state': dict(dtype='float32', shape=(6,), names=[f'j{i}' for i in range(6)]),
    }
    for camera in CAMERAS:
        features[camera] = dict(
            dtype='video', shape=(HEIGHT, WIDTH, 3), names=['height', 'width', 'channels']
        )
    dataset = LeRobotDataset.create('us/arm', FPS, features, root=root, robot_type='arm')
    if hasattr(dataset.meta, 'update_chunk_settings'):
        dataset.meta.update_chunk_settings(video_files_size_in_mb=0.008)  # several videos
    rng = np.random.default_rng(0)
    takes_task = 'task' in inspect.signature(dataset.add_frame).parameters
    for length, task in zip(LENGTHS, TASKS):
        for step in range(length):
            values = {camera: frame(rng, step) for camera in CAMERAS}
            for name in ('action', 'observation.state'):
                values[name] = rng.uniform(-1, 1, features[name]['shape']).astype(np.float32)
            if takes_task:
                dataset.add_frame(values, task)
            else:
                dataset.add_frame(values | {'task': task})
        dataset.save_episode()
    if hasattr(dataset, 'finalize'):
        dataset.finalize()


def dump(root, output):
    # The other backend, torchcodec, needs FFmpeg's own libraries.
    dataset = LeRobotDataset('us/arm', root=root, video_backend='pyav')
    items = [dataset[i] for i in range(len(dataset))]
    arrays = {}
    for camera in CAMERAS:
        pictures = np.stack([item[camera].numpy() for item in items]).transpose(0, 2, 3, 1)
        arrays[camera] = (pictures * 255).round().astype(np.uint8)
    for name in ('action', 'observation.state', 'timestamp', 'episode_index', 'frame_index'):
        arrays[name] = np.stack([item[name].numpy() for item in items])
    np.savez(output, task=[item['task'] for item in items], **arrays)


if __name__ == '__main__':
    write(pathlib.Path(sys.argv[1]))
    dump(sys.argv[1], sys.argv[2])
