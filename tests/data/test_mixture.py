"""Schedules, shares and the map from example numbers to sources."""

from collections import Counter
import pickle

import numpy as np
import pytest

from rt2_jax.data.mixture import BLOCK, Mixture, MixtureSchedule, spread
from rt2_jax.data.schedules import Schedule


def constant(*values):
    return tuple(Schedule(start=value) for value in values)


OPEN_X = constant(0.54, 0.83, 1, 2, 2, 3, 1, 2, 1, 1)
MIXTURES = {
    'halves': Mixture(Schedule(start=0.5), constant(1, 2.5), constant(0.3, 0.6, 0.1)),
    'thirds': Mixture(Schedule(start=1 / 3), constant(1), constant(1)),
    'rising': Mixture(
        Schedule('ramp', start=0.1, end=0.9, begin=20, finish=180), constant(1), constant(1, 2)
    ),
    'falling': Mixture(
        Schedule('cosine', start=0.8, end=0.2, begin=0, finish=50), constant(1, 1), constant(1)
    ),
    'steps': Mixture(
        Schedule('steps', boundaries=(30, 100), shares=(0.0, 0.37, 1.0)), OPEN_X, constant(1)
    ),
    'by set': Mixture(
        Schedule(start=0.66),
        (*OPEN_X, Schedule('steps', boundaries=(100,), shares=(0.6, 0.0))),
        (Schedule('linear', start=0, end=3, finish=99), *constant(0.001)),
    ),
}


@pytest.fixture(params=MIXTURES, ids=str)
def mixture(request):
    return MIXTURES[request.param]


def counted(mixture, batches, batch_size):
    """Examples by batch and source, int [batches, sources], of a whole run."""
    mapping = MixtureSchedule(mixture, batches, batch_size)
    sources = [mapping[i][0] for i in range(len(mapping))]
    table = np.zeros([batches, len(mixture)], int)
    np.add.at(table, (np.arange(len(sources)) // batch_size, sources), 1)
    return table


@pytest.mark.parametrize('batch_size', [1, 7, 64])
def test_every_batch_has_each_source_within_one_example_of_its_schedule(mixture, batch_size):
    table = counted(mixture, 200, batch_size)
    wanted = batch_size * mixture.shares(np.arange(200))
    assert (table.sum(axis=1) == batch_size).all()
    assert np.abs(table - wanted).max() < 1 + 1e-6
    assert np.abs(np.cumsum(table - wanted, axis=0)).max() < 4
    assert not table[wanted == 0].any()


def test_every_example_of_every_source_comes_once(mixture):
    batches, size = BLOCK + 150, 13
    mapping = MixtureSchedule(mixture, batches, size)
    seen = [set() for _ in range(len(mixture))]
    for batch in range(batches):
        for row in range(size):
            source, position = mapping[batch * size + row]
            assert position not in seen[source]
            seen[source].add(position)
        if batch % 29 == 0:  # nothing is left out before, or taken ahead of, the end of a batch
            assert [len(x) for x in seen] == mapping.before(batch + 1).tolist()
            assert all(not x or max(x) == len(x) - 1 for x in seen)


def test_sources_are_spread_over_a_batch():
    mapping = MixtureSchedule(Mixture(Schedule(start=0.25), constant(1, 1), constant(1)), 3, 64)
    sources = np.array([mapping[i][0] for i in range(64)]).reshape(8, 8)
    assert [[(row == s).sum() for s in range(3)] for row in sources] == [[1, 1, 6]] * 8
    for size in (1, 7, 96):
        assert sorted(spread(size)) == list(range(size))


def test_a_longer_run_starts_the_same():
    short, long = (MixtureSchedule(MIXTURES['by set'], n, 10) for n in (50, BLOCK + 400))
    assert [short[i] for i in range(500)] == [long[i] for i in range(500)]
    assert pickle.loads(pickle.dumps(long))[3210] == long[3210]
    assert short.before(50).tolist() == long.before(50).tolist()


def test_a_million_steps_of_twenty_sources_are_a_small_table():
    rising = [Schedule('cosine', start=1, end=i, finish=900_000) for i in range(2, 12)]
    mapping = MixtureSchedule(
        Mixture(Schedule(start=0.5), tuple(rising), constant(*range(1, 11))), 10**6, 2048
    )
    assert len(pickle.dumps(mapping)) < 300_000
    counts = Counter(mapping[987_654 * 2048 + row][0] for row in range(2048))
    wanted = mapping.wanted(987_654, 987_655)
    assert all(abs(counts[source] - wanted[source]) < 1 for source in range(20))
    np.testing.assert_allclose(mapping.before(10**6), mapping.wanted(0, 10**6), rtol=1e-5)


def test_schedules():
    steps = np.array([0, 10, 15, 20, 30])
    assert Schedule('linear', start=1, end=3, begin=10, finish=20).at(steps).tolist() == [
        1,
        1,
        2,
        3,
        3,
    ]
    half = Schedule('cosine', start=1, end=3, begin=10, finish=20)
    np.testing.assert_allclose(half.at(np.array([10, 12.5, 15, 20])), [1, 2 - 0.5**0.5, 2, 3])
    assert Schedule('steps', boundaries=(15,), shares=(2, 5)).at(steps).tolist() == [2, 2, 5, 5, 5]
    assert half.times(2).at(steps).tolist() == (2 * half.at(steps)).tolist()
    assert Schedule.from_config(2) == Schedule(start=2.0)
    assert Schedule('ramp') == Schedule('linear')


def test_bad_schedules():
    with pytest.raises(ValueError, match="did you mean 'constant'"):
        Schedule('constnat')
    with pytest.raises(ValueError, match='0 or more and finite; got -1'):
        Schedule(start=-1)
    with pytest.raises(ValueError, match='one share more'):
        Schedule('steps', boundaries=(1,), shares=(0.5,))
    with pytest.raises(ValueError, match='finish after'):
        Schedule('ramp', begin=5, finish=5)
    with pytest.raises(
        ValueError, match="schedule.stat: there is no such field; did you mean 'start'"
    ):
        Schedule.from_config({'stat': 0.5})


def test_mixtures_that_cannot_be():
    with pytest.raises(ValueError, match=r'lie in \[0, 1\]; got 1.5'):
        Mixture(Schedule(start=1.5), constant(1), ())
    with pytest.raises(ValueError, match='there is no robot source'):
        MixtureSchedule(Mixture(Schedule(start=0.5), (), constant(1)), 10, 8)
    with pytest.raises(ValueError, match='there is no web source'):
        MixtureSchedule(Mixture(Schedule(start=0.5), constant(1), ()), 10, 8)
    ending = (Schedule('steps', boundaries=(7,), shares=(1, 0)),)
    with pytest.raises(ValueError, match='robot examples, but all its weights are 0 at step 7'):
        MixtureSchedule(Mixture(Schedule(start=0.5), ending, constant(1)), 10, 8)
    assert len(MixtureSchedule(Mixture(Schedule(start=0.0), (), constant(1)), 10, 8)) == 80
