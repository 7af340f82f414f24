"""OGBench's arm at work, see rt2_jax/envs/world.py.

Of the package ogbench (seohongpark/ogbench, MIT), which lives in a Python environment of its own
(launch/worlds.sh). An action is carried out twice: 10 decisions a second in place of 20. An episode ends at
the first success, as in the package's own evaluation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rt2_jax.envs import world
from rt2_jax.envs.arm_environment import ArmEnvironment
from rt2_jax.envs.ogbench.ogbench_arm import Arm
from rt2_jax.envs.ogbench.ogbench_tasks import SUITES, Goal, draw_goal, draw_layout
from rt2_jax.nearest import check

MAX_STEPS = 100  # decisions: the package's 200 steps for one cube
CAMERA = 'front'
NEAR = 0.05  # so near to a thing's middle the finger tips have come to it, metres
MOVED = 0.03  # less than this is no move of a cube, metres


class OgbenchEnvironment(ArmEnvironment[Arm]):
    """A `world.Environment` of a suite of OGBench.

    Episode `seed` of a suite is of its task number `seed` modulo their number.

    Args:
        suite: a name of `ogbench_tasks.SUITES`, with or without `world.OTHER_WORDS` behind it.
        sizes: of frames, and the noise, see `ArmEnvironment`.
    """

    camera, numbers = CAMERA, ('dx', 'dy', 'dz', 'drz', 'gripper')
    usual_step = np.array([0.3, 0.3, 0.3, 0.3, 0.0])

    def __init__(self, suite: str, **sizes: Any) -> None:
        super().__init__(**sizes)
        self._suite = suite.removesuffix(world.OTHER_WORDS)
        self._kind = SUITES[self._suite]
        self._other_words = suite.endswith(world.OTHER_WORDS)
        self._goal: Goal

    @property
    def goal(self) -> Goal:
        """What the episode is about."""
        return self._goal

    @property
    def places(self) -> np.ndarray:
        """Where the suite's `things` are: float32 [n, 3], metres."""
        return self._playing().places()

    def reset(self, seed: int, task: str | None = None) -> world.Episode:
        """See `world.Environment`.

        Raises:
            ValueError: the suite has no such kind of task.
        """
        tasks = self._kind.tasks
        task = check(f'task of ogbench/{self._suite}', task or tasks[seed % len(tasks)], tasks)
        if self._arm is None:
            self._arm = Arm(self._suite, self._buffer)
        rng = np.random.default_rng([seed, 1])
        self._goal = draw_goal(self._suite, task, self._other_words, rng)
        self._arm.reset(seed, self._goal, draw_layout(self._goal, self._suite, rng))
        self._before, self._first = self.places, ''
        observation = self._begin(rng, self._goal.instruction)
        return world.Episode(observation, task, self._kind.things[self._goal.x])

    def step(self, command: np.ndarray) -> world.Observation:
        """See `ArmEnvironment`."""
        observation = super().step(command)
        if not self._first:
            far = np.linalg.norm(self.places - self._playing().state()[:3], axis=1)
            self._first = self._kind.things[far.argmin()] if far.min() < NEAR else ''
        return observation

    def recognition(self) -> world.Recognition:
        """Which thing the finger tips came to first, and the cube that X was stacked on."""
        things, goal = self._kind.things, self._goal
        brought_to = ''
        now = self.places[: self._kind.cubes]
        if goal.task == 'stack' and np.linalg.norm(now[goal.x] - self._before[goal.x]) > MOVED:
            far = np.linalg.norm(now[:, :2] - now[goal.x, :2], axis=1)
            far[goal.x] = np.inf
            brought_to = things[far.argmin()]
        return world.Recognition(
            objects=len(things),
            first=self._first,
            first_is_x=self._first == things[goal.x],
            brought_to=brought_to,
            brought_to_y=bool(brought_to) and brought_to == things[goal.y],
        )

    def close(self) -> None:
        """See `world.Environment`."""
        if self._arm:
            self._arm.free()
            self._arm = None
