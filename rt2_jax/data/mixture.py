"""Which source the n-th example of a training run comes from, and which of its examples it is.

Everything is a closed formula of n in integers, so the position in a mixture is one integer and any
host can compute any part of any batch. The shares of a batch's sources, laid end to end, divide the
line from 0 to B; the whole numbers shifted by an offset fall into its parts, so that each source gets
its share rounded down or up, and all together get B. The offset runs through the multiples of the
golden ratio, so that over many batches the roundings cancel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import NamedTuple

import numpy as np

from rt2_jax.data.example import Source
from rt2_jax.data.schedules import Schedule

# Shares are taken as multiples of 1 / UNIT, so that counting is exact in integers.
UNIT_BITS = 32
UNIT = 1 << UNIT_BITS
GOLDEN = 2_654_435_769  # UNIT over the golden ratio, odd

# Counts are kept before every so many batches, and counted again in between.
BLOCK = 1_024
CACHED_BLOCKS = 4


class Weighted(NamedTuple):
    """A source and its weight within its side of the mixture."""

    source: Source
    weight: Schedule


class Sources(NamedTuple):
    """The sources of a run, by name.

    Attributes:
        robot: those that share the robots' part of a batch.
        web: those that share the rest.
    """

    robot: dict[str, Weighted]
    web: dict[str, Weighted]

    @classmethod
    def of(
        cls,
        robot: Mapping[str, tuple[Source, Schedule | float]],
        web: Mapping[str, tuple[Source, Schedule | float]],
    ) -> Sources:
        """From sources and weights by name; a number is a weight that doesn't change."""
        return cls(
            *(
                {
                    name: Weighted(source, Schedule.from_config(weight))
                    for name, (source, weight) in side.items()
                }
                for side in (robot, web)
            )
        )

    def by_name(self) -> dict[str, Source]:
        """All sources, the robot's first: the order of a batch's `source` numbers."""
        return {name: source for side in self for name, (source, _) in side.items()}


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The share of each source against the training step, robot sources first.

    Attributes:
        robot_share: the robot sources' share together.
        robot: weights of the robot sources within that share.
        web: weights of the other sources within the rest.
    """

    robot_share: Schedule
    robot: tuple[Schedule, ...]
    web: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        if self.robot_share.most > 1:
            raise ValueError(f'a robot share must lie in [0, 1]; got {self.robot_share.most}')

    @classmethod
    def of(cls, sources: Sources, robot_share: Schedule) -> Mixture:
        """The mixture of a run's sources."""
        robot, web = (tuple(weight for _, weight in side.values()) for side in sources)
        return cls(robot_share, robot, web)

    def __len__(self) -> int:
        return len(self.robot) + len(self.web)

    def shares(self, steps: np.ndarray) -> np.ndarray:
        """Shares float64 [N, sources] at training steps int [N]; each row sums to 1.

        Raises:
            ValueError: a side has a share where it has no source, or none that weighs anything.
        """
        robots = self.robot_share.at(steps)
        return np.concatenate(
            [
                self._side('robot', self.robot, steps, robots),
                self._side('web', self.web, steps, 1 - robots),
            ],
            axis=1,
        )

    def _side(
        self, name: str, weights: Sequence[Schedule], steps: np.ndarray, share: np.ndarray
    ) -> np.ndarray:
        table = np.zeros([len(steps), len(weights)])
        for column, weight in enumerate(weights):
            table[:, column] = weight.at(steps)
        # A plain sum may add in another order on another machine.
        whole = np.cumsum(table, axis=1)[:, -1] if weights else np.zeros(len(steps))
        lacking = (share > 0) & (whole <= 0)
        if lacking.any():
            what = f'all its weights are 0 at step {steps[lacking.argmax()]}'
            raise ValueError(
                f'the schedule of the robot share {self.robot_share.to_json()} asks for {name} '
                f'examples, but {what if weights else f"there is no {name} source"}'
            )
        return table * (share / np.where(whole > 0, whole, 1.0))[:, None]


