"""The parameters of a checkpoint by module."""

from collections.abc import Mapping, Sequence
import math

from IPython.display import HTML
import numpy as np

from rt2_jax.colab import table

HEADER = ('module', 'shape', 'parameters', 'MB', 'norm', 'largest', 'not finite')


def show(named: Mapping[str, np.ndarray], depth: int) -> HTML:
    """A table of modules and, below the modules that are not gone into, nothing.

    Args:
        named: parameters by slash-separated name.
        depth: levels of modules that are shown; 1 shows the parts of the model alone.
    """
    entries = rows(named, depth)
    total = sum(value.nbytes for value in named.values())
    shares = [row[3] * 1e6 / total for row in entries]
    return table.show(HEADER, entries, shares)


def rows(named: Mapping[str, np.ndarray], depth: int) -> list[tuple]:
    """What `show` shows: one tuple a module or parameter, in the order of the tree."""
    found = [_row('all', list(named.values()), 0)]
    seen = set()
    for name in named:
        parts = name.split('/')
        for level in range(1, min(depth, len(parts)) + 1):
            module = '/'.join(parts[:level])
            if module not in seen:
                seen.add(module)
                inside = [x for n, x in named.items() if n == module or n.startswith(f'{module}/')]
                found.append(_row(parts[level - 1], inside, level, module in named))
    return found


def _row(name: str, values: Sequence[np.ndarray], level: int, leaf: bool = False) -> tuple:
    values = [np.asarray(value) for value in values]
    shape = f'{values[0].dtype}{list(values[0].shape)}' if leaf else ''
    norms = [np.linalg.norm(value.astype(np.float64).ravel()) for value in values]
    return (
        '  ' * level + name,
        shape,
        sum(value.size for value in values),
        sum(value.nbytes for value in values) / 1e6,
        float(math.hypot(*norms)),
        float(max(np.abs(value).max() for value in values)),
        int(sum((~np.isfinite(value)).sum() for value in values)),
    )
