"""Goes over a web set's records, some at a time, and keeps those that are wanted.

However many there are, no more than ROWS of them are in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
import dataclasses

import numpy as np

from rt2_jax.data import holdouts
from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.index.web_table import WebTable

ROWS = 1 << 18

# (rows, bool [rows]: kept so far) -> bool [rows]: to be kept.
Keep = Callable[[slice, np.ndarray], np.ndarray]


@dataclasses.dataclass
class Filters:
    """What is kept of a set, by one reason after another.

    Attributes:
        table: the opened index.
        steps: why a record is left out, and which are kept.
    """

    table: WebTable
    steps: list[tuple[str, Keep]] = dataclasses.field(default_factory=list)

    def add(self, reason: str, keep: Keep) -> None:
        """Adds a filter, behind those that are there."""
        self.steps.append((reason, keep))

    def kept(self, lost: Counter[str] | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        """Runs of rows with which of them are kept, bool; counts into `lost` what was left out."""
        for start in range(0, len(self.table), ROWS):
            rows = slice(start, min(start + ROWS, len(self.table)))
            mask = np.ones(rows.stop - start, bool)
            for reason, keep in self.steps:
                left = mask & keep(rows, mask)
                if lost is not None:
                    lost[reason] += int(mask.sum()) - int(left.sum())
                mask = left
            yield rows, mask

    def holding(self, needs: Sequence[Sequence[str]]) -> Keep:
        """Those that hold what some task needs."""

        def keep(rows: slice, kept: np.ndarray) -> np.ndarray:
            mask = np.zeros(len(kept), bool)
            for need in needs:
                mask |= self.table.holding(*need, rows=rows)
            return mask

        return keep

    def among(self, languages: Sequence[str]) -> Keep:
        """Those in one of the languages."""
        numbers = [self.table.languages.index(language) for language in languages]
        return lambda rows, kept: np.isin(self.table.arrays['language'][rows], numbers)

    def scored(self) -> Keep:
        """Those with a score."""
        return lambda rows, kept: ~np.isnan(self.table.arrays['score'][rows])

    def at_least(self, score: float) -> Keep:
        """Those with this score or more."""
        return lambda rows, kept: self.table.arrays['score'][rows] >= score

    def best(self, share: float) -> Keep:
        """The best of those kept so far, to the record; of equals those that come first."""
        candidates = sum(int(mask.sum()) for _, mask in self.kept())
        if not candidates:
            return lambda rows, kept: kept
        count = max(1, round(share * candidates))
        # The scores' order is that of 32-bit numbers: the last is found by their halves.
        high, above = self._last(count, lambda numbers: numbers >> 16)
        low, more = self._last(
            count - above, lambda numbers: (numbers & 0xFFFF)[numbers >> 16 == high]
        )
        worst = np.uint32(high << 16 | low)
        equals, room = {}, count - above - more
        for rows, mask in self.kept():
            equals[rows.start] = room
            room -= int((mask & (self._numbers(rows) == worst)).sum())

        def keep(rows: slice, kept: np.ndarray) -> np.ndarray:
            numbers = self._numbers(rows)
            equal = np.flatnonzero(kept & (numbers == worst))
            mask = numbers > worst
            mask[equal[: max(equals[rows.start], 0)]] = True
            return mask

        return keep

    def part(self, holdout: float, part: str) -> Keep:
        """Those for training or for validation (see splits)."""
        table = self.table
        limit = holdouts.limit(
            (holdouts.order(table.pictures(rows)) for rows, _ in Filters(table).kept()),
            holdout,
            count=len(table),
            directory=table.directory,
            things='records',
        )
        wanted = part == 'validation'
        return lambda rows, kept: (holdouts.order(table.pictures(rows)) < limit) == wanted

    def _last(self, count: int, halves: Callable[[np.ndarray], np.ndarray]) -> tuple[int, int]:
        """The half of which, from the top, the count-th is; and how many are above it."""
        counts = np.zeros(1 << 16, np.int64)
        for rows, mask in self.kept():
            counts += np.bincount(halves(self._numbers(rows)[mask]), minlength=1 << 16)
        from_top = np.cumsum(counts[::-1])
        place = int(np.searchsorted(from_top, count))
        return (1 << 16) - 1 - place, int(from_top[place] - counts[::-1][place])

    def _numbers(self, rows: slice) -> np.ndarray:
        """uint32 [rows], in the order of the scores."""
        # Adding 0 makes -0 a 0.
        bits = (self.table.arrays['score'][rows] + np.float32(0)).view(np.uint32)
        return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def check_left(table: WebTable, left: int, lost: Counter[str]) -> dict[str, int]:
    """What was left out, by reason; DataSetError if nothing else is there."""
    left_out = {reason: count for reason, count in lost.items() if count}
    if not left:
        raise DataSetError(
            f'{table.directory}: no record is left; of {len(table)}, these were left out: {left_out}'
        )
    return left_out
