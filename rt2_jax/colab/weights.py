"""A checkpoint's weights: distributions, spectra, changes, and how numbers and places are written."""

from __future__ import annotations

from collections.abc import Mapping
import math
import re
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from rt2_jax.checkpoints.inspection.opened import Opened
from rt2_jax.colab import notebook
from rt2_jax.models import embedding, layers as layers_lib, vit
from rt2_jax.text.tokenizer import BINS
from rt2_jax.weights.tensors import Tensor

Matrices = Mapping[str, Mapping[int, np.ndarray]]  # by name and layer
STACKED = ('layers', 'blocks')  # modules whose parameters have a leading layer axis
LAYERS = 6  # read of one parameter at most
SHOWN = 4  # image tokens a side whose positions are compared, at most
REACH = 40  # tokens that the bias is shown for, both ways


def read(
    arrays: Mapping[str, Tensor], pattern: str = '', most: int = 9
) -> dict[str, dict[int, np.ndarray]]:
    """The largest kernels whose name matches a regular expression, in the order of the tree.

    Args:
        arrays: of `inspection.opened`.
        pattern: matched anywhere in the name.
        most: how many parameters.

    Returns:
        Matrices [inputs, outputs] by layer, by name. Of many layers some are read, evenly spread.

    Raises:
        ValueError: no matrix has such a name.
    """
    matching = [n for n, x in arrays.items() if len(x.shape) > 1 and re.search(pattern, n)]
    if not matching:
        raise ValueError(f'No matrix has {pattern!r} in its name; the names are those of the tree')
    largest = set(sorted(matching, key=lambda name: -arrays[name].count)[:most])
    return {name: _layers(name, arrays[name]) for name in matching if name in largest}


def _layers(name: str, tensor: Tensor) -> dict[int, np.ndarray]:
    path, part = name.split('/'), tensor.reader()
    # Attention has heads before their width; in its output both are summed over.
    out = path[-2:] == ['out', 'kernel']
    flat = lambda x: x.reshape(-1, x.shape[-1]) if out else x.reshape(len(x), -1)
    if not set(STACKED) & set(path):
        return {0: flat(np.asarray(part(()), np.float32))}
    depth = tensor.shape[0]
    numbers = np.unique(np.linspace(0, depth - 1, min(LAYERS, depth)).astype(int)).tolist()
    rest = tuple(slice(0, size) for size in tensor.shape[1:])
    read_layers = {k: part((slice(k, k + 1), *rest))[0] for k in numbers}
    return {k: flat(np.asarray(layer, np.float32)) for k, layer in read_layers.items()}


def short(name: str) -> str:
    """A name without the modules that all names have."""
    return '/'.join(part for part in name.split('/') if part not in ('kernel', *STACKED))


def histograms(matrices: Matrices) -> Figure:
    """How often each value occurs, beside a normal distribution of the same spread."""
    figure, axes = notebook.grid(len(matrices), 3, 4.2, 2.4)
    for (name, by_layer), axis in zip(matrices.items(), axes, strict=True):
        values = np.concatenate([layer.ravel() for layer in by_layer.values()])
        values = values[np.isfinite(values)].astype(np.float64)
        spread, reach = values.std(), np.abs(values).max()
        counts, edges = np.histogram(values, bins=81, range=(-reach, reach))
        axis.stairs(counts, edges, color=notebook.BLUE, fill=True, alpha=0.8)
        middle = (edges[1:] + edges[:-1]) / 2
        normal = np.exp(-0.5 * ((middle - values.mean()) / spread) ** 2)
        normal *= values.size * (edges[1] - edges[0]) / (spread * np.sqrt(2 * np.pi))
        axis.plot(middle, normal, color=notebook.ORANGE, linewidth=1.2)
        axis.set(yscale='log', ylim=(0.5, counts.max() * 3), title=short(name))
        axis.text(0.03, 0.97, f'std {spread:.3g}', transform=axis.transAxes, va='top', fontsize=9)
    figure.suptitle('Weights (blue), and a normal distribution of their spread (orange)')
    figure.supylabel('weights')
    return figure


