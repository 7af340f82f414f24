"""Schedules, quotas and the map from example numbers to sources."""

from collections import Counter
import pickle

import numpy as np
import pytest

from rt2_jax.data.mixture import Interleaving, RobotShareMap, Schedule, quotas

SCHEDULES = [
    Schedule(start=0.5),
    Schedule(start=1 / 3),
    Schedule(start=0.66),
    Schedule('ramp', start=0.1, end=0.9, begin=20, finish=180),
    Schedule('ramp', start=0.8, end=0.2, begin=0, finish=50),
    Schedule('steps', boundaries=(30, 100), shares=(0.0, 0.37, 1.0)),
]


@pytest.mark.parametrize('schedule', SCHEDULES)
@pytest.mark.parametrize('batch_size', [1, 7, 64])
def test_share_follows_its_schedule_within_one_example(schedule, batch_size):
    table = quotas(schedule, 200, batch_size)
    wanted = schedule.share(np.arange(200)) * batch_size
    assert np.abs(np.diff(table) - wanted).max() <= 1 + 1e-3
    assert np.abs(table[1:] - np.cumsum(wanted)).max() <= 0.5 + 200 * batch_size / 2**20


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_every_example_of_every_source_comes_once_and_in_order(schedule):
    mapping = RobotShareMap(schedule, 150, 13, [1.0, 2.5], [0.3, 0.6, 0.1])
    seen, sides = Counter(), []
    for index in range(len(mapping)):
        source, position = mapping[index]
        assert position == seen[source]
        seen[source] += 1
        sides.append(source < 2)
    assert sum(seen.values()) == 150 * 13
    per_batch = np.reshape(sides, [150, 13]).sum(axis=1)
    np.testing.assert_array_equal(per_batch, np.diff(quotas(schedule, 150, 13)))
    assert abs(seen[1] - 2.5 * seen[0]) <= 4
    assert abs(seen[3] - 2 * seen[2]) <= 4


def test_robot_rows_are_spread_over_a_batch():
    mapping = RobotShareMap(Schedule(start=0.25), 3, 64, [1.0], [1.0])
    robot = np.array([mapping[i][0] == 0 for i in range(64)])
    assert robot.reshape(8, 8).sum(axis=1).tolist() == [2] * 8


def test_a_longer_run_starts_the_same():
    ramp = SCHEDULES[3]
    short, long = (RobotShareMap(ramp, n, 10, [1, 2], [1]) for n in (50, 400))
    assert [short[i] for i in range(500)] == [long[i] for i in range(500)]
    assert pickle.loads(pickle.dumps(long))[3210] == long[3210]


def test_interleaving_keeps_to_its_weights_throughout():
    weights = [5, 1, 3]
    counts = np.zeros(3)
    parts = Interleaving(weights)
    for k in range(900):
        counts[parts[k][0]] += 1
        assert np.abs(counts - (k + 1) * np.array(weights) / 9).max() <= 2


def test_bad_schedules():
    with pytest.raises(ValueError, match="did you mean 'constant'"):
        Schedule('constnat')
    with pytest.raises(ValueError, match=r'lie in \[0, 1\]; got 1.5'):
        Schedule(start=1.5)
    with pytest.raises(ValueError, match='one share more'):
        Schedule('steps', boundaries=(1,), shares=(0.5,))
    with pytest.raises(ValueError, match='finish after'):
        Schedule('ramp', begin=5, finish=5)
    with pytest.raises(ValueError, match="field 'stat'; did you mean 'start'"):
        Schedule.from_config({'stat': 0.5})
    with pytest.raises(ValueError, match='no robot source'):
        RobotShareMap(Schedule(start=0.5), 10, 8, [], [1.0])
    with pytest.raises(ValueError, match='no web source'):
        RobotShareMap(Schedule(start=0.5), 10, 8, [1.0], [])
    with pytest.raises(ValueError, match='positive'):
        Interleaving([1.0, 0.0])
    assert len(RobotShareMap(Schedule(start=0.0), 10, 8, [], [1.0])) == 80
