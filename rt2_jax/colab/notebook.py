"""What all notebooks use: preparation, tables, trees, colours and grids of axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import html
import os
import subprocess
import sys
from typing import Any

from absl import logging
import IPython
from IPython.display import HTML
import jax
import matplotlib
import matplotlib.axes
from matplotlib.figure import Figure
import treescope

# What MuJoCo draws with where there is no display; the names are those of Debian and Ubuntu.
GRAPHICS = ('libegl1', 'libgl1-mesa-dri', 'libosmesa6')
_DRAW = 'from rt2_jax.envs.tabletop import rendering; rendering.create_context(64, 64).free()'
LOOK: dict[Any, Any] = {
    'figure.dpi': 100,
    'font.size': 11,
    'axes.titlesize': 11,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.alpha': 0.25,
    'legend.frameon': False,
    'image.cmap': 'viridis',
}
# Okabe and Ito's palette, which most people can tell apart.
CYCLE = BLUE, ORANGE, *_ = '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00'
GREY = '#777777'
_TABLE = 'border-collapse:collapse;font-family:monospace;font-size:13px;white-space:pre'


def prepare(simulator: bool = True) -> None:
    """Shows figures in the notebook, makes sure that the simulator can draw, prints the devices.

    Args:
        simulator: whether the notebook draws the tabletop.

    Raises:
        RuntimeError: nothing here draws without a display; the message says what to install.
    """
    if shell := IPython.get_ipython():
        shell.run_line_magic('matplotlib', 'inline')
    matplotlib.rcParams.update(LOOK)
    logging.set_verbosity(logging.ERROR)  # Orbax warns of directories that are only read
    if simulator and (problem := _drawing_problem()):
        if 'COLAB_RELEASE_TAG' in os.environ:
            # The package lists of Colab's image are too old for most packages.
            subprocess.run(['apt-get', 'update', '-qq'], check=True)
            subprocess.run(['apt-get', 'install', '-qq', '-y', *GRAPHICS], check=True)
            problem = _drawing_problem()
        if problem:
            raise RuntimeError(problem)
    devices = jax.devices()
    print(f'jax {jax.__version__} on {len(devices)} x {devices[0].device_kind}')


def _drawing_problem() -> str:
    """Why nothing can be drawn, '' if it can; tried in another process, as a failure sticks."""
    done = subprocess.run([sys.executable, '-c', _DRAW], capture_output=True, text=True)
    return done.stderr if done.returncode else ''


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> HTML:
    """A table whose numbers are aligned on the right.

    Args:
        header: names of the columns.
        rows: of cells; numbers are written with commas and four digits, texts as they are.
    """
    right = [_is_number([row[i] for row in rows]) for i in range(len(header))]

    def line(cells: Sequence[Any], tag: str) -> str:
        parts = (
            f'<{tag} style="text-align:{"right" if number else "left"};padding:1px 10px">'
            f'{html.escape(_text(cell))}</{tag}>'
            for cell, number in zip(cells, right, strict=True)
        )
        return f'<tr>{"".join(parts)}</tr>'

    body = ''.join(line(row, 'td') for row in rows)
    return HTML(f'<table style="{_TABLE}">{line(header, "th")}{body}</table>')


def _is_number(column: Sequence[Any]) -> bool:
    values = [value for value in column if value != '']
    return bool(values) and all(isinstance(value, (int, float)) for value in values)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f'{value:,.4g}' if abs(value) < 1e4 else f'{value:,.0f}'
    if isinstance(value, (list, tuple)):
        return ', '.join(map(str, value))
    return f'{value:,}' if isinstance(value, int) and not isinstance(value, bool) else str(value)


def tree(value: Any) -> HTML:
    """Nested dicts and lists, to be opened part by part."""
    return HTML(treescope.render_to_html(value))


def stack(*parts: HTML | str) -> HTML:
    """Parts below each other; texts are HTML."""
    return HTML('<br>'.join(part if isinstance(part, str) else part.data for part in parts))


def warnings(texts: Sequence[str]) -> str:
    """A list of warnings as HTML, '' if there are none."""
    items = ''.join(f'<li>{html.escape(text)}</li>' for text in texts)
    return f'<b>Warnings</b><ul>{items}</ul>' if items else ''


def grid(
    count: int, columns: int, width: float, height: float, **settings: Any
) -> tuple[Figure, Iterator[matplotlib.axes.Axes]]:
    """A figure with `count` axes in rows; those that are left over are hidden.

    Args:
        count: of axes.
        columns: at most.
        width: of one, inches.
        height: of one, inches.
        **settings: of `Figure.subplots`.
    """
    columns = min(columns, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(columns * width, lines * height), layout='constrained')
    axes = figure.subplots(lines, columns, squeeze=False, **settings).ravel()
    for empty in axes[count:]:
        empty.set_visible(False)
    return figure, iter(axes[:count])


def single(width: float, height: float) -> tuple[Figure, matplotlib.axes.Axes]:
    """A figure with one axes; inches."""
    figure = Figure(figsize=(width, height), layout='constrained')
    return figure, figure.subplots()
