"""Numbers in ranges <-> the integers of the bins that they lie in; what is clipped is counted.

Actions are written so (`actions.py`), and so is a robot's state in its prompts:

    Grid(space, 'state').text([0.1, -0.2])  # '141 102', where both range from -1 to 1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import logging
import numpy as np

if TYPE_CHECKING:
    from rt2_jax.text.actions import ActionSpace


class Grid:
    """The bins of a space's dimensions, by their integers; see `actions.py` for where they lie.

    Attributes:
        space: the ranges.
        encoded: how many rows of values were given integers.
        clipped: int64 [D], how many values of each dimension lay outside their range and were
            clipped to it. Logged as the count grows.
    """

    def __init__(self, space: ActionSpace, what: str = 'action') -> None:
        self.space, self._what = space, what
        # Arrays, made once: making them takes longer than encoding an action.
        self._low, self._high = np.array([space.low, space.high])
        self._width = space.bin_widths
        # float32 data holds a range's end with a rounding error, which is no clip.
        slack = 1e-6 * (self._high - self._low)
        self._lowest, self._highest = self._low - slack, self._high + slack
        # A bin is floor((value - origin) / width + half) + middle.
        zero_centred = space.zero_centred
        self._origin = np.where(zero_centred, 0.0, self._low)
        self._half = np.where(zero_centred, 0.5, 0.0)
        self._middle = np.where(zero_centred, space.bins // 2, 0)
        # The upper end belongs to the last bin; an even number has one too many about zero.
        self._first = (zero_centred & (space.bins % 2 == 0)).astype(np.int64)
        self.encoded = 0
        self.clipped = np.zeros([len(space.names)], np.int64)
        self._next_report = 1

    def integers(self, values: np.ndarray) -> np.ndarray:
        """Finite values float [..., D] to integers, as floats [..., D]."""
        values = self._clip(values)
        bins = np.floor((values - self._origin) / self._width + self._half) + self._middle
        self.encoded += values.size // values.shape[-1]
        return np.minimum(np.maximum(bins, self._first), self.space.bins - 1)

    def constants(self) -> dict[str, list[float]]:
        """What `integers` computes with, by name: lists of one number a dimension."""
        last = np.full([len(self.space.names)], self.space.bins - 1)
        arrays = (self._low, self._high, self._origin, self._width, self._half, self._middle)
        names = 'low high origin width half middle first last'.split()
        return {
            name: array.tolist()
            for name, array in zip(names, (*arrays, self._first, last), strict=True)
        }

    def text(self, values: np.ndarray | Sequence[float]) -> str:
        """Values float [D] as their integers, a blank between them; raises as `texts`."""
        return self.texts(np.asarray(values, np.float64)[None])[0]

    def texts(self, values: np.ndarray) -> list[str]:
        """As `text`, for N rows of values [N, D].

        Raises:
            ValueError: another number of values, or one that is not finite; names it.
        """
        values, names = np.asarray(values, np.float64), self.space.names
        if values.shape[1:] != (len(names),):
            raise ValueError(
                f'A {self._what} has {len(names)} numbers ({", ".join(names)}), got shape '
                f'{list(values.shape[1:])}.'
            )
        if not np.isfinite(values).all():
            row, place = np.argwhere(~np.isfinite(values))[0]
            raise ValueError(
                f'A {self._what} has {values[row, place]} for {names[place]!r}; it must be finite.'
            )
        rows = self.integers(values).astype(int).tolist()
        return [' '.join(map(str, row)) for row in rows]

    def _clip(self, values: np.ndarray) -> np.ndarray:
        outside = (values < self._lowest) | (values > self._highest)
        if outside.any():
            self.clipped += outside.reshape(-1, outside.shape[-1]).sum(axis=0)
            if (total := int(self.clipped.sum())) >= self._next_report:
                counts = dict(zip(self.space.names, self.clipped.tolist(), strict=True))
                logging.warning(
                    '%d %s values so far lay outside their range and were clipped '
                    '(%d %ss encoded before these): %s',
                    total,
                    self._what,
                    self.encoded,
                    self._what,
                    counts,
                )
                self._next_report = 10 ** len(str(total))
        return np.minimum(np.maximum(values, self._low), self._high)
