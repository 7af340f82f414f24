"""Colours that most people tell apart (Okabe and Ito's palette), and grids of axes."""

from collections.abc import Iterator

import matplotlib.axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK, SKY, YELLOW = (
    '#0072B2',
    '#D55E00',
    '#009E73',
    '#CC79A7',
    '#56B4E9',
    '#E69F00',
)
CYCLE = (BLUE, ORANGE, GREEN, PINK, SKY, YELLOW)
GREY = '#777777'


def grid(
    count: int, columns: int, width: float, height: float, **settings
) -> tuple[Figure, Iterator[matplotlib.axes.Axes]]:
    """A figure with `count` axes in rows; those that are left over are hidden.

    Args:
        count: of axes.
        columns: at most.
        width, height: of one, inches.
        **settings: of `Figure.subplots`.
    """
    columns = min(columns, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(columns * width, lines * height), layout='constrained')
    axes = figure.subplots(lines, columns, squeeze=False, **settings).ravel()
    for empty in axes[count:]:
        empty.set_visible(False)
    return figure, iter(axes[:count])
