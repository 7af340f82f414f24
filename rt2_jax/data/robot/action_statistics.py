"""Statistics of a data set's actions, and the ranges of actions that follow from them.

A gripper's statistics are of the data's own values, before the card turns them into +1 and -1: only
those tell whether the card's open and closed values are the data's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import math

from absl import logging
import numpy as np

from rt2_jax.data.robot_card import Gripper
from rt2_jax.nearest import check
from rt2_jax.text.actions import MINIMUM_RANGE, ActionSpace, range_of

# Where the ranges of a data set's actions come from.
BOUNDS = {
    'card': "the card's own",
    'rt1': "RT-1's: translation +-1, rotation +-pi/2, gripper +-1",
    'q01-q99': "the data's own 1st and 99th percentile, or its extremes where those coincide; the "
    "gripper keeps the card's range",
}
_CHUNK = 1 << 20

# A gripper within this share of the card's span of its open (closed) value counts as open (closed).
_NEAR = 0.25
_RARELY = 1e-4  # share of the steps


def compute(actions: np.ndarray, space: ActionSpace) -> dict[str, dict[str, float]]:
    """Statistics of each dimension, in one pass each over its column.

    Args:
        actions: float32 [N, terminate + D], memory-mapped or not; a column at a time is in memory.
        space: names the dimensions.

    Returns:
        Name -> {'min', 'max', 'mean', 'std', 'q01', 'q99'}; quantiles are exact.
    """
    statistics = {}
    for place, name in enumerate(space.names, start=int(space.terminate)):
        # A copy: the quantiles sort it in place, and the memory map can't be written.
        column = np.array(actions[:, place])
        # In float64, a chunk at a time: a float32 sum of ten million small numbers drifts.
        chunks = [column[i : i + _CHUNK] for i in range(0, len(column), _CHUNK)]
        mean = sum(chunk.sum(dtype=np.float64) for chunk in chunks) / len(column)
        variance = sum(np.square(chunk - mean).sum() for chunk in chunks) / len(column)
        q01, q99 = np.quantile(column, [0.01, 0.99], overwrite_input=True)
        statistics[name] = {
            'min': float(column.min()),
            'max': float(column.max()),
            'mean': float(mean),
            'std': math.sqrt(variance),
            'q01': float(q01),
            'q99': float(q99),
        }
    return statistics


def degenerate(statistics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Dimensions whose q01..q99 is narrower than what an ActionSpace takes, but for the gripper."""
    return [
        name
        for name, values in statistics.items()
        if name != 'gripper' and values['q99'] - values['q01'] < MINIMUM_RANGE
    ]


def action_space(
    space: ActionSpace, bounds: str, statistics: Mapping[str, Mapping[str, float]]
) -> ActionSpace:
    """The card's action space with the ranges that `bounds` asks for.

    A dimension that never moves is widened by ActionSpace, which logs it.

    Raises:
        ValueError: for bounds that BOUNDS doesn't have.
    """
    check('bounds', bounds, BOUNDS)
    if bounds == 'card':
        return space
    low, high = zip(*(_range(space, name, bounds, statistics) for name in space.names), strict=True)
    if bounds == 'q01-q99' and (narrow := degenerate(statistics)):
        logging.warning(
            'q01 and q99 all but coincide in %s: their ranges are the extremes, widened where those '
            'coincide too',
            narrow,
        )
    return dataclasses.replace(space, low=low, high=high)


def _range(
    space: ActionSpace, name: str, bounds: str, statistics: Mapping[str, Mapping[str, float]]
) -> tuple[float, float]:
    if bounds == 'q01-q99' and name != 'gripper':
        return range_of(*(statistics[name][key] for key in ('q01', 'q99', 'min', 'max')))
    if bounds == 'q01-q99':
        # Open or closed all the time is a fact of the data, not the gripper's range.
        place = space.names.index(name)
        return space.low[place], space.high[place]
    rt1 = ActionSpace.rt1_bounds()
    check("dimension of RT-1's", name, rt1.names)
    place = rt1.names.index(name)
    return rt1.low[place], rt1.high[place]


def clipped(actions: np.ndarray, space: ActionSpace) -> dict[str, float]:
    """Share of the steps whose value lies beyond the range, by dimension.

    Args:
        actions: float32 [N, terminate + D], memory-mapped or not; N is 1 or more.
        space: the ranges.
    """
    low, high = np.array(space.low), np.array(space.high)
    slack = 1e-6 * (high - low)  # float32 holds a range's end with a rounding error
    beyond = np.zeros(len(space.names), np.int64)
    for start in range(0, len(actions), _CHUNK):
        values = actions[start : start + _CHUNK, int(space.terminate) :]
        beyond += ((values < low - slack) | (values > high + slack)).sum(axis=0)
    return dict(zip(space.names, (beyond / len(actions)).tolist(), strict=True))


def gripper_use(values: np.ndarray, gripper: Gripper) -> dict[str, float]:
    """How far the data's own gripper values [N] reach, and how many are open and closed by the card."""
    if not len(values):
        return {'steps': 0, 'min': math.inf, 'max': -math.inf, 'open': 0, 'closed': 0}
    near = _NEAR * abs(gripper.closed - gripper.open)
    return {
        'steps': len(values),
        'min': float(values.min()),
        'max': float(values.max()),
        'open': int((np.abs(values - gripper.open) <= near).sum()),
        'closed': int((np.abs(values - gripper.closed) <= near).sum()),
    }


def joined_gripper_use(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What `gripper_use` says of several parts of a set together."""
    least, greatest = min(part['min'] for part in parts), max(part['max'] for part in parts)
    counts = {key: sum(part[key] for part in parts) for key in ('steps', 'open', 'closed')}
    return counts | {'min': least, 'max': greatest}


def gripper_warning(gripper: Gripper, use: Mapping[str, float]) -> str:
    """What is odd about a gripper's values under its card; '' if nothing is."""
    near = _NEAR * abs(gripper.closed - gripper.open)
    least, greatest = sorted([gripper.closed, gripper.open])
    odd = [f'it is never {end}' for end in ('open', 'closed') if use[end] < _RARELY * use['steps']]
    if use['min'] < least - near or use['max'] > greatest + near:
        odd.append('some values lie far beyond both')
    if not odd:
        return ''
    return (
        f"gripper: the data's values run from {use['min']:g} to {use['max']:g}; by the card "
        f'{gripper.open:g} is open and {gripper.closed:g} is closed, so that {" and ".join(odd)}. '
        "If that isn't so, correct the card's gripper"
    )
