"""Sources that ask something else about the steps of a StepSource."""

from __future__ import annotations

from rt2_jax.data.robot.step_source import StepSource
from rt2_jax.data.skip_corrupt import SkipCorrupt


class Derived(SkipCorrupt):
    """One Example for each step of `steps`; where a picture can't be read, it does as `steps` does.

    Attributes:
        steps: the robot's episodes.
    """

    steps: StepSource

    @property
    def on_corrupt(self) -> str:
        """As that of the steps."""
        return self.steps.on_corrupt

    def where(self, number: int) -> str:
        """The place of a step in the data set."""
        return self.steps.where(number)

    def __len__(self) -> int:
        return len(self.steps)
