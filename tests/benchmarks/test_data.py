"""The benchmarks of data: their parts run, and what they count is what is there."""

import os
import sys

import pytest

from rt2_jax.benchmarks import data, harness, index, kitchen

EPISODES = 3


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp('kitchen')
    kitchen.write(directory, episodes=EPISODES, steps=4, pictures=kitchen.frames(4))
    return os.fspath(directory)


def measured(directory, part, python=sys.executable):
    command = data.commands(directory, python, 32, 20)[part]
    core = sorted(os.sched_getaffinity(0))[:1]
    return data.side_by_side({part: command}, directory, core, rounds=1, seconds=0.1)[part]


@pytest.mark.parametrize('part', ['ours', 'limit_reading'])
def test_a_part_runs(directory, part):
    found = measured(directory, part)
    assert found['steps_per_second'] == found['turns'][0] > 0
    assert 50 < found['cpu_microseconds'] < 20_000
    assert 1e8 < found['peak_bytes'] < 1e9 and found['first_batch_seconds'] > 0
    if part == 'ours':
        assert found['distinct'] == EPISODES and 0 < found['state_bytes'] < 1000


def test_the_peer_runs(directory):
    python = os.environ.get('PEER_PYTHON', sys.executable)
    if reason := data.missing_peer(python):
        pytest.skip(
            f'the peer is an extra ({reason}); to run: pip install tensorflow, or PEER_PYTHON=python '
            'of an environment that has it, then pytest tests/benchmarks'
        )
    found = measured(directory, 'peer', python)
    assert found['distinct'] == EPISODES and found['steps_per_second'] > 20
    # A buffer of 20 pictures and what is read ahead of it.
    assert 5e5 < found['state_bytes'] < 1e8


def test_a_reader_that_fails_says_why():
    command = [sys.executable, '-c', 'raise SystemExit("no such data")']
    with pytest.raises(RuntimeError, match='no such data'):
        harness.Worker(command, [0])


def test_growth_leaves_the_warm_up_out():
    warm_up, steady = list(range(10)), [100] * 80
    assert harness.growth(warm_up + steady + [104] * 10)['growth'] == 0.04
    assert harness.growth(warm_up + steady + [100] * 10)['growth'] == 0


@pytest.mark.parametrize('kind', index.KINDS)
def test_the_index_of_linked_shards(tmp_path, kind):
    dataset, location = index.made(kind, tmp_path / 'set'), os.fspath(tmp_path / 'index')
    dataset.write(2 * dataset.shard)
    shards = dataset.files()
    assert len(shards) == 2 and len({os.stat(shard).st_ino for shard in shards}) == 1
    built = index.build(dataset, location)
    assert built['examples'] == 2 * dataset.shard and 40 < built['index_bytes_an_example'] < 200
    assert index.open_first(dataset, location)['first_open_seconds'] > 0
    used = index.use(dataset, location, 100)
    assert 0 < used['row_microseconds'] < used['example_microseconds'] < 5000
