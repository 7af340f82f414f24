"""The scripted expert reaches its goals: exact, rounded to bins, under noise, from odd starts."""

import dataclasses

import numpy as np
import pytest

from rt2_jax.envs.tabletop import expert, suites, tasks
from rt2_jax.envs.tabletop.env import TabletopEnv
from rt2_jax.text.actions import ActionSpace


@pytest.mark.parametrize('kind', tasks.KINDS)
def test_succeeds(kind):
    exact = expert.measure(kind, range(12), suite='seen')
    assert all(o.success for o in exact)
    assert np.mean([o.steps for o in exact]) < 7
    rounded = expert.measure(kind, range(12), suite='train', round_actions=True)
    assert sum(o.success for o in rounded) >= 11
    noisy = expert.measure(kind, range(12), suite='train', noise=0.1)
    assert sum(o.success for o in noisy) >= 10


@pytest.mark.parametrize('name', suites.SUITES)
def test_every_suite_can_be_solved(name):
    env = TabletopEnv(suite=name, image_size=8)
    outcomes = [expert.play(env, seed, None) for seed in range(9)]
    assert sum(o.success for o in outcomes) >= 8
    env.close()


def play_on(env):
    """Lets the expert finish; returns the last step's info."""
    while True:
        action = expert.act(env.state, env.start, env.task)
        _, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            return info


def test_recovers_from_a_grasp_of_nothing():
    env = TabletopEnv(suite='seen', image_size=8)
    env.reset(seed=11, options={'task': 'pick'})
    x = env.state.tiles[0]
    assert np.hypot(x.x - env.state.x, x.y - env.state.y) > 0.1
    env.step(np.array([0, 0, 0, -0.09, 0, 0, 0, -1], np.float32))
    env.step(np.array([0, 0, 0, 0, 0, 0, 0, 1], np.float32))
    assert env.state.closed and not expert.holds(env.state)
    action = expert.act(env.state, env.start, env.task)
    assert action[7] == expert.OPEN and action[3] > 0.03
    assert play_on(env)['success']
    env.close()


@pytest.mark.parametrize('kind', tasks.KINDS)
def test_recovers_from_losing_x(kind):
    """X is taken out of the hand and put back where it stood; the expert fetches it again."""
    env = TabletopEnv(suite='seen', image_size=8)
    env.reset(seed=5, options={'task': kind})
    begin = env.stage.data.joint('tile0').qpos.copy()
    while not expert.holds(env.state):
        env.step(expert.act(env.state, env.start, env.task))
    env.step(np.array([0, 0.02, 0.02, 0.06, 0, 0, 0, 1], np.float32))
    joint = env.stage.data.joint('tile0')
    joint.qpos, joint.qvel = begin, 0
    env.step(np.array([0, 0, 0, 0.05, 0, 0, 0, 1], np.float32))
    assert not expert.holds(env.state)
    assert play_on(env)['success']
    env.close()


def test_decides_from_the_present_alone():
    """The same state gives the same action however it was reached, and never looks at Y to pick."""
    env = TabletopEnv(suite='seen', image_size=8)
    env.reset(seed=2, options={'task': 'pick'})
    first = expert.act(env.state, env.start, env.task)
    moved = dataclasses.replace(
        env.state, tiles=(env.state.tiles[0], dataclasses.replace(env.state.tiles[1], x=0.0))
    )
    np.testing.assert_array_equal(first, expert.act(moved, env.start, env.task))
    env.close()


def test_rounding_moves_by_at_most_half_a_bin():
    space = ActionSpace.rt1_bounds()
    rng = np.random.default_rng(0)
    for _ in range(50):
        action = np.concatenate([[0], rng.uniform(space.low, space.high)]).astype(np.float32)
        error = np.abs(expert.rounded(action, space)[1:] - action[1:])
        assert (error <= space.bin_widths / 2 + 1e-6).all()
    assert not expert.rounded(np.zeros(8, np.float32), space).any()
