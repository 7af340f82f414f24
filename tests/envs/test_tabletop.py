"""The tabletop environment: gymnasium's rules, determinism, suites, goals and bad input."""

import dataclasses
import itertools
import math
import warnings

import gymnasium
from gymnasium.utils.env_checker import check_env
import numpy as np
import pytest

from rt2_jax.envs.tabletop import expert, suites, tasks
from rt2_jax.envs.tabletop.env import TabletopEnv
from rt2_jax.envs.tabletop.stage import OPENING, TILE_HEIGHT, WORKSPACE, Stage
from rt2_jax.envs.tabletop.table_state import Pose, State

STAY = np.array([0, 0, 0, 0, 0, 0, 0, -1], np.float32)


@pytest.fixture(scope='module')
def env():
    made = TabletopEnv(suite='seen', image_size=96)
    yield made
    made.close()


def command(**values):
    action = STAY.copy()
    for name, value in values.items():
        action[['terminate', 'dx', 'dy', 'dz', 'drx', 'dry', 'drz', 'gripper'].index(name)] = value
    return action


def test_follows_gymnasium():
    made = gymnasium.make('rt2_jax/Tabletop-v0', suite='seen', image_size=32)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # it recommends actions in [-1, 1]; ours have units
        check_env(made.unwrapped)
    made.close()


def test_same_seed_same_episode(env):
    actions = [command(dx=0.05, dy=-0.1), command(dz=-0.09), command(gripper=1)]

    def roll(environment, kind):
        frames = [environment.reset(seed=7, options={'task': kind})[0]['image']]
        return frames + [environment.step(a)[0]['image'] for a in actions]

    other = TabletopEnv(suite='seen', image_size=96)
    other.reset(seed=3)
    for first, second in zip(roll(env, 'push'), roll(other, 'push'), strict=True):
        np.testing.assert_array_equal(first, second)
    other.close()
    assert suites.draw('seen', 7, 'push') == env.scene
    assert suites.draw('seen', 8, 'push') != env.scene
    assert suites.draw('unseen_backgrounds', 7, 'push') != env.scene


def test_noise_is_of_the_episode_and_repeats():
    env = TabletopEnv(suite='train', image_size=16, execution_noise=0.1)

    def end():
        env.reset(seed=5)
        return env.step(command(dx=0.05))[-1]['gripper_xyz']

    quiet = TabletopEnv(suite='train', image_size=16)
    quiet.reset(seed=5)
    np.testing.assert_array_equal(end(), end())
    assert np.abs(end() - quiet.step(command(dx=0.05))[-1]['gripper_xyz']).max() > 1e-3


def test_actions_move_the_gripper_by_what_they_say(env):
    for seed, delta in enumerate([(0.1, 0.05, 0), (-0.08, 0.1, 0.015), (0.02, -0.05, -0.03)]):
        _, before = env.reset(seed=seed)
        turn = 0.3 * (-1) ** seed
        _, _, _, _, after = env.step(command(dx=delta[0], dy=delta[1], dz=delta[2], drz=turn))
        moved = after['gripper_xyz'] - before['gripper_xyz']
        np.testing.assert_allclose(moved, delta, atol=0.004)
        assert abs(after['gripper_yaw'] - before['gripper_yaw'] - turn) < 0.03


def test_one_step_crosses_the_workspace(env):
    env.reset(seed=0)
    env.step(command(dx=-0.4, dy=-0.4))
    _, _, _, _, info = env.step(command(dx=0.4, dy=0.4))
    np.testing.assert_allclose(info['gripper_xyz'][:2], WORKSPACE, atol=0.006)


