"""Which tile an episode went to first."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip('mujoco', reason="the tabletop needs pip install 'rt2_jax[sim]'")

from rt2_jax.envs.tabletop import expert, stage
from rt2_jax.envs.tabletop.approach import Approach, brought_to
from rt2_jax.envs.tabletop.table_state import Pose, State
from rt2_jax.evaluation import closed_loop, play_figures

TILES = (Pose(0.1, 0.1, 0, 0, 1), Pose(-0.1, 0.0, 0, 0, 1))


def state(x, y, z=stage.GRIPPER_HIGH, closed=False, tiles=TILES):
    return State(x, y, z, 0, stage.OPENING, closed, tiles)


def first_tile(*states):
    approach = Approach(state(0, 0))
    for now in states:
        approach.step(now)
    return approach.tile


def test_the_first_tile_is_where_it_comes_down_or_closes():
    low = stage.GRIPPER_LOW
    assert first_tile(state(0.1, 0.12), state(0.1, 0.12, low), state(-0.1, 0, low)) == 0
    assert first_tile(state(-0.1, 0.0), state(-0.1, 0.01, low, True)) == 1
    assert first_tile(state(0.1, 0.1, closed=True), state(-0.1, 0, low)) == 0
    # Between the tiles, and only then to one.
    assert first_tile(state(0.0, -0.1, low), state(0.1, 0.1, low)) is None


def test_without_coming_down_it_is_the_lowest_point():
    assert first_tile(state(-0.1, 0, 0.06), state(0.1, 0.1, 0.065)) == 1
    assert first_tile(state(-0.1, 0, 0.065), state(0.1, 0.1, 0.06)) == 0
    assert first_tile(state(0.1, 0.1), state(0.1, 0.1, 0.09)) is None
    assert first_tile() is None


def test_a_tile_that_is_pushed_off_was_there_before():
    shoved = (dataclasses.replace(TILES[0], x=0.3), TILES[1])
    assert first_tile(state(0.1, 0.1, 0.004, tiles=shoved)) == 0


def test_the_tile_that_x_is_brought_to():
    third = Pose(0.1, -0.12, 0, 0, 1)
    start = state(0, 0, tiles=(*TILES, third))
    at = lambda x, y: state(0, 0, tiles=(Pose(x, y, 0, 0, 1), TILES[1], third))
    assert brought_to(start, start) is None
    assert brought_to(start, at(0.02, 0.05)) == 1
    assert brought_to(start, at(0.1, 0.0)) == 2


@pytest.mark.parametrize('suite', ['seen', 'reasoning', 'unseen_environments_hard'])
def test_the_expert_goes_to_x_first(suite):
    run = closed_loop.run(closed_loop.scripted(), suite, range(8), image_size=16)
    figures = play_figures.summary(run)
    assert figures['recognition']['share'] == 1 and figures['recognition']['of'] == 8
    assert figures['execution']['count'] == round(8 * figures['success'])
    assert 0.25 <= figures['recognition']['by_chance'] <= 0.5
    for rollout in figures['rollouts']:
        assert rollout['recognised'] and rollout['first_tile']
        assert rollout['brought_to_y'] == (rollout['task'] == 'push')
    pushes = [rollout for rollout in figures['rollouts'] if rollout['task'] == 'push']
    assert figures['goal']['count'] == figures['goal']['of'] == len(pushes) > 0


def test_who_takes_another_tile_did_not_recognise():
    def decide(observations, envs):
        """The expert, with the first two tiles confused."""
        swap = lambda s: dataclasses.replace(s, tiles=(s.tiles[1], s.tiles[0], *s.tiles[2:]))
        tables = [environment.env for environment in envs]
        actions = [expert.act(swap(at.state), swap(at.start), at.task) for at in tables]
        return [closed_loop.Move(action) for action in actions]

    run = closed_loop.run(decide, 'seen', range(3), task='pick', image_size=16)
    figures = play_figures.summary(run)
    assert figures['recognition']['share'] == 0 and figures['success'] == 0
    assert figures['execution'] == {'share': None, 'count': 0, 'of': 0, 'interval': None}
    assert all(rollout['first_tile'] for rollout in figures['rollouts'])


def test_who_ends_at_once_went_nowhere():
    move = closed_loop.Move(np.array([1, 0, 0, 0, 0, 0, 0, 1], np.float32))
    stop = lambda observations, envs: [move] * len(envs)
    figures = play_figures.summary(closed_loop.run(stop, 'seen', range(4), image_size=16))
    assert figures['recognition']['count'] == 0
    assert {rollout['first_tile'] for rollout in figures['rollouts']} == {''}
