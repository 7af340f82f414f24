"""The order of a run's examples: number -> source and place in it, by closed formulas alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from grain.experimental import index_shuffle

from rt2_jax.data.example import Example


class Examples(Protocol):
    """Random access to Examples.

    Used where there: `examples(numbers)`, an iterator of the same Examples as `[i]` gives for each of
    the numbers, for sources to which it is cheaper to look up several at once.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Example: ...


class Endless:
    """Examples repeated for ever, in another order each epoch.

    The order is that of `grain.MapDataset.source(...).shuffle(seed).repeat()`, without what grain
    does beside at each element.

    Args:
      source: the examples.
      seed: an unsigned integer of 32 bits; epoch e is shuffled with seed + e.
    """

    def __init__(self, source: Examples, seed: int):
        self._source, self._length, self._seed = source, len(source), seed

    def __getitem__(self, position: int) -> Example:
        return next(self.examples([position]))

    def examples(self, positions: Sequence[int]) -> Iterator[Example]:
        """What is at each of the positions."""
        length, seed = self._length, self._seed
        numbers = [
            index_shuffle(position % length, length - 1, (seed + position // length) % 2**32, 4)
            for position in positions
        ]
        several = getattr(self._source, 'examples', None)
        return several(numbers) if several else map(self._source.__getitem__, numbers)


class Mixed:
    """The run's examples by number.

    Args:
      plan: plan.of(numbers) says which of `sources`, and what place in it, each number stands for.
      sources: endless ones, by name.
    """

    def __init__(self, plan: Any, sources: Mapping[str, Endless]):
        self._plan, self._names, self._sources = plan, list(sources), dict(sources)

    def examples(self, numbers: Sequence[int]) -> Iterator[tuple[str, Example]]:
        """Each example of these numbers, after its source's name."""
        drawn = self._plan.of(numbers)
        positions: dict[str, list[int]] = {}
        for source, position in drawn:
            positions.setdefault(self._names[source], []).append(position)
        found = {name: self._sources[name].examples(at) for name, at in positions.items()}
        for source, _ in drawn:
            name = self._names[source]
            yield name, next(found[name])
