"""Pictures of a checkpoint's weights: how they are distributed, and how many directions they use."""

from collections.abc import Mapping, Sequence
import re

from matplotlib.figure import Figure
import numpy as np

from rt2_jax.colab import colours

STACKED = ('layers', 'blocks')  # modules whose parameters have an axis of layers in front
LAYERS = 6  # lines in a picture at most


def chosen(named: Mapping[str, np.ndarray], pattern: str, most: int) -> list[str]:
    """The largest kernels whose name matches a regular expression, in the order of the tree.

    Raises:
        ValueError: no matrix has such a name.
    """
    fitting = [n for n, x in named.items() if x.ndim > 1 and re.search(pattern, n)]
    if not fitting:
        raise ValueError(f'No matrix has a name with {pattern!r} in it; names are as in the tree')
    kept = set(sorted(fitting, key=lambda name: -named[name].size)[:most])
    return [name for name in fitting if name in kept]


def histograms(named: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """How often each value occurs, beside a normal distribution of the same spread."""
    figure, axes = colours.grid(len(names), 3, 4.2, 2.4)
    for name, axis in zip(names, axes, strict=True):
        values = np.asarray(named[name], np.float64).ravel()
        spread = values.std()
        reach = np.abs(values).max()
        counts, edges, _ = axis.hist(
            values, bins=81, range=(-reach, reach), color=colours.BLUE, alpha=0.8
        )
        middle = (edges[1:] + edges[:-1]) / 2
        normal = np.exp(-0.5 * ((middle - values.mean()) / spread) ** 2)
        normal *= values.size * (edges[1] - edges[0]) / (spread * np.sqrt(2 * np.pi))
        axis.plot(middle, normal, color=colours.ORANGE, linewidth=1.2)
        axis.set(yscale='log', ylim=(0.5, counts.max() * 3), title=_short(name))
        axis.text(0.03, 0.97, f'std {spread:.3g}', transform=axis.transAxes, va='top', fontsize=9)
    figure.suptitle('Weights (blue) and a normal distribution with their spread (orange)')
    figure.supylabel('weights a bin')
    return figure


def spectra(named: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Singular values of kernels, one line a layer, the largest being 1."""
    figure, axes = colours.grid(len(names), 3, 4.2, 2.6, sharey=True)
    for name, axis in zip(names, axes, strict=True):
        layers = matrices(name, named[name])
        shown = np.unique(np.linspace(0, len(layers) - 1, min(LAYERS, len(layers))).astype(int))
        for place, colour in zip(shown, colours.CYCLE):
            values = singular_values(layers[place])
            axis.plot(
                np.arange(1, len(values) + 1),
                values / values[0],
                color=colour,
                label=f'layer {place}' if len(layers) > 1 else None,
            )
        axis.set(yscale='log', title=_short(name), xlabel='rank')
        if len(layers) > 1:
            axis.legend(fontsize=8, ncols=2)
    figure.suptitle('Singular values by rank: a line that falls early uses few directions')
    figure.supylabel('of the largest')
    return figure


def matrices(name: str, value: np.ndarray) -> list[np.ndarray]:
    """A kernel as one matrix [inputs, outputs] a layer."""
    value = np.asarray(value, np.float32)
    layers = list(value) if set(STACKED) & set(name.split('/')) else [value]
    # Attention has heads before their width; of its output both are summed over.
    ends = name.split('/')[-2:] == ['out', 'kernel']
    return [x.reshape(-1, x.shape[-1]) if ends else x.reshape(len(x), -1) for x in layers]


def singular_values(matrix: np.ndarray) -> np.ndarray:
    """Largest first; by the smaller product with itself, many times as fast as a decomposition."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    product = wide.astype(np.float64) @ wide.T
    return np.sqrt(np.maximum(np.linalg.eigvalsh(product)[::-1], 0))


def changes(new: Mapping[str, np.ndarray], old: Mapping[str, np.ndarray], most: int = 24) -> Figure:
    """How far parameters moved from another checkpoint's, relative to what they were.

    Raises:
        ValueError: the two have no parameter in common.
    """
    common = [n for n in new if n in old and new[n].shape == old[n].shape]
    if not common:
        raise ValueError('The two checkpoints have no parameter of the same name and shape')
    moved = {
        n: np.linalg.norm(np.subtract(new[n], old[n])) / max(np.linalg.norm(old[n]), 1e-12)
        for n in common
    }
    kept = sorted(moved, key=moved.__getitem__)[-most:]
    figure = Figure(figsize=(10, 0.28 * len(kept) + 1), layout='constrained')
    axis = figure.subplots()
    parts = list(dict.fromkeys(name.partition('/')[0] for name in common))
    shades = [colours.CYCLE[parts.index(name.partition('/')[0]) % 6] for name in kept]
    axis.barh(kept, [moved[name] for name in kept], color=shades)
    axis.tick_params(axis='y', labelsize=9)
    axis.grid(axis='y', visible=False)
    alone = len(set(new) | set(old)) - len(common)
    axis.margins(y=0.01)
    axis.set(
        xlabel='norm of the change / norm before',
        title=f'The {len(kept)} that changed most, of {len(common)} parameters'
        + (f'; {alone} have no counterpart' if alone else ''),
    )
    return figure


def _short(name: str) -> str:
    """A name in which modules that say little are left out."""
    left_out = {'kernel', *STACKED}
    return '/'.join(part for part in name.split('/') if part not in left_out)
