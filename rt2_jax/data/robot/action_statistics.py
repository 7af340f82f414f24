"""Statistics of a data set's actions, and the ranges of actions that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import math

from absl import logging
import numpy as np

from rt2_jax.nearest import check
from rt2_jax.text.actions import MINIMUM_RANGE, ActionSpace

# Where the ranges of a data set's actions come from.
BOUNDS = {
    'card': "the card's own",
    'rt1': "RT-1's: translation +-1, rotation +-pi/2, gripper +-1",
    'q01-q99': "the data's own 1st and 99th percentile; the gripper keeps the card's range",
}
_CHUNK = 1 << 20


def compute(actions: np.ndarray, space: ActionSpace) -> dict[str, dict[str, float]]:
    """Statistics of each dimension, in one pass each over its column.

    Args:
      actions: float32 [N, terminate + D], memory-mapped or not; a column at a time is in memory.
      space: names the dimensions.

    Returns:
      Name -> {'min', 'max', 'mean', 'std', 'q01', 'q99'}; quantiles are exact.
    """
    found = {}
    for place, name in enumerate(space.names, start=int(space.terminate)):
        column = np.ascontiguousarray(actions[:, place])
        # In float64, a chunk at a time: a float32 sum of ten million small numbers drifts.
        chunks = [column[i : i + _CHUNK] for i in range(0, len(column), _CHUNK)]
        mean = sum(chunk.sum(dtype=np.float64) for chunk in chunks) / len(column)
        variance = sum(np.square(chunk - mean).sum() for chunk in chunks) / len(column)
        q01, q99 = np.quantile(column, [0.01, 0.99], overwrite_input=True)
        found[name] = {
            'min': float(column.min()),
            'max': float(column.max()),
            'mean': float(mean),
            'std': math.sqrt(variance),
            'q01': float(q01),
            'q99': float(q99),
        }
    return found


def degenerate(statistics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Dimensions whose q01..q99 is narrower than what an ActionSpace takes."""
    return [
        name for name, values in statistics.items() if values['q99'] - values['q01'] < MINIMUM_RANGE
    ]


def action_space(
    space: ActionSpace, bounds: str, statistics: Mapping[str, Mapping[str, float]]
) -> ActionSpace:
    """The card's action space with the ranges that `bounds` asks for.

    A degenerate dimension is widened by ActionSpace, which logs it.

    Raises:
      ValueError: for bounds that BOUNDS doesn't have.
    """
    check('bounds', bounds, BOUNDS)
    if bounds == 'card':
        return space
    low, high = zip(*(_range(space, name, bounds, statistics) for name in space.names), strict=True)
    if bounds == 'q01-q99' and (narrow := degenerate(statistics)):
        logging.warning('q01 and q99 all but coincide in %s: those are widened', narrow)
    return dataclasses.replace(space, low=low, high=high)


def _range(space: ActionSpace, name: str, bounds: str, statistics) -> tuple[float, float]:
    if bounds == 'q01-q99' and name != 'gripper':
        return statistics[name]['q01'], statistics[name]['q99']
    if bounds == 'q01-q99':
        # Open or closed all the time is a fact of the data, not the gripper's range.
        place = space.names.index(name)
        return space.low[place], space.high[place]
    rt1 = ActionSpace.rt1_bounds()
    check("dimension of RT-1's", name, rt1.names)
    place = rt1.names.index(name)
    return rt1.low[place], rt1.high[place]


def bins_used(counts: Sequence[int]) -> float:
    """Share of a dimension's bins that hold at least one value."""
    counts = np.asarray(counts)
    return float((counts > 0).sum() / len(counts))
