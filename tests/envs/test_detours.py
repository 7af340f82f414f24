"""What is carried out in place of the expert's action, by what the expert was about to do."""

import math

import numpy as np

from rt2_jax.envs.tabletop import detours, expert, stage, tasks
from rt2_jax.envs.tabletop.table_state import Pose, State

X, Y, OTHER = (0.1, 0.1), (-0.1, 0.1), (0.0, -0.1)
PUSH = tasks.Task('push', 'push X to Y', plan='push X to Y')
PICK = tasks.Task('pick', 'pick X', plan='pick X')


def state(x, y, z=stage.GRIPPER_HIGH, closed=False, x_height=0.0):
    tiles = [Pose(*place, z=0.0, yaw=0.0, upright=1.0) for place in (Y, OTHER)]
    opening = stage.TILE_SIDE if closed else stage.OPENING
    x_tile = Pose(*X, z=x_height, yaw=0.0, upright=1.0)
    return State(x, y, z, yaw=0.0, opening=opening, closed=closed, tiles=(x_tile, *tiles))


def drawn(before, task=PUSH, count=400):
    """What `count` draws of a detour from the expert's action do: targets [n, 3] in metres, fingers
    closed [n], and the share of draws that leave the action as it is."""
    action = expert.act(before, before, task)
    draws = [detours.replace(np.random.default_rng(i), action, before) for i in range(count)]
    carried = np.array([draw for draw in draws if draw is not None]).reshape(-1, 8)
    targets = carried[:, 1:4] + (before.x, before.y, before.z)
    return targets, carried[:, 7] > 0, 1 - len(carried) / count


def near(targets, place, metres=0.08):
    return np.linalg.norm(targets[:, :2] - place, axis=1) < metres


def test_a_long_way_leads_to_any_tile_anywhere_or_closes_too_early():
    targets, closed, left = drawn(state(-0.15, -0.15))
    assert left == 0
    for place in (X, Y, OTHER):
        assert near(targets, place).mean() > 0.1
    assert 0.1 < closed.mean() < 0.3
    np.testing.assert_allclose(targets[closed, :2], -0.15)
    low = targets[:, 2] < expert.CLEAR
    assert 0.2 < low.mean() < 0.6
    assert targets[:, 2].min() > stage.GRIPPER_LOW - 1e-6


def test_a_short_way_misses_x_or_closes_too_early():
    targets, closed, left = drawn(state(*X))
    assert 0.5 < left < 0.8
    assert 0.3 < closed.mean() < 0.7
    misses = np.linalg.norm(targets[~closed, :2] - X, axis=1)
    assert 0.01 < np.median(misses) < 0.05


def test_x_in_the_hand_is_slid_clear_of_the_others_or_let_go():
    held = state(*X, z=stage.GRIPPER_LOW, closed=True)
    assert expert.holds(held)
    targets, closed, _ = drawn(held)
    assert closed.all()
    assert min(math.dist(target[:2], place) for target in targets for place in (Y, OTHER)) > 0.13
    _, closed, left = drawn(held, task=PICK)
    assert 0.5 < left < 0.8
    assert not closed.any()


def test_the_end_is_never_replaced():
    lifted = state(*X, closed=True, x_height=stage.GRIPPER_HIGH - stage.GRIPPER_LOW)
    assert expert.holds(lifted)
    assert drawn(lifted, task=PICK)[2] == 1
