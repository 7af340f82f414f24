"""Frames of whole episodes, for learning what changes in them: R3M (arXiv 2203.12601, section 3).

Example `i` is about the episode of step `i`: its first and its last frame, then three steps between in order,
as R3M draws them, and the instruction as it is in prompts of actions. There is no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools

import numpy as np

from rt2_jax.data.example import Example
from rt2_jax.data.robot.derived import Derived
from rt2_jax.data.robot.step_source import StepSource
from rt2_jax.text import prompts

FRAMES = 5
_SALT = 5  # tells these draws from others with the same seed


@dataclasses.dataclass(frozen=True)
class Progress(Derived):
    """Five frames of the episode of step `i` of `steps`; a pure function of (seed, i).

    Attributes:
        steps: the robot's episodes.
        name: the source's name.
        seed: another seed draws other frames.

    Raises:
        ValueError: examples of another number of frames, or of several cameras.
    """

    steps: StepSource
    name: str = 'progress'
    seed: int = 0

    kinds = ('progress',)

    def __post_init__(self) -> None:
        if self.steps.settings.frames != FRAMES:
            raise ValueError(
                f"{self.name}: shows='progress' draws {FRAMES} frames of an episode; "
                f'config.data.frames is {self.steps.settings.frames}'
            )
        if len(self.steps.cameras) > 1:
            raise ValueError(
                f"{self.name}: shows='progress' is of one camera; config.data.cameras has "
                f'{len(self.steps.cameras)}'
            )

    @property
    def fingerprint(self) -> str:
        """Changes with the steps or the draws."""
        return f'{self.steps.fingerprint} progress {self.seed}'

    def readers(self, numbers: Sequence[int]) -> Iterator[Callable[[], Example]]:
        """See `SkipCorrupt.readers`; which steps are shown is drawn for each number."""
        return (functools.partial(self._example, int(number)) for number in numbers)

    def _example(self, number: int) -> Example:
        rng = np.random.default_rng([_SALT, self.seed, number])
        episode = self.steps.table.episode_around(number)
        between = between_steps(rng, len(episode))
        shown = [episode[0], episode[-1], *(episode[i] for i in between)]
        return Example(
            frames=self.steps.frames_of(shown),
            prompt=prompts.robot(self.steps.table.wording(number)),
            source=self.name,
            kind='progress',
        )


def between_steps(rng: np.random.Generator, length: int) -> list[int]:
    """Three different steps of an episode in order, as far as it has so many.

    Args:
        rng: draws them.
        length: steps of the episode.
    """
    if length < 3:
        return [0, length - 1, length - 1]
    return sorted(rng.choice(length, 3, replace=False).tolist())
