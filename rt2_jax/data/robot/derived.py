"""What sources that ask something else about the steps of a StepSource have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rt2_jax.data.example import Example
from rt2_jax.data.robot.rlds import StepSource
from rt2_jax.data.stand_ins import StandIns


class Derived:
    """One Example for each step of `steps`.

    Where a picture can't be read, it does as `steps` does: it raises, or the next readable example
    stands in.

    Attributes:
      steps: the robot's episodes.
      name: the source's name.
    """

    steps: StepSource
    name: str

    def __post_init__(self):
        object.__setattr__(self, '_stand_ins', StandIns(self.name, self.steps.on_corrupt))

    def readers(self, chosen: Sequence[int]) -> Iterator[Callable[[], Example]]:
        """For each of the chosen steps, a function that reads its pictures and makes its Example."""
        raise NotImplementedError

    @property
    def skipped(self) -> int:
        """How many times another example stood in for one that can't be read."""
        return self._stand_ins.count

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, i: int) -> Example:
        return next(self.examples([i]))

    def examples(self, chosen: Sequence[int]) -> Iterator[Example]:
        """The Examples of these numbers: looked up at once, read as they are asked for."""
        for i, read in zip(chosen, self.readers(chosen), strict=True):
            yield self._stand_ins.read(int(i), len(self), self._alone, read, self.steps.where)

    def _alone(self, i: int) -> Example:
        return next(self.readers([i]))()
