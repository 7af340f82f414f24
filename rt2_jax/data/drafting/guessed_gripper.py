"""Guesses what the numbers of a gripper mean: absolute or relative, and which of them is closed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rt2_jax.data.drafting.guess import Guess, is_named, percent
from rt2_jax.data.robot_card import Gripper

_HOLDS = 0.1  # share of zeros between both signs from which on a gripper is relative
_SURE = 0.8  # share of the episodes that must begin alike
_ON_ITS_WAY = (
    0.3  # share of values between the ends up to which a gripper is open or closed, no more
)
_BINARY = 0.05  # as Octo and OpenVLA have it; see Gripper
_LIKE = 0.5  # share of values near an end that makes a dimension look like a gripper's


def looks_like_one(episodes: Sequence[np.ndarray]) -> bool:
    """Whether values [T] of each episode are mostly at their ends (or at 0 between), as a gripper's are."""
    values = np.concatenate(episodes)
    low, high = values.min(), values.max()
    if high == low:
        return high in (-1, 0, 1)
    if low < -1.1 or high > 1.1:
        return False
    near = 0.1 * (high - low)
    at_end = (values <= low + near) | (values >= high - near)
    return bool((at_end | (np.abs(values) < 1e-6)).mean() >= _LIKE)


def guess(path: str, episodes: Sequence[np.ndarray]) -> tuple[Gripper, list[Guess]]:
    """The card's `gripper`.

    Args:
        path: of the feature, whose name may say which end is closed.
        episodes: its values in each episode, float [T].
    """
    values = np.concatenate(episodes)
    low, high = _ends(values)
    span = high - low
    holds = float((np.abs(values) < 0.05 * span).mean())
    is_relative = low < 0 < high and holds >= _HOLDS
    counts = _counts(values)
    if is_relative:
        reach = max(-low, high)
        low, high = -reach, reach
        kind, why = 'relative', f'0 holds it in {percent(holds)} of the steps; {counts}'
    else:
        kind, why = 'absolute', counts
    between = float(((values > low + 0.05 * span) & (values < high - 0.05 * span)).mean())
    binary = 0.0 if is_relative or between > _ON_ITS_WAY else _BINARY
    words = 'kept as they are' if not binary else 'open or closed, nothing between (binary 0.05)'
    larger_closes, sense, check = _sense(path, episodes, low, high, is_relative)
    closed, opened = (high, low) if larger_closes else (low, high)
    verbs = ('closes', 'opens') if is_relative else ('is closed', 'is open')
    meaning = f'{closed:g} {verbs[0]}, {opened:g} {verbs[1]}'
    guesses = [Guess('gripper', f'{kind}, {meaning}', f'{why}; {sense}', check)]
    if not is_relative:
        why = f'{percent(between)} of the values are between the ends'
        guesses.append(Guess('gripper values', words, why))
    return Gripper(kind, closed, opened, binary), guesses


def _ends(values: np.ndarray) -> tuple[float, float]:
    """The least and the greatest value, as -1, 0 or 1 where they are near one of these."""
    ends = []
    for end in (float(values.min()), float(values.max())):
        whole = min((-1.0, 0.0, 1.0), key=lambda x: abs(x - end))
        # A gripper in metres reaches 0.08: that is no 0.
        near = abs(whole - end) <= 0.05 and np.ptp(values) > 0.5 or whole == end
        ends.append(whole if near else round(end, 4))
    low, high = ends
    if low != high:
        return low, high
    # It never moves: the other end is the one that such numbers usually have.
    return (-1.0, 1.0) if low == -1 else (min(low, 0.0), max(high, 0.0) or 1.0)


def _sense(
    path: str, episodes: Sequence[np.ndarray], low: float, high: float, is_relative: bool
) -> tuple[bool, str, str]:
    """Whether the greater value closes, why, and what a person must check.

    The name of the feature counts most. A gripper mostly is open as an episode begins, so that the first
    change closes it.
    """
    middle = (low + high) / 2
    if is_relative:
        moves = [episode[np.abs(episode) > 0.25 * high] for episode in episodes]
        firsts = [bool(episode[0] > 0) for episode in moves if len(episode)]
        what = 'first change in {} of {} episodes is {:g}'
    else:
        firsts = [bool(episode[0] > middle) for episode in episodes]
        what = 'value as an episode begins is in {} of {} episodes {:g}'
    high_first = sum(firsts)
    most = max(high_first, len(firsts) - high_first)
    end = high if 2 * high_first >= len(firsts) else low
    shown = f'the {what.format(most, len(firsts), end)}'
    by_start = None
    if firsts and most >= _SURE * len(firsts) and np.ptp(np.concatenate(episodes)) > 0:
        by_start = (end == high) == is_relative
    by_name = True if is_named(path, 'clos') else False if is_named(path, 'open') else None
    if by_name is not None:
        check = 'that the name is right'
        if by_start is not None and by_start != by_name:
            check += (
                f'; {shown}, where a gripper is usually open: perhaps it is the other way round'
            )
        return by_name, f'by its name, {path!r}', check
    verb = 'closes' if is_relative else 'is closed'
    if by_start is not None:
        closed = high if by_start else low
        return by_start, f'{shown}, taken as open at first', f'that {closed:g} {verb}'
    # Nothing tells: 0..1 mostly is how far it is open (Bridge), -1..1 RT-1's closedness.
    larger_closes = low < 0
    closed = high if larger_closes else low
    return larger_closes, f'nothing in the data says which; {shown}', f'whether {closed:g} {verb}'


def _counts(values: np.ndarray) -> str:
    rounded, counts = np.unique(values.round(3), return_counts=True)
    if len(rounded) > 4:
        return f'{len(rounded)} values from {values.min():.4g} to {values.max():.4g}'
    shares = [f'{x:g} ({percent(n / len(values))})' for x, n in zip(rounded, counts, strict=True)]
    return f'values {", ".join(shares)}'
