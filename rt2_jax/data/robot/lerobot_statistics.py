"""The statistics that LeRobot stores of each episode and of the whole set.

Of numbers: min, max, mean, std, count and five quantiles, per number of the vector. Of pictures the same, per
colour, of values in 0..1, shaped [3, 1, 1]. They come from all pixels, by counts of the 256 values.

Source: github.com/huggingface/lerobot, src/lerobot/datasets/compute_stats.py, of 0.4.4.
"""

from __future__ import annotations

from collections.abc import Sequence
import warnings

import numpy as np

QUANTILES = {'q01': 0.01, 'q10': 0.1, 'q50': 0.5, 'q90': 0.9, 'q99': 0.99}

Statistics = dict[str, np.ndarray]


def of_numbers(values: np.ndarray) -> Statistics:
    """Of a feature's values [T, ...] in an episode. NaN stands for what has no value, and counts as none."""
    values = np.asarray(values, np.float64)
    with warnings.catch_warnings():  # a number that has no value at all has no statistics: NaN
        warnings.simplefilter('ignore', RuntimeWarning)
        quantiles = np.nanquantile(values, list(QUANTILES.values()), axis=0)
        statistics = {
            'min': np.nanmin(values, axis=0),
            'max': np.nanmax(values, axis=0),
            'mean': np.nanmean(values, axis=0),
            'std': np.nanstd(values, axis=0),
        }
    return statistics | {'count': np.array([len(values)])} | dict(zip(QUANTILES, quantiles))


def count_values(pixels: np.ndarray) -> np.ndarray:
    """How often each of 256 values is in a picture uint8 [H, W, 3]: int64 [3, 256]."""
    return np.stack([np.bincount(pixels[..., c].reshape(-1), minlength=256) for c in range(3)])


def of_pictures(counts: np.ndarray, pictures: int) -> Statistics:
    """Of an episode's pictures of one camera, by the counts of their values, int64 [3, 256]."""
    values = np.arange(256) / 255
    totals = counts.sum(axis=1, keepdims=True)
    mean = (counts * values).sum(axis=1, keepdims=True) / totals
    variance = (counts * np.square(values - mean)).sum(axis=1, keepdims=True) / totals
    below = np.cumsum(counts, axis=1) / totals
    at = lambda share: values[np.argmax(below >= share, axis=1)]
    statistics = {'min': values[np.argmax(counts > 0, axis=1)], 'max': at(1.0)}
    statistics |= {'mean': mean[:, 0], 'std': np.sqrt(variance[:, 0])}
    statistics |= {name: at(share) for name, share in QUANTILES.items()}
    shaped = {name: value.reshape(3, 1, 1) for name, value in statistics.items()}
    return shaped | {'count': np.array([pictures])}


def merge(episodes: Sequence[Statistics]) -> Statistics:
    """Of all episodes by those of each; quantiles are weighted means, as lerobot's are."""
    counts = np.array([episode['count'][0] for episode in episodes])
    stacked = {
        name: np.stack([episode[name] for episode in episodes])
        for name in episodes[0]
        if name != 'count'
    }
    weights = counts.reshape(-1, *[1] * (stacked['mean'].ndim - 1))

    def mean(values: np.ndarray) -> np.ndarray:
        known = np.isfinite(values)
        total = np.where(known, values * weights, 0).sum(axis=0)
        with np.errstate(invalid='ignore'):
            return total / (known * weights).sum(axis=0)

    merged = {name: mean(stacked[name]) for name in ('mean', *QUANTILES)}
    variance = mean(np.square(stacked['std']) + np.square(stacked['mean'] - merged['mean']))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)
        ends = {'min': np.nanmin(stacked['min'], axis=0), 'max': np.nanmax(stacked['max'], axis=0)}
    return ends | merged | {'std': np.sqrt(variance), 'count': np.array([counts.sum()])}
