"""A robot's state, what it feels of itself: its numbers in an index, and the ranges of their bins.

The prompts of a set with `state` begin with it, as integers (`text/grid.py`). As of actions, values outside
of a range are clipped to it and counted.
"""

from __future__ import annotations

import math

import numpy as np

from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.index.episode_index import EpisodeIndex
from rt2_jax.data.robot import action_statistics
from rt2_jax.text.actions import ActionSpace, range_of

NEAR = (
    0.3  # standard deviations of the state: nearer lie actions that are positions; see `distance`
)
_AS_WIDE = 0.5  # share of the state's standard deviation that such actions have at least


def values(index: EpisodeIndex, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    """The states of steps by their rows in the index, all by default: float32 [N, K].

    Raises:
        DataSetError: a feature has fewer numbers than the card takes from it.
    """
    parts = []
    for part in index.card.state:
        column = index.arrays[index.about['columns'][part.path]['array']][rows]
        flat = np.asarray(column, np.float32).reshape(len(column), -1)
        if part.stop > flat.shape[1]:
            raise DataSetError(
                f'{index.directory}: the state of card {index.card.name!r} takes numbers {part.start} to '
                f'{part.stop - 1} of {part.path!r}, which has {flat.shape[1]}'
            )
        parts.append(flat[:, part.start : part.stop])
    return np.concatenate(parts, axis=1)


def space_of(index: EpisodeIndex, bounds: str) -> ActionSpace | None:
    """Names and ranges of a state's numbers, as an action's have them.

    Args:
        index: of the set, by a card with its state.
        bounds: '' for none, or 'card' or 'q01-q99', see `action_statistics.BOUNDS`.

    Raises:
        DataSetError: the card names no state or no ranges of it, or a value isn't finite.
    """
    if not bounds:
        return None
    card = index.card
    if not card.state:
        raise DataSetError(
            f'{index.directory}: state={bounds!r}, but the card {card.name!r} names no features of a '
            "state; add them to its `state`, or set state=''"
        )
    if bounds == 'card' and card.state_space is None:
        raise DataSetError(
            f"{index.directory}: state='card', but the card {card.name!r} has no `state_space` with the "
            "ranges; add it, or take the data's: 'q01-q99'"
        )
    states, names = values(index), card.state_names
    if len(bad := np.argwhere(~np.isfinite(states))):
        row, place = bad[0].tolist()
        episode = index.episode_of(row)
        raise DataSetError(
            f'{index.directory}: step {row - int(index.arrays["episode_first"][episode])} of episode '
            f'{episode} has {states[row, place]} for {names[place]!r} of its state, as {len(bad)} values '
            'have'
        )
    if card.state_space and bounds == 'card':
        return card.state_space
    whole = ActionSpace(
        (0.0,) * len(names), (1.0,) * len(names), names, ('1',) * len(names), terminate=False
    )
    statistics = action_statistics.compute(states, whole)
    ends = [range_of(*(statistics[n][key] for key in ('q01', 'q99', 'min', 'max'))) for n in names]
    low, high = zip(*ends, strict=True)
    units = card.state_space.units if card.state_space else whole.units
    return ActionSpace(low, high, names, units, terminate=False)


def distance(actions: np.ndarray, states: np.ndarray) -> float:
    """How far actions lie from the states of their steps: small where they are positions to go to.

    A change is near no state: its own spread is far below the state's, or its values lie elsewhere.

    Args:
        actions: float [T, D].
        states: float [T, D], the same numbers.

    Returns:
        The mean distance in standard deviations of the state, the median of the numbers that move;
        infinite where most spread far less than the state, or none moves.
    """
    spread = states.std(axis=0)
    moves = spread > 0
    if not moves.any():
        return math.inf
    away = np.abs(actions - states).mean(axis=0)[moves] / spread[moves]
    is_wide = actions.std(axis=0)[moves] > _AS_WIDE * spread[moves]
    return float(np.median(np.where(is_wide, away, math.inf)))
