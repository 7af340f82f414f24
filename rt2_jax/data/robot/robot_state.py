"""A robot's state, what it feels of itself: its numbers in an index, and the ranges of their bins.

The prompts of a set with `state` begin with it, as integers (`text/grid.py`). As of actions, values outside
of a range are clipped to it and counted.
"""

from __future__ import annotations

import numpy as np

from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.index.episode_index import EpisodeIndex
from rt2_jax.data.robot import action_statistics
from rt2_jax.text.actions import ActionSpace, range_of


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
