"""Statistics of results: shares with intervals, percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def proportion(successes: int, number: int) -> dict[str, Any]:
    """A share with its Wilson score interval, 95 %.

    >>> proportion(45, 50)
    {'success': 0.9, 'episodes': 50, 'interval': [0.7864, 0.9565]}

    Raises:
        ValueError: where `number` is not positive.
    """
    from scipy import stats  # takes half a second, which no other command needs

    if number < 1:
        raise ValueError('A share of no episodes is not defined.')
    interval = stats.binomtest(int(successes), int(number)).proportion_ci(0.95, method='wilson')
    return {
        'success': round(successes / number, 4),
        'episodes': int(number),
        'interval': [round(float(interval.low), 4), round(float(interval.high), 4)],
    }


def share(hits: int, number: int) -> dict[str, Any]:
    """A share of anything, as `proportion`, with its count; of none, the share is None.

    >>> share(45, 50)
    {'share': 0.9, 'count': 45, 'of': 50, 'interval': [0.7864, 0.9565]}
    """
    if number == 0:
        return {'share': None, 'count': 0, 'of': 0, 'interval': None}
    figures = proportion(hits, number)
    return {
        'share': figures['success'],
        'count': int(hits),
        'of': int(number),
        'interval': figures['interval'],
    }


def paired_difference(first_only: int, second_only: int, number: int) -> dict[str, Any]:
    """How much more often the second of two policies succeeds, in the same episodes, with a 95 % interval.

    The interval is Agresti and Min's (2005): half an episode is added to each of the four outcomes.

    >>> paired_difference(2, 12, 100)
    {'difference': 0.1, 'first_only': 2, 'second_only': 12, 'episodes': 100, 'interval': [0.0233, 0.1727]}

    Raises:
        ValueError: where `number` is not positive.
    """
    if number < 1:
        raise ValueError('A difference over no episodes is not defined.')
    total = number + 2
    difference = (second_only - first_only) / total
    discordant = (first_only + second_only + 1) / total
    half = 1.959964 * ((discordant - difference**2) / total) ** 0.5
    return {
        'difference': round((second_only - first_only) / number, 4),
        'first_only': int(first_only),
        'second_only': int(second_only),
        'episodes': int(number),
        'interval': [round(difference - half, 4), round(difference + half, 4)],
    }


def percentiles(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Median and 95th percentile."""
    return {f'p{q}': round(float(np.percentile(values, q)), digits) for q in (50, 95)}