class MixtureSchedule:
    """Global example index -> (source, index within the source), robot sources first.

    A batch has each source's share of it to within one example. The index within a source counts
    up from batch to batch. Within a batch each source is spread evenly, so that hosts and devices,
    which hold runs of rows, get equal parts. Only batches up to b matter to batch b, so a run can
    be made longer later.

    Args:
        mixture: shares by training step.
        batches: length of the run.
        batch_size: examples a global batch, B.

    Attributes:
        batches: length of the run.
        batch_size: examples a global batch, B.

    Raises:
        ValueError: as `Mixture.shares`.
    """

    def __init__(self, mixture: Mixture, batches: int, batch_size: int) -> None:
        self._mixture, self.batches, self.batch_size = mixture, batches, batch_size
        self._slots = spread(batch_size)
        counts = [
            np.diff(self._edges(block), axis=1).sum(axis=0) for block in range(-(-batches // BLOCK))
        ]
        # Examples of each source before each block: int64 [blocks + 1, sources].
        self._before = np.cumsum([np.zeros(len(mixture), np.int64), *counts], axis=0)
        self._blocks: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __getitem__(self, index: int) -> tuple[int, int]:
        return self.of([index])[0]

    def of(self, indices: Sequence[int]) -> list[tuple[int, int]]:
        """The (source, index within it) of each index; fastest where they are of one batch."""
        batches, rows = np.divmod(indices, self.batch_size)
        sources, positions = np.zeros([2, len(rows)], np.int64)
        for batch in set(batches.tolist()):
            inside, at = batches == batch, batch % BLOCK
            edges, before = self._block(batch // BLOCK)
            slots = self._slots[rows[inside]]
            source = np.searchsorted(edges[at], slots, side='right') - 1
            sources[inside] = source
            positions[inside] = before[at, source] + slots - edges[at, source]
        return list(zip(sources.tolist(), positions.tolist()))

    def __repr__(self) -> str:
        return f'MixtureSchedule(batches={self.batches}, batch_size={self.batch_size})'

    def before(self, batch: int) -> np.ndarray:
        """Examples of each source in the batches before `batch`, int64 [sources]."""
        if batch == self.batches:
            return self._before[-1]
        return self._block(batch // BLOCK)[1][batch % BLOCK]

    def wanted(self, begin: int, end: int) -> np.ndarray:
        """Examples of each source that the schedule gives to batches begin..end, float64 [sources]."""
        return self.batch_size * self._mixture.shares(np.arange(begin, end)).sum(axis=0)

    def _block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Edges and examples before each batch of a block, int64 [batches, sources + 1 and sources]."""
        cached = self._blocks.get(block)
        if cached is None:
            edges = self._edges(block)
            counts = np.diff(edges, axis=1)
            cached = edges, self._before[block] + np.cumsum(counts, axis=0) - counts
            # Several threads may do this at once; each writes the same.
            self._blocks = dict([*self._blocks.items(), (block, cached)][-CACHED_BLOCKS:])
        return cached

    def _edges(self, block: int) -> np.ndarray:
        """Where each source's slots begin in each batch of a block, and B: int64 [batches, S + 1]."""
        batches = np.arange(block * BLOCK, min((block + 1) * BLOCK, self.batches))
        shares = self._mixture.shares(batches)
        ends = np.rint(np.cumsum(shares, axis=1) * UNIT).astype(np.int64)
        ends[:, -1] = UNIT
        offset = batches * GOLDEN % UNIT
        edges = np.zeros([len(batches), ends.shape[1] + 1], np.int64)
        edges[:, 1:] = (np.minimum(ends, UNIT) * self.batch_size + offset[:, None]) >> UNIT_BITS
        return edges


def spread(size: int) -> np.ndarray:
    """A permutation int64 [size] whose runs of rows, of a length that divides it, are spread evenly.

    Row r has the digits of r in reverse, in the base of the prime factors of `size`.
    """
    factor = next((f for f in range(2, size + 1) if size % f == 0), None)
    if factor is None:
        return np.zeros([1], np.int64)
    inner = factor * spread(size // factor)
    return np.concatenate([inner + digit for digit in range(factor)])