def spectra(matrices: Matrices) -> Figure:
    """Singular values in units of the largest, one line a layer."""
    figure, axes = notebook.grid(len(matrices), 3, 4.2, 2.6, sharey=True)
    for (name, by_layer), axis in zip(matrices.items(), axes, strict=True):
        for (number, layer), colour in zip(by_layer.items(), notebook.CYCLE):
            values = singular_values(layer)
            label = f'layer {number}' if len(by_layer) > 1 else None
            axis.plot(np.arange(1, len(values) + 1), values / values[0], color=colour, label=label)
        axis.set(yscale='log', title=short(name), xlabel='rank')
        if len(by_layer) > 1:
            axis.legend(fontsize=8, ncols=2)
    figure.suptitle('Singular values by rank: a line that falls early uses few directions')
    figure.supylabel('of the largest')
    return figure


def singular_values(matrix: np.ndarray) -> np.ndarray:
    """Largest first; from the smaller Gram matrix, many times as fast as a decomposition."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    product = wide.astype(np.float64) @ wide.T
    return np.sqrt(np.maximum(np.linalg.eigvalsh(product)[::-1], 0))


def changes(between: Mapping[str, Any], most: int = 24) -> Figure:
    """How far parameters moved, relative to their norm before.

    Args:
        between: the part `against` of an `inspection.survey`.
        most: how many, of those that moved most.

    Raises:
        ValueError: the two checkpoints have no parameter of the same name and shape.
    """
    moved = {n: x['relative'] for n, x in between['parameters'].items()}
    moved = {n: x for n, x in moved.items() if x is not None}
    if not moved:
        raise ValueError('The two checkpoints have no parameter of the same name and shape')
    names = sorted(moved, key=moved.__getitem__)[-most:]
    parts = list(dict.fromkeys(name.partition('/')[0] for name in moved))
    shades = [notebook.CYCLE[parts.index(name.partition('/')[0]) % 6] for name in names]
    figure, axis = notebook.single(10, 0.28 * len(names) + 1)
    axis.barh(names, [moved[name] for name in names], color=shades)
    axis.tick_params(axis='y', labelsize=9)
    axis.grid(axis='y', visible=False)
    axis.margins(y=0.01)
    axis.set(
        xlabel='norm of the change / norm before',
        title=f'Since step {between["step"]} of {between["checkpoint"].rpartition("/")[2]}: '
        f'the {len(names)} that changed most, of {len(moved)}',
    )
    return figure


def integer_vectors(checkpoint: Opened) -> np.ndarray | None:
    """The word vector of each integer 0, 1, ... that has a token, float32 [integers, D].

    None without word vectors (of a vision tower alone, say) or without a tokenizer.
    """
    words, tokenizer = checkpoint.arrays.get('embedding/embedding'), checkpoint.tokenizer
    if words is None or tokenizer is None:
        return None
    ids = np.asarray(tokenizer.integer_ids)
    # They mostly lie side by side, and a table of a quarter of a million words is large.
    rows = words[slice(ids.min(), ids.max() + 1), slice(0, words.shape[1])]
    vectors = np.array(rows, np.float32)[ids - ids.min()]
    if checkpoint.config['model'].get('number_line'):
        vectors += embedding.number_line(*vectors.shape)
    return vectors


def number_line(vectors: np.ndarray, bins: int = BINS) -> Figure:
    """Cosines of every two integers, by their distance, and the two principal directions.

    Args:
        vectors: float32 [integers, D].
        bins: how many of them an action may be.
    """
    figure = Figure(figsize=(13.5, 4), layout='constrained')
    all_pairs, by_distance, directions = figure.subplots(1, 3, width_ratios=(1.1, 1.2, 1.1))
    unit = _directions(vectors)
    picture = all_pairs.imshow(unit @ unit.T, vmin=-1, vmax=1, cmap='RdBu_r', origin='lower')
    all_pairs.plot([0, bins, bins], [bins, bins, 0], color='black', linewidth=1)
    all_pairs.text(bins + 12, 12, f'0 to {bins - 1}:\nactions', fontsize=9)
    all_pairs.set(title='Cosine of every two integers', xlabel='integer', ylabel='integer')
    all_pairs.grid(visible=False)
    figure.colorbar(picture, ax=all_pairs, shrink=0.85)
    unit = _directions(vectors[:bins])
    _draw_by_distance(by_distance, unit)
    points = _draw_principal_directions(directions, unit)
    figure.colorbar(points, ax=directions, shrink=0.85, label='integer')
    return figure


def _directions(vectors: np.ndarray) -> np.ndarray:
    """Unit vectors from the mean, which all words have in common."""
    centred = vectors - vectors.mean(axis=0)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)


def _draw_by_distance(axis: Axes, unit: np.ndarray) -> None:
    similarity = unit @ unit.T
    reach = np.arange(len(unit) // 2)
    diagonals = [np.diagonal(similarity, k) for k in reach]
    low, middle, high = np.array([np.quantile(x, (0.1, 0.5, 0.9)) for x in diagonals]).T
    axis.fill_between(reach, low, high, color=notebook.BLUE, alpha=0.2, label='80 % of pairs')
    axis.plot(reach, middle, color=notebook.BLUE, label='median')
    axis.axhline(0, color=notebook.GREY, linewidth=0.8)
    axis.set(
        title='Are near actions alike?', xlabel='distance of two integers, bins', ylabel='cosine'
    )
    axis.legend()


def _draw_principal_directions(axis: Axes, unit: np.ndarray) -> Any:
    _, sizes, directions = np.linalg.svd(unit, full_matrices=False)
    x, y = (unit @ directions[:2].T).T
    share = (sizes[:2] ** 2).sum() / (sizes**2).sum()
    axis.plot(x, y, color=notebook.GREY, linewidth=0.4, alpha=0.5)
    points = axis.scatter(x, y, c=np.arange(len(unit)), s=14, zorder=2)
    for integer in (0, 1, *range(32, len(unit), 32), len(unit) - 1):
        axis.annotate(str(integer), (x[integer], y[integer]), fontsize=8, zorder=3)
    axis.set(title=f'First two principal directions ({share:.0%})', xlabel='first', ylabel='second')
    return points


def position_vectors(checkpoint: Opened) -> np.ndarray | None:
    """The tower's position vectors, float32 [rows, columns, D]; None if it has none of these kinds."""
    config, learned = checkpoint.config, checkpoint.arrays.get('tower/positions')
    vision = config['model'].get('vision') if config else None
    if learned is not None:
        side, vectors = math.isqrt(learned.shape[0]), learned.read()
    elif vision is not None and vision.get('positions') == 'sincos':
        side = config['data']['image_size'] // vision['patch']
        vectors = np.asarray(vit.sincos_positions(side, side, vision['width']))
    else:
        return None
    return vectors.astype(np.float32).reshape(side, side, -1)


