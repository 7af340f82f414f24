"""What worlds share whose arm takes commands in a range about 0 and whose episodes end at the first success.

All but the tabletop are such; each brings its simulator's `Arm` and says how an episode begins.
"""

from __future__ import annotations

import abc
from typing import ClassVar, Generic, Protocol, TypeVar

import numpy as np

from rt2_jax.envs import mujoco_camera, world


class Arm(Protocol):
    """A simulator's arm in an episode."""

    def step(self, command: np.ndarray) -> bool:
        """Carries out float [D], each in its range; whether the goal was reached."""
        ...

    def state(self) -> np.ndarray:
        """What the arm feels of itself: float32 [K], its hand's place in metres first."""
        ...

    def scripted(self) -> np.ndarray:
        """The command of the package's own expert, float [D]."""
        ...

    def draw(self, size: int) -> np.ndarray:
        """What the camera sees: uint8 [size, W, 3]; W is the size, but for wide cameras."""
        ...


AnyArm = TypeVar('AnyArm', bound=Arm)


class ArmEnvironment(abc.ABC, Generic[AnyArm]):
    """A `world.Environment` but for how an episode begins, what it recognised, and its end.

    Args:
        image_size: height and width of the frames observed, pixels.
        render_size: height and width of the frames of videos, pixels.
        execution_noise: share of the command and of a usual step.

    Attributes:
        camera: the name of its camera.
        numbers: names of a command's numbers.
        most: the largest that each may be, and its negative the smallest.
        usual_step: their usual sizes, for noise, [D]; 0 for a number without noise.
        success: whether the goal was reached in this episode.
        clipped: see `world.Environment`.
    """

    camera: ClassVar[str]
    numbers: ClassVar[tuple[str, ...]]
    usual_step: ClassVar[np.ndarray]
    most: ClassVar[float] = 1.0

    def __init__(self, *, image_size: int, render_size: int, execution_noise: float) -> None:
        self._image_size, self._render_size = image_size, render_size
        self._noise = execution_noise
        self._arm: AnyArm | None = None
        self.success = False
        self.clipped = 0

    @property
    def out_of_reach(self) -> int:
        """0: most packages move goals inside without a word."""
        return 0

    @property
    def over(self) -> bool:
        """Whether the goal was reached."""
        return self.success

    @abc.abstractmethod
    def reset(self, seed: int, task: str | None = None) -> world.Episode:
        """See `world.Environment`."""

    @abc.abstractmethod
    def recognition(self) -> world.Recognition | None:
        """See `world.Environment`."""

    @abc.abstractmethod
    def close(self) -> None:
        """See `world.Environment`."""

    def step(self, command: np.ndarray) -> world.Observation:
        """See `world.Environment`; `command` is float [D], each -`most` to `most`.

        Raises:
            ValueError: a command of another shape, or with a number that is not finite.
            RuntimeError: no episode was begun.
        """
        command, count = np.asarray(command, np.float64), len(self.numbers)
        if command.shape != (count,) or not np.isfinite(command).all():
            raise ValueError(
                f'A command has {count} finite numbers, {" ".join(self.numbers)}; got {command}.'
            )
        self.clipped += int((np.abs(command) > self.most + 1e-6).sum())
        if self._noise:
            sigma = self._noise * (np.abs(command) + self.usual_step) * (self.usual_step > 0)
            command = command + self._rng.normal(size=count) * sigma
        self.success |= self._playing().step(np.clip(command, -self.most, self.most))
        return self._observe()

    def expert(self) -> np.ndarray:
        """See `world.Environment`: what the package's own expert does; it never terminates."""
        return np.concatenate([[0.0], self._playing().scripted()]).astype(np.float32)

    def render(self) -> np.ndarray:
        """See `world.Environment`."""
        return self._playing().draw(self._render_size)

    @property
    def _buffer(self) -> int:
        """Height and width of the largest picture that is drawn, pixels."""
        return max(2 * self._image_size, self._render_size)

    def _begin(self, rng: np.random.Generator, instruction: str) -> world.Observation:
        """Begins the episode that the arm was reset to; `rng` draws its noise."""
        self._rng, self._instruction = rng, instruction
        self.success, self.clipped = False, 0
        return self._observe()

    def _playing(self) -> AnyArm:
        if self._arm is None:
            raise RuntimeError('No episode was begun: call reset() first.')
        return self._arm

    def _observe(self) -> world.Observation:
        arm = self._playing()
        image = mujoco_camera.smoothed(arm.draw(2 * self._image_size))
        return world.Observation({self.camera: image}, self._instruction, arm.state())
