"""Data sets of drawn episodes, and a server of them."""

import drawn_episodes
import object_server
import pytest

from rt2_jax import buckets
from rt2_jax.data import remote_files
from rt2_jax.data.robot import rlds_writer
from rt2_jax.envs.tabletop import schema


@pytest.fixture
def dataset(tmp_path):
    """A data set that the test may damage."""
    return drawn_episodes.write_dataset(tmp_path / 'tabletop')


@pytest.fixture(scope='session')
def whole_dataset(tmp_path_factory):
    """A data set shared by the tests that only read."""
    return drawn_episodes.write_dataset(tmp_path_factory.mktemp('data') / 'tabletop')


@pytest.fixture
def write(tmp_path):
    """write(name, episodes) -> a data set of one shard, of episodes by number or as they are."""

    def write(name, episodes):
        (tmp_path / name).mkdir()
        features = schema.features(drawn_episodes.SIZE)
        encode = rlds_writer.EpisodeEncoder(features)
        made = [drawn_episodes.make_episode(e) if isinstance(e, int) else e for e in episodes]
        shard = rlds_writer.shard_name(schema.NAME, 'train', 0, 1)
        rlds_writer.write_shard(tmp_path / name / shard, map(encode, made))
        about = dict(name=schema.NAME, version=schema.VERSION, description=schema.DESCRIPTION)
        rlds_writer.finish(tmp_path / name, features, shard_lengths=[len(made)], **about)
        return tmp_path / name

    write.episode = drawn_episodes.make_episode
    return write


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An ObjectServer of an empty folder, to which gs:// and s3:// lead too."""
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
        monkeypatch.setattr(remote_files, 'LIMITS', object_server.LIMITS)
        buckets.client.cache_clear()
        yield server
        buckets.client.cache_clear()
