"""The word vectors of integers, which actions and places are written with."""

from typing import Any

from matplotlib.figure import Figure
import numpy as np

from rt2_jax.checkpoints.inspection.opened import Opened
from rt2_jax.colab import colours
from rt2_jax.models import layers
from rt2_jax.text.tokenizer import BINS

NAME = 'embedding/embedding'


def vectors(checkpoint: Opened) -> np.ndarray | None:
    """The vector of each integer 0, 1, ... that has a token of its own, float32 [integers, D].

    None where there are no word vectors (of a vision tower alone, say), or no tokenizer beside them.
    """
    stored, tokenizer = checkpoint.arrays.get(NAME), checkpoint.tokenizer
    if stored is None or tokenizer is None:
        return None
    ids = np.asarray(tokenizer.integer_ids)
    # They mostly lie side by side, and a table of a quarter of a million words is large.
    rows = stored.reader()((slice(ids.min(), ids.max() + 1), slice(0, stored.shape[1])))
    found = np.array(rows, np.float32)[ids - ids.min()]
    if checkpoint.config['model'].get('number_line'):
        found += layers.number_line(*found.shape)
    return found


def draw(found: np.ndarray, bins: int = BINS) -> Figure:
    """Who is like whom, how alike near integers are, and the line as seen from two directions.

    Args:
        found: float32 [integers, D].
        bins: how many of them an action may be.
    """
    figure = Figure(figsize=(13.5, 4), layout='constrained')
    whole, near, line = figure.subplots(1, 3, width_ratios=(1.1, 1.2, 1.1))
    _similarity(figure, whole, _directions(found), bins)
    _by_distance(near, _directions(found[:bins]))
    _seen_from_two_directions(figure, line, _directions(found[:bins]))
    return figure


def _directions(found: np.ndarray) -> np.ndarray:
    """Where vectors point from their mean, which is what all words have in common."""
    centred = found - found.mean(axis=0)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)


def _similarity(figure: Figure, axis: Any, unit: np.ndarray, bins: int) -> None:
    picture = axis.imshow(unit @ unit.T, vmin=-1, vmax=1, cmap='RdBu_r', origin='lower')
    axis.plot([0, bins, bins], [bins, bins, 0], color='black', linewidth=1)
    axis.text(bins + 12, 12, f'0 to {bins - 1}:\nactions', fontsize=9)
    axis.set(title='Cosine of every two integers', xlabel='integer', ylabel='integer')
    axis.grid(visible=False)
    figure.colorbar(picture, ax=axis, shrink=0.85)


def _by_distance(axis: Any, unit: np.ndarray) -> None:
    similarity = unit @ unit.T
    reach = np.arange(len(unit) // 2)
    parts = [np.diagonal(similarity, k) for k in reach]
    low, middle, high = np.array([np.quantile(part, (0.1, 0.5, 0.9)) for part in parts]).T
    axis.fill_between(reach, low, high, color=colours.BLUE, alpha=0.2, label='80 % of pairs')
    axis.plot(reach, middle, color=colours.BLUE, label='median')
    axis.axhline(0, color=colours.GREY, linewidth=0.8)
    axis.set(
        title='Are near actions alike?', xlabel='distance of two integers, bins', ylabel='cosine'
    )
    axis.legend()


def _seen_from_two_directions(figure: Figure, axis: Any, unit: np.ndarray) -> None:
    _, sizes, directions = np.linalg.svd(unit, full_matrices=False)
    x, y = (unit @ directions[:2].T).T
    share = (sizes[:2] ** 2).sum() / (sizes**2).sum()
    axis.plot(x, y, color=colours.GREY, linewidth=0.4, alpha=0.5)
    points = axis.scatter(x, y, c=np.arange(len(unit)), s=14, zorder=2)
    for integer in (0, 1, *range(32, len(unit), 32), len(unit) - 1):
        axis.annotate(integer, (x[integer], y[integer]), fontsize=8, zorder=3)
    axis.set(title=f'First two principal directions ({share:.0%})', xlabel='first', ylabel='second')
    figure.colorbar(points, ax=axis, shrink=0.85, label='integer')
