"""Some matrices of a checkpoint, read from disk layer by layer."""

from collections.abc import Mapping
import re

import numpy as np

from rt2_jax.weights.tensors import Tensor as Stored

STACKED = ('layers', 'blocks')  # modules whose parameters have an axis of layers in front
LAYERS = 6  # that are read of one parameter at most


def read(
    arrays: Mapping[str, Stored], pattern: str = '', most: int = 9
) -> dict[str, dict[int, np.ndarray]]:
    """The largest kernels whose name matches a regular expression, in the order of the tree.

    Args:
        arrays: of `inspection.opened`.
        pattern: found somewhere in the name.
        most: how many parameters.

    Returns:
        Matrices [inputs, outputs] by layer, by name. Of many layers some are read, evenly spread.

    Raises:
        ValueError: no matrix has such a name.
    """
    fitting = [n for n, x in arrays.items() if len(x.shape) > 1 and re.search(pattern, n)]
    if not fitting:
        raise ValueError(f'No matrix has {pattern!r} in its name; the names are those of the tree')
    kept = set(sorted(fitting, key=lambda name: -arrays[name].count)[:most])
    return {name: _layers(name, arrays[name]) for name in fitting if name in kept}


def _layers(name: str, stored: Stored) -> dict[int, np.ndarray]:
    path, take = name.split('/'), stored.reader()
    # Attention has heads before their width; in its output both are summed over.
    ends = path[-2:] == ['out', 'kernel']
    flat = lambda x: x.reshape(-1, x.shape[-1]) if ends else x.reshape(len(x), -1)
    whole = tuple(slice(0, size) for size in stored.shape)
    if not set(STACKED) & set(path):
        return {0: flat(np.asarray(take(whole), np.float32))}
    depth = stored.shape[0]
    places = np.unique(np.linspace(0, depth - 1, min(LAYERS, depth)).astype(int)).tolist()
    found = {k: take((slice(k, k + 1), *whole[1:]))[0] for k in places}
    return {k: flat(np.asarray(layer, np.float32)) for k, layer in found.items()}


def short(name: str) -> str:
    """A name without the modules that say little."""
    return '/'.join(part for part in name.split('/') if part not in ('kernel', *STACKED))
