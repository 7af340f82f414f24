"""Language-Table's arm at work, see rt2_jax/envs/world.py.

The simulator is a clone of google-research/language-table (`language_table_simulator`). Its evaluation's
protocol (eval/main.py): eight blocks, starts for which the oracle finds a plan, at most 200 actions at 10 Hz,
an episode ends when the goal is reached.
"""

from __future__ import annotations

import numpy as np

from rt2_jax.envs import world
from rt2_jax.envs.language_table.language_table_simulator import (
    BLOCKS,
    BOUNDS,
    CAMERA_HEIGHT,
    CAMERA_WIDTH,
    FAMILIES,
    Table,
)
from rt2_jax.nearest import check

MAX_STEPS = 200
CAMERA = 'rgb'
ALL = 'all'  # the suite of all families in turn
LONGEST = 0.1  # the most that a command changes x or y by, metres: the simulator's action_space
USUAL_STEP = 0.01  # metres
MOVED = 0.01  # less than this is no move of a block, metres


def frame_width(height: int) -> int:
    """Pixels across of a frame so high: the camera's is 16/9 as wide."""
    return round(height * CAMERA_WIDTH / CAMERA_HEIGHT)


class LanguageTableEnvironment:
    """A `world.Environment` of a suite of Language-Table.

    Args:
        suite: one of `FAMILIES`, or `ALL`.
        image_size: height of the frames observed, pixels; they are 16/9 as wide. The simulator's own are
            180 x 320.
        render_size: height and width of the frames of videos, pixels.
        execution_noise: share of the command and of a usual step.

    Attributes:
        success: whether the goal was reached in this episode.
        clipped: see `world.Environment`.
        out_of_reach: how many commands would have left the table.
    """

    def __init__(
        self, suite: str, *, image_size: int, render_size: int, execution_noise: float
    ) -> None:
        self._size = image_size, frame_width(image_size)
        self._families = FAMILIES if suite == ALL else (check('suite', suite, FAMILIES),)
        self._render_size, self._noise = render_size, execution_noise
        self._table: Table | None = None
        self.success, self.clipped, self.out_of_reach = False, 0, 0

    @property
    def over(self) -> bool:
        """Whether the goal was reached."""
        return self.success

    @property
    def table(self) -> Table:
        """The simulator.

        Raises:
            RuntimeError: no episode was begun.
        """
        if self._table is None:
            raise RuntimeError('No episode was begun: call reset() first.')
        return self._table

    def reset(self, seed: int, task: str | None = None) -> world.Episode:
        """See `world.Environment`; kinds of task are the families.

        Raises:
            ValueError: the suite has no such family.
        """
        family = task or self._families[seed % len(self._families)]
        check('family', family, self._families)
        self._table = self._table or Table()
        self._table.begin(family, seed)
        self._rng = np.random.default_rng([seed, 1])
        self.success, self.clipped, self.out_of_reach = False, 0, 0
        self._before, self._first = self._table.places, ''
        return world.Episode(self._observe(), family, family)

    def step(self, command: np.ndarray) -> world.Observation:
        """See `world.Environment`; `command` is float [2], the change of the arm's set-point in metres.

        Raises:
            ValueError: a command of another shape, or with a number that is not finite.
            RuntimeError: no episode was begun.
        """
        command = np.asarray(command, np.float64)
        if command.shape != (2,) or not np.isfinite(command).all():
            raise ValueError(f'A command has 2 finite numbers, dx dy; got {command}.')
        self.clipped += int((np.abs(command) > LONGEST + 1e-6).sum())
        if self._noise:
            sigma = self._noise * (np.abs(command) + USUAL_STEP)
            command = command + self._rng.normal(size=2) * sigma
        command = np.clip(command, -LONGEST, LONGEST)
        goal = self.table.set_point + command
        self.out_of_reach += bool((goal < BOUNDS[0]).any() or (goal > BOUNDS[1]).any())
        self.success |= self.table.step(command)
        if not self._first and (touched := self.table.touched) is not None:
            self._first = BLOCKS[touched]
        return self._observe()

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
        wide = self.table.draw(size * 9 // 16, size)
        frame = np.full((size, size, 3), 255, np.uint8)
        top = (size - len(wide)) // 2
        frame[top : top + len(wide)] = wide
        return frame

    def close(self) -> None:
        """See `world.Environment`."""
        if self._table:
            self._table.close()
            self._table = None

    def _observe(self) -> world.Observation:
        table = self.table
        state = np.asarray(table.arm, np.float32)
        return world.Observation({CAMERA: table.draw(*self._size)}, table.instruction, state)
