"""Detours: now and then something other than the expert's action is carried out, to show its recovery.

Undisturbed episodes show right moves only. From them a policy learns that the tile below is the one
that is meant and that closing follows descending; once it went to a wrong tile, came down beside X or
closed too early, it goes on as if it had not, or repeats itself. So detours carry the gripper above,
around or off with wrong tiles, fall short of X, close in place or let go; the stored action is the
expert's.
"""

import math

import numpy as np

from rt2_jax.envs.tabletop import expert, scene, stage
from rt2_jax.envs.tabletop.table_state import State

MOST = 6  # in an episode
FAR = 0.05  # an action that goes farther across the table, metres, always qualifies
_NEAR = 0.35  # share of the other actions that qualify
_MISS = 0.025  # sigma of the gripper's distance from a tile's centre along x and y, metres
_CLEAR_OF_TILES = 0.135  # between the path of a tile in the hand and the other tiles' centres


def replace(rng: np.random.Generator, action: np.ndarray, state: State) -> np.ndarray | None:
    """Draws a detour from the expert's action, None for no detour.

    Args:
        rng: draws the detour.
        action: float32 [8], the expert's.
        state: the present one.

    Returns:
        float32 [8], an action of the same kind, or None.
    """
    far = math.hypot(action[1], action[2]) > FAR
    if action[0] >= 0.5 or not far and rng.random() > _NEAR:
        return None
    if expert.holds(state):
        return _slide_elsewhere(rng, state) if far else _to(state, state.x, state.y, state.z)
    if not state.closed and rng.random() < (0.2 if far else 0.5):
        return _to(state, state.x, state.y, state.z, closed=True)
    if far and rng.random() < 0.2:
        x, y = rng.uniform(-1, 1, 2) * stage.WORKSPACE
        return _to(state, x, y, stage.GRIPPER_HIGH, rng.uniform(-0.3, 0.3))
    # If the expert's way is short, the gripper misses X.
    tile = state.tiles[rng.integers(0, len(state.tiles)) if far else 0]
    x, y = np.array([tile.x, tile.y]) + rng.normal(0, _MISS, 2)
    # From low to low the gripper would sweep the table.
    low = state.z > expert.CLEAR and rng.random() < 0.5
    z = stage.GRIPPER_LOW + rng.uniform(0, 0.03) if low else stage.GRIPPER_HIGH
    return _to(state, x, y, z, expert.grasp_yaw(state, tile))


def _slide_elsewhere(rng: np.random.Generator, state: State) -> np.ndarray | None:
    start = np.array([state.x, state.y])
    for _ in range(20):
        end = rng.uniform((-scene.REACH_X, -scene.REACH_Y), (scene.REACH_X, scene.REACH_Y))
        gaps = [scene.distance_to_path(np.array([t.x, t.y]), start, end) for t in state.tiles[1:]]
        if min(gaps) > _CLEAR_OF_TILES:
            return _to(state, end[0], end[1], stage.GRIPPER_LOW, closed=True)
    return None


def _to(
    state: State, x: float, y: float, z: float, turn: float = 0.0, *, closed: bool = False
) -> np.ndarray:
    gripper = expert.CLOSED if closed else expert.OPEN
    change = (x - state.x, y - state.y, z - state.z, 0.0, 0.0, turn, gripper)
    return np.array([0.0, *change], np.float32)
