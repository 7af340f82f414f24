"""A small tabletop data set, written as collection writes it but with drawn frames."""

import numpy as np
import pytest

from rt2_jax import buckets
from rt2_jax.data import remote_files
from rt2_jax.data.robot import rlds_writer
from rt2_jax.envs.tabletop import schema

SIZE = 64
SHARDS = 3
LIMITS = remote_files.Limits(
    tries=4, seconds=20, request_seconds=5, stall_seconds=0.2, first_pause=0.01, longest_pause=0.05
)


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


@pytest.fixture
def dataset(tmp_path):
    """A data set that the test may damage."""
    return write_dataset(tmp_path / 'tabletop')


@pytest.fixture(scope='session')
def whole_dataset(tmp_path_factory):
    """A data set shared by the tests that only read."""
    return write_dataset(tmp_path_factory.mktemp('data') / 'tabletop')


@pytest.fixture
def write(tmp_path):
    """write(name, episodes) -> a data set of one shard, of episodes by number or as they are."""

    def write(name, episodes):
        (tmp_path / name).mkdir()
        features = schema.features(SIZE)
        encode = rlds_writer.EpisodeEncoder(features)
        made = [make_episode(e) if isinstance(e, int) else e for e in episodes]
        shard = rlds_writer.shard_name(schema.NAME, 'train', 0, 1)
        rlds_writer.write_shard(tmp_path / name / shard, map(encode, made))
        about = dict(name=schema.NAME, version=schema.VERSION, description=schema.DESCRIPTION)
        rlds_writer.finish(tmp_path / name, features, shard_lengths=[len(made)], **about)
        return tmp_path / name

    write.episode = make_episode
    return write


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An ObjectServer of an empty folder, to which gs:// and s3:// lead too."""
    import object_server  # other rooms' tests load this file from elsewhere

    with object_server.serve(tmp_path / 'served') as server:
        for name, value in {
            'GOOGLE_BASE_URL': server.url,
            'GOOGLE_SKIP_SIGNATURE': 'true',
            'AWS_ENDPOINT_URL': server.url,
            'AWS_SKIP_SIGNATURE': 'true',
            'AWS_REGION': 'nowhere',
            'XDG_CACHE_HOME': str(tmp_path / 'cache'),
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(remote_files, 'LIMITS', LIMITS)
        buckets.client.cache_clear()
        yield server
        buckets.client.cache_clear()
