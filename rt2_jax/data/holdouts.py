"""Which things of a data set are held out for validation, by a number of their own.

The number comes from a thing's content, so that it stays on its side when others are added to the
set, moved to other shards or written again, and a copy goes where the first one goes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rt2_jax.data.data_errors import DataSetError
from rt2_jax.errors import UserError

PARTS = ('train', 'validation')
LISTED = 5  # by name, where more are counted


class Leakage(UserError, ValueError):
    """Something that is trained on is held out for validation, too."""


def order(identities: np.ndarray) -> np.ndarray:
    """Numbers of things, uint64 [N], from what they are known by: those below a limit are held out."""
    return mixed(~identities)


def limit(
    orders: Iterable[np.ndarray], holdout: float, *, count: int, directory: str, things: str
) -> np.uint64:
    """The first number that isn't held out.

    Args:
        orders: see `order`; of all things of a set, in parts.
        holdout: a share in (0, 1), about which each thing decides by itself, so that others may be
            added; or a number of things, 1 or more, some of which may give way when others are
            added.
        count: of all things.
        directory: the set.
        things: what they are called.

    Raises:
        DataSetError: none is held out, or all are.
    """
    if not (0 < holdout < 1 or (holdout == int(holdout) and 1 <= holdout < count)):
        raise DataSetError(
            f'holdout={holdout} of {directory}: a share between 0 and 1, or a number of its {count} '
            f'{things} from 1 up, is needed'
        )
    if holdout < 1:
        first = np.uint64(int(holdout * 2**64))
        chosen = sum(int((part < first).sum()) for part in orders)
    else:
        chosen, lowest = int(holdout), np.zeros(0, np.uint64)
        for part in orders:
            lowest = np.sort(np.concatenate([lowest, part]))[:chosen]
        first = lowest[-1] + np.uint64(1)
    if chosen in (0, count):
        raise DataSetError(
            f'holdout={holdout} holds out {"all" if chosen else "none"} of the {count} {things} of '
            f'{directory}; take another share, or a number of {things}'
        )
    return first


def mixed(x: np.ndarray) -> np.ndarray:
    """uint64 -> uint64, one to one, every bit depending on every bit (the end of splitmix64)."""
    x = np.asarray(x, np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
