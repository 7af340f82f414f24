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


def percentiles(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Median and 95th percentile."""
    return {f'p{q}': round(float(np.percentile(values, q)), digits) for q in (50, 95)}
