"""OGBench's arm at work, see rt2_jax/envs/world.py.

Of the package ogbench (seohongpark/ogbench, MIT), which lives in a Python environment of its own
(launch/worlds.sh). An action is carried out twice: 10 decisions a second in place of 20. An episode ends at
the first success, as in the package's own evaluation.
"""

from __future__ import annotations

import numpy as np

from rt2_jax.envs import mujoco_camera, world
from rt2_jax.envs.ogbench.ogbench_arm import Arm
from rt2_jax.envs.ogbench.ogbench_tasks import OTHER_WORDS, SUITES, Goal, draw_goal, draw_layout

MAX_STEPS = 100  # decisions: the package's 200 steps for one cube
CAMERA = 'front'
# A usual step, for noise: the gripper has none.
NOISE_SCALE = np.array([0.3, 0.3, 0.3, 0.3, 0.0])
NEAR = 0.05  # so near to a thing's middle the finger tips have come to it, metres
MOVED = 0.03  # less than this is no move of a cube, metres


class OgbenchEnvironment:
    """A `world.Environment` of a suite of OGBench.

    Episode `seed` of a suite is of its task number `seed` modulo their number.

    Args:
        suite: a name of `ogbench_tasks.SUITES`, with or without OTHER_WORDS behind it.
        image_size: height and width of the frames observed, pixels.
        render_size: height and width of the frames of videos, pixels.
        execution_noise: share of the command and of a usual step.

    Attributes:
        success: whether the goal was reached in this episode.
        clipped: see `world.Environment`.
    """

    out_of_reach = 0  # the package moves goals inside without a word

    def __init__(
        self, suite: str, *, image_size: int, render_size: int, execution_noise: float
    ) -> None:
        self._suite = suite.removesuffix(OTHER_WORDS)
        self._kind = SUITES[self._suite]
        self._other_words = suite.endswith(OTHER_WORDS)
        self._image_size, self._render_size = image_size, render_size
        self._noise = execution_noise
        self._arm: Arm | None = None
        self._goal: Goal
        self.success = False
        self.clipped = 0

    @property
    def over(self) -> bool:
        """Whether the goal was reached."""
        return self.success

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
        task = task or tasks[seed % len(tasks)]
        if task not in tasks:
            raise ValueError(f'ogbench/{self._suite} has the tasks {", ".join(tasks)}; not {task}')
        if self._arm is None:
            self._arm = Arm(self._suite, max(2 * self._image_size, self._render_size))
        self._rng = np.random.default_rng([seed, 1])
        self._goal = draw_goal(self._suite, task, self._other_words, self._rng)
        self._arm.reset(seed, self._goal, draw_layout(self._goal, self._suite, self._rng))
        self.success, self.clipped = False, 0
        self._before, self._first = self.places, ''
        return world.Episode(self._observe(), task, self._kind.things[self._goal.x])

    def step(self, command: np.ndarray) -> world.Observation:
        """See `world.Environment`; `command` is float [5]: dx, dy, dz, drz, gripper, each -1 to 1.

        Raises:
            ValueError: a command of another shape, or with a number that is not finite.
            RuntimeError: no episode was begun.
        """
        command = np.asarray(command, np.float64)
        if command.shape != (5,) or not np.isfinite(command).all():
            raise ValueError(
                f'A command has 5 finite numbers, dx dy dz drz gripper; got {command}.'
            )
        self.clipped += int((np.abs(command) > 1 + 1e-6).sum())
        if self._noise:
            sigma = self._noise * (np.abs(command) + NOISE_SCALE) * (NOISE_SCALE > 0)
            command = command + self._rng.normal(size=5) * sigma
        self.success |= self._playing().step(np.clip(command, -1, 1))
        if not self._first:
            far = np.linalg.norm(self.places - self._playing().state()[:3], axis=1)
            self._first = self._kind.things[far.argmin()] if far.min() < NEAR else ''
        return self._observe()

    def expert(self) -> np.ndarray:
        """See `world.Environment`: what the package's own oracle does; it never terminates."""
        return np.concatenate([[0.0], self._playing().scripted()]).astype(np.float32)

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

    def render(self) -> np.ndarray:
        """See `world.Environment`."""
        return self._playing().draw(self._render_size)

    def close(self) -> None:
        """See `world.Environment`."""
        if self._arm:
            self._arm.free()
            self._arm = None

    def _playing(self) -> Arm:
        if self._arm is None:
            raise RuntimeError('No episode was begun: call reset() first.')
        return self._arm

    def _observe(self) -> world.Observation:
        arm = self._playing()
        image = mujoco_camera.smoothed(arm.draw(2 * self._image_size))
        return world.Observation({CAMERA: image}, self._goal.instruction, arm.state())
