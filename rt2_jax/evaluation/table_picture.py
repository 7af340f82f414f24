"""A table as a picture: bars of success with their intervals, and the paper's numbers beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rt2_jax.data.looking import charts
from rt2_jax.evaluation.table_text import NOT_BUILT

if TYPE_CHECKING:  # needs the extra `look`
    from matplotlib.figure import Figure

# Told apart by people who see no red or no green (Okabe and Ito).
_COLOURS = '#0072b2', '#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#d55e00', '#999999', '#f0e442'
_DIAMOND: dict[str, Any] = dict(s=26, marker='D', facecolor='white', linewidth=1.2, zorder=3)
_GROUP = 0.84  # width of a column's bars; columns are 1 apart


def draw(results: Mapping[str, Any]) -> Figure:
    """Draws a group of bars a column, a bar a policy; diamonds are the paper's.

    Args:
        results: of `table_results.gather`.

    Raises:
        MissingPackage: matplotlib is not installed.
    """
    names, rows = [*results['columns'], results['average']], results['rows']
    figure = charts.require()(figsize=(2.4 + 1.6 * len(names), 4.2))
    figure.set_layout_engine('constrained')
    axes = figure.subplots()
    width = _GROUP / len(rows)
    for number, row in enumerate(rows):
        colour = _COLOURS[number % len(_COLOURS)]
        left = -_GROUP / 2 + width * (number + 0.5)
        label = row['label'] if row['built'] else f'{row["label"]}: {NOT_BUILT}'
        cells = [*row['cells'].values(), row['average']] if row['built'] else [None] * len(names)
        places = [place + left for place, cell in enumerate(cells) if cell]
        figures = [cell for cell in cells if cell]
        heights = np.array([100 * cell['success'] for cell in figures])
        ends = np.array([cell['interval'] for cell in figures]).reshape(-1, 2).T * 100
        # Rounded ends may lie a hair inside.
        errors = np.maximum([heights - ends[0], ends[1] - heights], 0)
        axes.bar(
            places, heights, 0.92 * width, yerr=errors, capsize=2.5, color=colour, label=label,
            error_kw={'elinewidth': 1},
        )  # fmt: skip
        paper = [*row['paper']['cells'].values(), row['paper']['average']]
        there = [place for place, y in enumerate(paper) if y is not None]
        axes.scatter(
            [place + left for place in there],
            [paper[place] for place in there],
            **_DIAMOND,
            edgecolor=colour,
        )
    if results['source']:
        axes.scatter([], [], **_DIAMOND, edgecolor='black', label='paper')
    axes.set_xticks(range(len(names)), [_wrapped(name) for name in names])
    axes.set(ylim=(0, 105), xlim=(-0.55, len(names) - 0.45), ylabel='success, %')
    axes.set_title(results['title'], loc='left')
    axes.spines[['top', 'right']].set_visible(False)
    figure.legend(loc='outside lower center', ncols=4, frameon=False, fontsize=9)
    return figure


def _wrapped(name: str) -> str:
    return name.replace('_', '\n')
