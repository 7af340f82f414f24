"""Detours: now and then something else than the expert's action is carried out, and the expert has
to find its way back.

An undisturbed episode shows a policy nothing but right ways. It learns that whatever tile is below
is the one that is meant, that closing follows on descending, and once it went to a wrong tile, came
down beside X or closed its fingers too early, it does what follows there, or the same for ever. So
the gripper is carried over, around or off with wrong tiles, falls short of X, closes where it is or
lets go, and the action that is stored is the expert's way out.
"""

import math

import numpy as np

from rt2_jax.envs.tabletop import expert, scene, stage
from rt2_jax.envs.tabletop.stage import State

MOST = 6  # in an episode
FAR = 0.05  # an action that goes farther across the table, metres, may go elsewhere
_NEAR = 0.35  # how often the others are tried, of the times that those are
_MISS = 0.025  # how far off a tile's centre the gripper comes, metres along x and y
_CLEAR_OF_TILES = 0.135  # between the path of a tile in the hand and the other tiles' centres


def replace(rng: np.random.Generator, action: np.ndarray, state: State) -> np.ndarray | None:
    """Draws what is carried out in place of the expert's action, None where nothing should be.

    Args:
        rng: draws the detour.
        action: float32 [8], the expert's.
        state: what it was decided on.

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
    # Where the expert's way is short, it is X that is missed.
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
            return _to(state, *end, stage.GRIPPER_LOW, closed=True)
    return None


def _to(state: State, x, y, z, turn=0.0, closed=False) -> np.ndarray:
    gripper = expert.CLOSED if closed else expert.OPEN
    change = (x - state.x, y - state.y, z - state.z, 0.0, 0.0, turn, gripper)
    return np.array([0.0, *change], np.float32)
