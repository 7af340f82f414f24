"""The order of a run's examples: number -> source and place in it, by closed formulas alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import hashlib
from typing import NamedTuple

from grain.experimental import index_shuffle

from rt2_jax.data.example import Example, Source
from rt2_jax.data.mixture import MixtureSchedule


class RunExample(NamedTuple):
    """An example of a run.

    Attributes:
        number: in the run.
        source: name of its source in the mixture.
        example: the example.
    """

    number: int
    source: str
    example: Example


class ShuffledEpochs:
    """A source's examples repeated for ever, in another order each epoch.

    The order is that of `grain.MapDataset.source(...).shuffle(seed).repeat()`, without the work that
    grain adds to each element.

    Args:
        source: the examples.
        seed: an unsigned integer of 32 bits; epoch e is shuffled with seed + e.
    """

    def __init__(self, source: Source, seed: int) -> None:
        self._source, self._length, self._seed = source, len(source), seed

    def __getitem__(self, position: int) -> Example:
        return next(self.examples([position]))

    def examples(self, positions: Sequence[int]) -> Iterator[Example]:
        """The example at each of the positions."""
        length, seed = self._length, self._seed
        numbers = [
            index_shuffle(position % length, length - 1, (seed + position // length) % 2**32, 4)
            for position in positions
        ]
        several = getattr(self._source, 'examples', None)
        return several(numbers) if several else map(self._source.__getitem__, numbers)


class RunExamples:
    """The examples of a run, by number.

    Args:
        schedule: which source each example comes from.
        sources: by name, in the schedule's order.
        seed: of the run.
    """

    def __init__(self, schedule: MixtureSchedule, sources: Mapping[str, Source], seed: int) -> None:
        self._schedule, self._names = schedule, list(sources)
        self._epochs = {
            name: ShuffledEpochs(source, _seed_of(name, seed)) for name, source in sources.items()
        }

    def __getitem__(self, numbers: Sequence[int]) -> Iterator[RunExample]:
        """The examples of these numbers, read one after another."""
        drawn = [(self._names[source], position) for source, position in self._schedule.of(numbers)]
        positions: dict[str, list[int]] = {}
        for name, position in drawn:
            positions.setdefault(name, []).append(position)
        examples = {name: self._epochs[name].examples(at) for name, at in positions.items()}
        for number, (name, _) in zip(numbers, drawn, strict=True):
            yield RunExample(number, name, next(examples[name]))


def _seed_of(name: str, seed: int) -> int:
    # The epoch is added to the seed, so neighbouring seeds would share permutations.
    return int.from_bytes(hashlib.sha256(f'{seed}/{name}'.encode()).digest()[:4], 'little')