@pytest.mark.parametrize('right, far', [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_the_gripper_stays_in_the_picture(env, right, far):
    env.reset(seed=0)
    env.step(command(dx=-0.4 * right, dy=-0.4 * far))
    env.step(command(dx=0.4 * right, dy=0.4 * far))
    lamps = [env.stage.data.geom(name).xpos for name in ('lamp_left', 'lamp_right')]
    pixels = np.array([env.stage.project(lamp) for lamp in lamps])
    assert ((pixels > 0) & (pixels < 1)).all(axis=1).any()


def test_the_fingers_show_what_they_feel(env):
    """Green while open, yellow around a tile, magenta holding it; red when closed on nothing."""

    def colour():
        return tuple(env.stage.model.geom('lamp_left').rgba[:3].round(1))

    env.reset(seed=3, options={'task': 'pick'})
    seen = []
    for _ in range(3):
        env.step(expert.act(env.state, env.start, env.task))
        seen.append(colour())
    assert seen == [(0.1, 1, 0.2), (1, 1, 0.1), (1, 0.1, 1)]
    env.reset(seed=3)
    env.step(command(gripper=1))
    assert colour() == (1, 0.1, 0.1)


def test_tilt_lasts_for_its_step(env):
    env.reset(seed=1)
    env.step(command(drx=0.2))
    hand = env.stage.model.body('hand').id
    assert env.stage.data.xmat[hand][8] < math.cos(0.15)
    env.step(STAY)
    assert env.stage.data.xmat[hand][8] > math.cos(0.03)


def test_pixels_show_where_things_are(env):
    """Recolouring a tile changes the frame around its pixel, and not far from it."""
    scene = suites.draw('seen', 21, 'pick')
    plain, info = env.reset(seed=21, options={'scene': scene})
    tile = dataclasses.replace(scene.tiles[1], colour=(1.0, 0.0, 1.0))
    changed = dataclasses.replace(scene, tiles=(scene.tiles[0], tile, *scene.tiles[2:]))
    other, _ = env.reset(seed=21, options={'scene': changed})
    differs = np.abs(plain['image'].astype(int) - other['image']).sum(axis=2) > 60
    rows, columns = np.nonzero(differs)
    assert len(rows) > 30
    u, v = info['object_pixels'][1] * 96
    assert abs(np.median(columns) - u) < 4 and abs(np.median(rows) - v) < 6


def test_info_is_complete(env):
    observation, info = env.reset(seed=2, options={'task': 'turn'})
    count = len(info['object_names'])
    assert 2 <= count <= 4
    assert info['object_pixels'].shape == (count, 2) and info['object_xyz'].shape == (count, 3)
    assert info['gripper_pixel'].shape == (2,) and info['gripper_xyz'].shape == (3,)
    assert ((info['object_pixels'] > 0) & (info['object_pixels'] < 1)).all()
    assert observation['instruction'] == info['plan'] and info['task'] == 'turn'
    assert env.render().shape == (480, 480, 3)


def state(*tiles):
    return State(0, 0, 0.1, 0, OPENING, False, tuple(Pose(*tile) for tile in tiles))


def test_goals():
    start = state((0, 0, 0, 0.1, 1), (0.1, 0.1, 0, 0, 1))
    pick = tasks.Task('pick', 'pick a', 'pick a')
    assert tasks.succeeded(pick, start, state((0, 0, 0.051, 0, 1), (0.1, 0.1, 0, 0, 1)))
    assert not tasks.succeeded(pick, start, state((0, 0, 0.04, 0, 1), (0.1, 0.1, 0, 0, 1)))
    push = tasks.Task('push', 'push a to b', 'push a to b')
    assert tasks.succeeded(push, start, state((0, 0.1, 0, 0, 1), (0.13, 0.1, 0, 0, 1)))
    assert not tasks.succeeded(push, start, state((0, 0.1, 0, 0, 1), (0.15, 0.1, 0, 0, 1)))
    assert not tasks.succeeded(push, start, state((0.1, 0, 0, 0, 1), (0.19, 0.1, 0, 0, 1)))
    assert not tasks.succeeded(push, start, state((0, 0.1, 0.05, 0, 1), (0.1, 0.1, 0, 0, 1)))
    left = tasks.Task('turn', 'turn a left', 'turn a left', 'left')
    right = tasks.Task('turn', 'turn a right', 'turn a right', 'right')
    for degrees, done in ((90, True), (72, True), (109, True), (60, False), (-90, False)):
        now = state((0, 0, 0, 0.1 + math.radians(degrees), 1), (0.1, 0.1, 0, 0, 1))
        assert tasks.succeeded(left, start, now) == done
        assert tasks.succeeded(right, start, now) == (degrees == -90)


def test_grasp_forgives():
    """A grasp holds with the gripper 2.5 cm, 3 cm and 0.25 rad off, for a lift and for a slide."""
    stage = Stage()
    scene = suites.draw('seen', 0, 'pick')
    tile = dataclasses.replace(scene.tiles[0], x=-0.1, y=-0.05, yaw=0.0)
    scene = dataclasses.replace(scene, tiles=(tile,))
    for dx, dy, yaw in itertools.product((-0.025, 0.025), (-0.03, 0.03), (-0.25, 0.25)):
        pose = (-0.1 + dx, -0.05 + dy)
        stage.load(scene)
        stage.move(*pose, 0.1, yaw, (0, 0), closed=False)
        stage.move(*pose, 0.004, yaw, (0, 0), closed=False)
        stage.move(*pose, 0.004, yaw, (0, 0), closed=True)
        stage.move(0.15 + dx, 0.1 + dy, 0.004, yaw, (0, 0), closed=True)
        slid = stage.state()
        assert math.hypot(slid.tiles[0].x - slid.x, slid.tiles[0].y - slid.y) < 0.055
        stage.move(slid.x, slid.y, 0.1, yaw, (0, 0), closed=True)
        assert stage.state().tiles[0].z > tasks.LIFT


def test_ends_by_the_flag_and_at_the_limit(env):
    env.reset(seed=4)
    _, reward, terminated, truncated, info = env.step(command(terminate=1, dx=0.1))
    assert terminated and not truncated and reward == 0 and not info['success']
    with pytest.raises(RuntimeError, match='reset'):
        env.step(STAY)
    short = TabletopEnv(suite='seen', image_size=16, max_steps=2)
    short.reset(seed=4)
    assert not short.step(STAY)[3]
    assert short.step(STAY)[3]
    short.close()


def test_bad_actions(env):
    env.reset(seed=0)
    with pytest.raises(ValueError, match='dy=nan'):
        env.step(command(dy=np.nan))
    with pytest.raises(ValueError, match='8 numbers'):
        env.step(STAY[:7])
    _, _, _, _, info = env.step(command(dx=3.0, drz=-2.0))
    assert info['clipped'] == 2 and info['out_of_reach'] >= 1
    assert abs(info['gripper_xyz'][0]) < 0.21


def test_bad_names(env):
    with pytest.raises(ValueError, match="did you mean 'seen'"):
        TabletopEnv(suite='sen')
    with pytest.raises(ValueError, match="did you mean 'push'"):
        env.reset(seed=0, options={'task': 'pusch'})
    with pytest.raises(ValueError, match='Unknown reset options'):
        env.reset(seed=0, options={'tusk': 'push'})
    with pytest.raises(ValueError, match='outside'):
        suites.draw('seen', suites.SEEDS_PER_SUITE)
    with pytest.raises(ValueError, match='pixels'):
        TabletopEnv(image_size=4000)


def test_tile_stands_on_the_table(env):
    env.reset(seed=9)
    env.step(STAY)
    for tile in env.state.tiles:
        assert abs(tile.z) < 0.001 and tile.upright > 0.999
    assert TILE_HEIGHT == 0.04
