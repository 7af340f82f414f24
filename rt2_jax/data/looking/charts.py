"""Histograms, drawn by matplotlib (the extra `look`)."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import io
from typing import TYPE_CHECKING

from etils import epath
import numpy as np

from rt2_jax import paths
from rt2_jax.errors import MissingPackage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, GREY = '#3c6eb4', '#828282'
_LEAST = 0.03  # height of a bar that is not empty, as a share of the tallest's


@dataclasses.dataclass(frozen=True)
class Bars:
    """A histogram: its title, the counts of its bins [bins], their lower and upper end, the ends' unit."""

    title: str
    counts: Sequence[int]
    low: float
    high: float
    unit: str = ''

    def draw(self, axis: Axes, roots: bool) -> None:
        """Draws it; see `histograms`."""
        counts = np.asarray(self.counts, np.float64)
        top = max(counts.max(), 1.0)
        least = top * (_LEAST**2 if roots else _LEAST)
        heights = np.where(counts > 0, np.maximum(counts, least), 0)
        edges = np.linspace(self.low, self.high, len(counts) + 1)
        axis.stairs(heights, edges, fill=True, color=BLUE)
        if roots:
            axis.set_yscale('function', functions=(np.sqrt, np.square))
        axis.set(xlim=(self.low, self.high), ylim=(0, top), yticks=[0, top])
        left, right = (f'{end:.3g} {self.unit}' for end in (self.low, self.high))
        axis.set_xticks([self.low], [left], ha='left')
        axis.set_xticks([self.high], [right], ha='right', minor=True)
        axis.set_title(self.title, loc='left', fontsize=10)
        axis.tick_params(which='both', length=3, labelsize=8, labelcolor=GREY, color=GREY)
        axis.spines[['top', 'right', 'left']].set_visible(False)
        axis.spines['bottom'].set_color(GREY)


def require() -> type[Figure]:
    """The class of figures; raises MissingPackage without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackage('a chart', 'matplotlib', 'look') from error
    return Figure


def histograms(title: str, rows: Sequence[Sequence[Bars]], *, roots: bool = False) -> Figure:
    """Draws histograms in rows and columns, the same number in each row.

    Args:
        title: above them all.
        rows: from top to bottom.
        roots: whether heights are square roots of counts, for counts that differ widely.

    Raises:
        MissingPackage: matplotlib is not installed.
    """
    height = 0.6 + (1.5 if len(rows) > 1 else 2.6) * len(rows)
    figure = require()(figsize=(6.2 * len(rows[0]), height))
    figure.set_layout_engine('constrained', w_pad=0.12, h_pad=0.1)
    figure.suptitle(title, x=0.01, ha='left', fontsize=13)
    axes = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for axis, bars in zip(axes.flat, (bars for row in rows for bars in row), strict=True):
        bars.draw(axis, roots)
    return figure


def save(path: epath.PathLike, figure: Figure) -> None:
    """Writes a PNG."""
    encoded = io.BytesIO()
    figure.savefig(encoded, format='png', dpi=100)
    paths.write(path, encoded.getvalue())
