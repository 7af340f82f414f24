"""Language-Table's arm at work, see rt2_jax/envs/world.py.

The simulator is a clone of google-research/language-table (`language_table_simulator`). Its evaluation's
protocol (eval/main.py): eight blocks, starts for which the oracle finds a plan, at most 200 actions at 10 Hz,
an episode ends when the goal is reached.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rt2_jax.envs import world
from rt2_jax.envs.arm_environment import ArmEnvironment
from rt2_jax.envs.language_table.language_table_simulator import BLOCKS, FAMILIES, Table
from rt2_jax.nearest import check

MAX_STEPS = 200
CAMERA = 'rgb'
ALL = 'all'  # the suite of all families in turn
MOVED = 0.01  # less than this is no move of a block, metres


class LanguageTableEnvironment(ArmEnvironment[Table]):
    """A `world.Environment` of a suite of Language-Table.

    A command is the change of the arm's set-point, dx and dy in metres, at most the simulator's action_space.
    Frames are 16/9 as wide as `image_size`; the simulator's own are 180 x 320.

    Args:
        suite: one of `FAMILIES`, or `ALL`.
        sizes: of frames, and the noise, see `ArmEnvironment`.
    """

    camera, numbers = CAMERA, ('dx', 'dy')
    usual_step, most = np.array([0.01, 0.01]), 0.1

    def __init__(self, suite: str, **sizes: Any) -> None:
        super().__init__(**sizes)
        self._families = FAMILIES if suite == ALL else (check('suite', suite, FAMILIES),)

    @property
    def table(self) -> Table:
        """The simulator.

        Raises:
            RuntimeError: no episode was begun.
        """
        return self._playing()

    @property
    def out_of_reach(self) -> int:
        """How many commands would have left the table."""
        return self.table.out_of_reach

    def reset(self, seed: int, task: str | None = None) -> world.Episode:
        """See `world.Environment`; kinds of task are the families.

        Raises:
            ValueError: the suite has no such family.
        """
        families = self._families
        family = check('family', task or families[seed % len(families)], families)
        self._arm = table = self._arm or Table()
        table.begin(family, seed)
        self._before, self._first = table.places, ''
        observation = self._begin(np.random.default_rng([seed, 1]), table.instruction)
        return world.Episode(observation, family, family)

    def step(self, command: np.ndarray) -> world.Observation:
        """See `ArmEnvironment`."""
        observation = super().step(command)
        if not self._first and (touched := self.table.touched) is not None:
            self._first = BLOCKS[touched]
        return observation

    def expert(self) -> np.ndarray:
        """See `world.Environment`: what the oracle does, float32 [2]; the card has no terminate."""
        return np.asarray(self.table.scripted(), np.float32)

    def recognition(self) -> world.Recognition:
        """Which block was touched first, and which one X ended nearest to."""
        table, brought_to = self.table, ''
        x, y, places = table.moved, table.goal_block, table.places
        if y is not None and np.linalg.norm(places[x] - self._before[x]) > MOVED:
            far = np.linalg.norm(places - places[x], axis=1)
            far[x] = np.inf
            brought_to = BLOCKS[far.argmin()]
        return world.Recognition(
            objects=len(BLOCKS),
            first=self._first,
            first_is_x=self._first == BLOCKS[x],
            brought_to=brought_to,
            brought_to_y=y is not None and brought_to == BLOCKS[y],
        )

    def render(self) -> np.ndarray:
        """See `world.Environment`; the camera's wide picture is in the middle."""
        size = self._render_size
        wide = self.table.draw(size * 9 // 16)
        frame = np.full((size, size, 3), 255, np.uint8)
        top, left = (size - len(wide)) // 2, (size - wide.shape[1]) // 2
        frame[top : top + len(wide), left : left + wide.shape[1]] = wide
        return frame

    def close(self) -> None:
        """See `world.Environment`."""
        if self._arm:
            self._arm.close()
            self._arm = None

    def _observe(self) -> world.Observation:
        table = self.table
        picture = table.draw(self._image_size)
        return world.Observation({self.camera: picture}, self._instruction, table.state())
