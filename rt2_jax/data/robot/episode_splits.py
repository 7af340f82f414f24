"""Which episodes are held out for validation, and whether any is trained on all the same.

An episode is known by what its first camera shows: the checksums of its pictures, in order, which the
byte index holds (see holdouts). A second copy of it, in the same set or another, goes where the first
one goes or is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from absl import logging
import numpy as np

from rt2_jax.data import holdouts
from rt2_jax.data.holdouts import LISTED, PARTS, Leakage
from rt2_jax.data.index.episode_index import EpisodeIndex
from rt2_jax.data.readers import tfrecord
from rt2_jax.data.robot.step_table import StepTable
from rt2_jax.nearest import check


def identities(index: EpisodeIndex) -> np.ndarray:
    """What each episode of a data set is known by: uint64 [episodes]."""
    first = index.arrays['episode_first']
    lengths = np.diff(first)
    place = np.arange(index.steps, dtype=np.uint64) - np.repeat(first[:-1], lengths).astype(
        np.uint64
    )
    pictures = holdouts.mixed((place << np.uint64(32)) + index.arrays['image_checksum'][:, 0])
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(pictures)])
    return holdouts.mixed(total[first[1:]] - total[first[:-1]] + lengths.astype(np.uint64))


def held_out(index: EpisodeIndex, holdout: float) -> np.ndarray:
    """Which episodes of a set are held out, bool [episodes].

    Args:
        index: of the whole set.
        holdout: a share in (0, 1), about which each episode decides by itself, so that others may
            be added; or a number of episodes, 1 or more, some of which may give way when others are
            added.

    Raises:
        DataSetError: none is held out, or all are.
    """
    order = holdouts.order(identities(index))
    limit = holdouts.limit(
        [order], holdout, count=len(order), directory=str(index.directory), things='episodes'
    )
    return order < limit


def part_of(index: EpisodeIndex, holdout: float, part: str) -> np.ndarray:
    """The numbers of a set's episodes for training or for validation, int64 [N]."""
    check('part', part, PARTS)
    if not holdout:
        return np.arange(index.episodes)
    return np.flatnonzero(held_out(index, holdout) == (part == 'validation'))


def check_apart(trained: Mapping[str, Any], validated: Mapping[str, Any]) -> None:
    """Compares the episodes of two groups of sources, by name; other sources are ignored.

    Episodes that begin with the same picture and the same instruction are logged, for they may be
    two takes of one layout.

    Raises:
        Leakage: an episode is in both; lists the first few.
    """
    ours, theirs = _episodes(trained), _episodes(validated)
    same = _in_both(ours, theirs, 'identity')
    if same:
        raise Leakage(
            f'{len(same)} episodes are held out for validation and trained on as well:\n'
            + '\n'.join(f'  {line}' for line in same[:LISTED])
            + '\nHold out by `holdout`, which keeps copies together, or take the copies away.'
        )
    alike = _in_both(ours, theirs, 'beginning')
    if alike:
        logging.warning(
            '%d held-out episodes begin with the same picture and instruction as one that is trained '
            'on:\n%s',
            len(alike),
            '\n'.join(f'  {line}' for line in alike[:LISTED]),
        )


def _episodes(sources: Mapping[str, Any]) -> dict[str, Any]:
    """The chosen episodes of all sources that have some, in columns."""
    names: list[str] = []
    numbers: list[np.ndarray] = []
    columns: dict[str, list[np.ndarray]] = {'identity': [], 'beginning': []}
    seen = set()
    for name, source in sources.items():
        steps = getattr(source, 'steps', source)  # a derived source has the steps it asks about
        table = getattr(steps, 'table', None)
        if not isinstance(table, StepTable) or id(table) in seen:
            continue
        seen.add(id(table))
        names += [name] * len(table.episodes)
        numbers.append(table.episodes)
        columns['identity'].append(identities(table.index)[table.episodes])
        columns['beginning'].append(_beginnings(table.index)[table.episodes])
    joined = {
        key: np.concatenate(parts) if parts else np.zeros(0, np.uint64)
        for key, parts in columns.items()
    }
    return joined | {
        'names': names,
        'numbers': np.concatenate(numbers) if numbers else np.zeros(0, np.int64),
    }


def _beginnings(index: EpisodeIndex) -> np.ndarray:
    """One number for the first picture and instruction of each episode: uint64 [episodes]."""
    # An empty episode at the end of a set has no first step.
    first = np.minimum(index.arrays['episode_first'][:-1], index.steps - 1)
    texts = np.array([tfrecord.checksum(text.encode()) for text in index.texts], np.uint64)
    instructions = texts[index.arrays['instruction'][first]]
    return holdouts.mixed(
        (instructions << np.uint64(32)) + index.arrays['image_checksum'][first, 0]
    )


def _in_both(ours: dict[str, Any], theirs: dict[str, Any], key: str) -> list[str]:
    where = {value: i for i, value in enumerate(ours[key].tolist())}
    return [
        f'episode {theirs["numbers"][i]} of {theirs["names"][i]} = episode '
        f'{ours["numbers"][where[value]]} of {ours["names"][where[value]]}'
        for i, value in enumerate(theirs[key].tolist())
        if value in where
    ]
