"""Pictures of a checkpoint's weights: how they are distributed, how many directions they use."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
import numpy as np

from rt2_jax.colab import colours
from rt2_jax.colab.matrices import short

Matrices = Mapping[str, Mapping[int, np.ndarray]]  # by name and layer


def histograms(matrices: Matrices) -> Figure:
    """How often each value occurs, beside a normal distribution of the same spread."""
    figure, axes = colours.grid(len(matrices), 3, 4.2, 2.4)
    for (name, layers), axis in zip(matrices.items(), axes, strict=True):
        values = np.concatenate([layer.ravel() for layer in layers.values()])
        values = values[np.isfinite(values)].astype(np.float64)
        spread, reach = values.std(), np.abs(values).max()
        counts, edges = np.histogram(values, bins=81, range=(-reach, reach))
        axis.stairs(counts, edges, color=colours.BLUE, fill=True, alpha=0.8)
        middle = (edges[1:] + edges[:-1]) / 2
        normal = np.exp(-0.5 * ((middle - values.mean()) / spread) ** 2)
        normal *= values.size * (edges[1] - edges[0]) / (spread * np.sqrt(2 * np.pi))
        axis.plot(middle, normal, color=colours.ORANGE, linewidth=1.2)
        axis.set(yscale='log', ylim=(0.5, counts.max() * 3), title=short(name))
        axis.text(0.03, 0.97, f'std {spread:.3g}', transform=axis.transAxes, va='top', fontsize=9)
    figure.suptitle('Weights (blue), and a normal distribution of their spread (orange)')
    figure.supylabel('weights')
    return figure


def spectra(matrices: Matrices) -> Figure:
    """Singular values, one line a layer, the largest being 1."""
    figure, axes = colours.grid(len(matrices), 3, 4.2, 2.6, sharey=True)
    for (name, layers), axis in zip(matrices.items(), axes, strict=True):
        for (place, layer), colour in zip(layers.items(), colours.CYCLE):
            values = singular_values(layer)
            label = f'layer {place}' if len(layers) > 1 else None
            axis.plot(np.arange(1, len(values) + 1), values / values[0], color=colour, label=label)
        axis.set(yscale='log', title=short(name), xlabel='rank')
        if len(layers) > 1:
            axis.legend(fontsize=8, ncols=2)
    figure.suptitle('Singular values by rank: a line that falls early uses few directions')
    figure.supylabel('of the largest')
    return figure


def singular_values(matrix: np.ndarray) -> np.ndarray:
    """Largest first; of the smaller product with itself, many times as fast as a decomposition."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    product = wide.astype(np.float64) @ wide.T
    return np.sqrt(np.maximum(np.linalg.eigvalsh(product)[::-1], 0))


def changes(between: Mapping[str, Any], most: int = 24) -> Figure:
    """How far parameters moved, relative to what they were.

    Args:
        between: the part `against` of what `inspection.survey` reports.
        most: how many, of those that moved most.

    Raises:
        ValueError: the two checkpoints have no parameter of the same name and shape.
    """
    moved = {n: x['relative'] for n, x in between['parameters'].items()}
    moved = {n: x for n, x in moved.items() if x is not None}
    if not moved:
        raise ValueError('The two checkpoints have no parameter of the same name and shape')
    kept = sorted(moved, key=moved.__getitem__)[-most:]
    parts = list(dict.fromkeys(name.partition('/')[0] for name in moved))
    shades = [colours.CYCLE[parts.index(name.partition('/')[0]) % 6] for name in kept]
    figure = Figure(figsize=(10, 0.28 * len(kept) + 1), layout='constrained')
    axis = figure.subplots()
    axis.barh(kept, [moved[name] for name in kept], color=shades)
    axis.tick_params(axis='y', labelsize=9)
    axis.grid(axis='y', visible=False)
    axis.margins(y=0.01)
    axis.set(
        xlabel='norm of the change / norm before',
        title=f'Since step {between["step"]} of {between["checkpoint"].rpartition("/")[2]}: '
        f'the {len(kept)} that changed most, of {len(moved)}',
    )
    return figure
