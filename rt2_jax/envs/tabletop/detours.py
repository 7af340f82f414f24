"""Detours: now and then the gripper is carried off, and the expert has to find its way back.

Of an undisturbed episode's steps only one, the approach, asks which tile is meant: wherever the
gripper is after it, going on with the tile below is right. A policy learns just that, and once it
went to a wrong tile it picks that one. After a detour the gripper is over, around or holding a wrong
tile, or anywhere, and the expert's next action still goes to X.
"""

import math

import numpy as np

from rt2_jax.envs.tabletop import expert, scene, stage
from rt2_jax.envs.tabletop.stage import State

MOST = 6  # in an episode
FAR = 0.05  # an action that goes farther across the table, metres, may be replaced by a detour
_CLEAR_OF_TILES = 0.135  # between the path of a tile in the hand and the other tiles' centres
_OFF_CENTRE = 0.008  # metres


def replace(rng: np.random.Generator, action: np.ndarray, state: State) -> np.ndarray | None:
    """Draws what is carried out in place of the expert's action, None where nothing should be.

    X and the tile that it is pushed to are left where they are, but for an X in the hand, which is
    slid elsewhere.

    Args:
      rng: draws the detour.
      action: float32 [8], the expert's.
      state: what it was decided on.

    Returns:
      float32 [8], an action of the same kind, or None.
    """
    if action[0] >= 0.5 or math.hypot(action[1], action[2]) < FAR:
        return None
    if expert.holds(state):
        return _slide_elsewhere(rng, state)
    low = state.z < expert.CLEAR
    if low and not state.closed and rng.random() < 0.5:
        return _to(state, state.x, state.y, state.z, 0.0, closed=True)
    if rng.random() < 0.3:
        x, y = rng.uniform(-1, 1, 2) * stage.WORKSPACE
        return _to(state, x, y, stage.GRIPPER_HIGH, rng.uniform(-0.3, 0.3))
    tile = state.tiles[rng.integers(1, len(state.tiles))]
    x, y = np.array([tile.x, tile.y]) + rng.normal(0, _OFF_CENTRE, 2)
    # From low to low the gripper would sweep the table.
    z = stage.GRIPPER_LOW if not low and rng.random() < 0.5 else stage.GRIPPER_HIGH
    return _to(state, x, y, z, expert.grasp_yaw(state, tile))


def _slide_elsewhere(rng: np.random.Generator, state: State) -> np.ndarray | None:
    start = np.array([state.x, state.y])
    for _ in range(20):
        end = rng.uniform((-scene.REACH_X, -scene.REACH_Y), (scene.REACH_X, scene.REACH_Y))
        gaps = [scene.distance_to_path(np.array([t.x, t.y]), start, end) for t in state.tiles[1:]]
        if min(gaps) > _CLEAR_OF_TILES:
            return _to(state, *end, stage.GRIPPER_LOW, 0.0, closed=True)
    return None


def _to(state: State, x, y, z, turn, closed=False) -> np.ndarray:
    gripper = expert.CLOSED if closed else expert.OPEN
    change = (x - state.x, y - state.y, z - state.z, 0.0, 0.0, turn, gripper)
    return np.array([0.0, *change], np.float32)