def positions(vectors: np.ndarray) -> Figure:
    """For some image tokens, the cosine of their position and every other token's."""
    rows = np.unique(np.linspace(0, len(vectors) - 1, min(SHOWN, len(vectors))).astype(int))
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    maps = [unit @ unit[row, column] for row in rows for column in rows]
    figure, axes = notebook.grid(len(maps), len(rows), 1.2, 1.2)
    for similarity, axis in zip(maps, axes, strict=True):
        picture = axis.imshow(similarity, vmin=np.min(maps), vmax=1)
        axis.set(xticks=[], yticks=[])
    figure.suptitle(f'Position of {len(maps)} tokens, and which are like it', fontsize=11)
    figure.colorbar(picture, ax=figure.axes, shrink=0.8, label='cosine')
    return figure


def bias_tables(checkpoint: Opened) -> dict[str, np.ndarray]:
    """The tables [buckets, heads] of T5's relative bias, by the part of the model that has one."""
    end = '/relative_bias/table'
    return {n[: -len(end)]: x.read() for n, x in checkpoint.arrays.items() if n.endswith(end)}


def bias(tables: Mapping[str, np.ndarray]) -> Figure:
    """What attention adds by a token's distance, one line a head."""
    figure, axes = notebook.grid(len(tables), 2, 5.5, 3)
    distances = np.arange(-REACH, REACH + 1)
    for (part, table), axis in zip(tables.items(), axes, strict=True):
        both_ways = 'encoder' in part
        module = layers_lib.RelativeBias(table.shape[1], both_ways, buckets=len(table))
        values = module.apply({'params': {'table': table}}, np.zeros([1], int), distances)
        values = np.asarray(values)[0, :, 0]
        reached = distances if both_ways else distances[distances <= 0]
        for head, line in enumerate(values):
            colour = notebook.CYCLE[head % 6]
            axis.plot(reached, line[: len(reached)], color=colour, linewidth=1.2)
        axis.axvline(0, color=notebook.GREY, linewidth=0.8)
        axis.set(title=part, xlabel='tokens ahead (below 0: behind)')
    figure.supylabel('added to the logit')
    return figure
