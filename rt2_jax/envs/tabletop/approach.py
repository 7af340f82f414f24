"""Which tile an episode went to first: what was recognised, apart from what was carried out.

The first approach ends at the first step after which the finger tips are below LOW, among the tiles,
or the fingers are closed, whichever comes first. In an episode without such a step it ends at the
lowest point, if the gripper came down at all. It went to the tile whose centre, as it lay before that
step, is within NEAR of the gripper in x and y; tiles lie so far apart that no two are. Recognition is
that this is X, and execution is success given that. Of a push, the words for Y show in the tile that X
ends nearest to, if X was carried or shoved at all. All of it is read from the environment's state, so
it is the same measure for every policy.
"""

from __future__ import annotations

import math

from rt2_jax.envs.tabletop import scene, stage
from rt2_jax.envs.tabletop.table_state import State

LOW = 0.05  # a finger that stands on a tile is lower than this, metres
NEAR = 0.08
CAME_DOWN = 0.01  # less than this below the travel height is no approach
MOVED = 0.03  # less than this is no push

assert 2 * NEAR < scene.SPACING and stage.TILE_HEIGHT + 2 * stage.GRIPPER_LOW < LOW


class Approach:
    """The first approach of an episode, step by step.

    Attributes:
        tile: number of the tile that it went to so far; None for none.
    """

    def __init__(self, start: State) -> None:
        self.tile: int | None = None
        self._before = start
        self._lowest = stage.GRIPPER_HIGH - CAME_DOWN
        self._over = False

    def step(self, state: State) -> None:
        """Takes in the state after a step."""
        if self._over:
            return
        self._over = state.z < LOW or state.closed
        if self._over or state.z < self._lowest:
            self.tile = nearest(state.x, state.y, self._before)
            self._lowest = state.z
        self._before = state


def nearest(x: float, y: float, state: State) -> int | None:
    """Number of the tile within NEAR of a place; None for none."""
    far = [math.hypot(tile.x - x, tile.y - y) for tile in state.tiles]
    tile = min(range(len(far)), key=far.__getitem__)
    return tile if far[tile] < NEAR else None


def brought_to(start: State, now: State) -> int | None:
    """Number of the tile that X lies nearest to now; None if X was hardly moved."""
    x, x_start = now.tiles[0], start.tiles[0]
    if math.hypot(x.x - x_start.x, x.y - x_start.y) < MOVED:
        return None
    others = range(1, len(now.tiles))
    return min(others, key=lambda i: math.hypot(now.tiles[i].x - x.x, now.tiles[i].y - x.y))
