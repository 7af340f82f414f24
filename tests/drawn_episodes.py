"""A small tabletop data set, written as collection writes it but with drawn frames."""

import numpy as np

from rt2_jax.data.robot import rlds_writer
from rt2_jax.envs.tabletop import schema

SIZE = 64
SHARDS = 3


def make_episode(number: int) -> dict:
    """Episode `number`: 3 to 8 steps, every field a function of (number, step)."""
    rng = np.random.default_rng(number)
    steps = 3 + number % 6
    backdrop = rng.integers(0, 256, [4, 4, 3], dtype=np.uint8).repeat(16, 0).repeat(16, 1)

    def step(t):
        frame = backdrop.copy()
        frame[8 * t : 8 * t + 8] = (40 * number % 256, 20 * t, 128)
        return {
            'observation': {
                'image': frame,
                'natural_language_instruction': f'pick thing {number % 4}',
                'gripper_xyz': rng.uniform(-0.2, 0.2, 3).astype(np.float32),
                'gripper_yaw': np.float32(rng.uniform(-0.2, 0.2)),
                'gripper_pixel': np.array([t / 10, number / 100], np.float32),
                'gripper_opening': np.float32(0.3 * (t % 4)),
                'object_names': f'thing {number % 4}\nthé {t}',
                'object_pixels': np.full([4, 2], np.nan, np.float32),
            },
            'action': {
                'world_vector': rng.uniform(-0.4, 0.4, 3).astype(np.float32),
                'rotation_delta': np.array([0, 0, 0.1 * t], np.float32),
                'gripper_closedness_action': np.array([(-1.0) ** t], np.float32),
                'terminate_episode': np.array([t == steps - 1], np.int32),
            },
            'reward': np.float32(t == steps - 1),
            'discount': np.float32(1),
            'is_first': t == 0,
            'is_last': t == steps - 1,
            'is_terminal': t == steps - 1,
        }

    return {
        'steps': [step(t) for t in range(steps)],
        'episode_metadata': {
            'success': number % 5 != 0,
            'task': 'pick',
            'suite': 'seen',
            'seed': 2**40 + number,
            'objects': [f'thing {i}' for i in range(number % 3)],
        },
    }


def write_dataset(directory, episodes: int = 30, shards: int = SHARDS):
    """A whole data set of `episodes` episodes in `shards` shards."""
    directory.mkdir(parents=True, exist_ok=True)
    features = schema.features(SIZE)
    encode = rlds_writer.EpisodeEncoder(features)
    numbers = np.array_split(np.arange(episodes), shards)
    for shard, inside in enumerate(numbers):
        rlds_writer.write_shard(
            directory / rlds_writer.shard_name(schema.NAME, 'train', shard, shards),
            (encode(make_episode(int(n))) for n in inside),
        )
    rlds_writer.finish(
        directory,
        features,
        name=schema.NAME,
        version=schema.VERSION,
        description=schema.DESCRIPTION,
        shard_lengths=[len(x) for x in numbers],
    )
    return directory
