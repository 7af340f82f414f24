"""A robot data set in a notebook: episodes, statistics, and what the bins do to its actions."""

from __future__ import annotations

from collections.abc import Mapping
import functools
import tempfile
from typing import Any

import cv2
from IPython.display import HTML, Image
from matplotlib.figure import Figure
import numpy as np

from rt2_jax.colab import notebook
from rt2_jax.data import inspect
from rt2_jax.data.looking import contact_sheet
from rt2_jax.data.robot import action_statistics
from rt2_jax.data.robot.step_source import StepSource
from rt2_jax.envs.tabletop import collect
from rt2_jax.text.actions import ActionSpace, ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer

COUNTS = ('episodes', 'steps', 'hours', 'successful', 'failed', 'empty_episodes')
STEPS = 200_000  # that the figures are made of at most, evenly over the data set
RT1, DATA = "RT-1's bounds", 'q01-q99 of the data'
LOSSES = (
    'bounds', 'dimension', 'unit', 'bins used', 'width of a bin', 'mean error', 'largest error',
    'outside',
)  # fmt: skip


@functools.cache
def collected(episodes: int) -> str:
    """The directory of a small data set of scripted episodes, collected in seconds.

    It lives as long as the notebook runs: the same number again is the same data set.
    """
    directory = tempfile.mkdtemp(prefix='rt2_jax_tabletop_')
    counts = collect.collect(directory, collect.Settings(episodes=episodes))
    print(f'{counts["episodes"]} scripted episodes with {counts["steps"]} steps in {directory}')
    return directory


def summary(report: Mapping[str, Any]) -> HTML:
    """Counts, the card, the commonest instructions and all warnings."""
    counts = [(name.replace('_', ' '), report['counts'][name]) for name in COUNTS]
    counts.append(('instructions', report['instructions']['distinct']))
    common = [(n, words) for words, n in report['instructions']['commonest'].items()]
    return notebook.stack(
        notebook.table((report['card'], ''), counts),
        notebook.tree(report['card_says']),
        notebook.table(('episodes', 'instruction'), common),
        notebook.warnings(report['warnings']) or '<b>No warnings.</b>',
    )


def sheet(source: StepSource, episodes: int, frames: int) -> Image:
    """Episodes evenly over the data set as strips of frames, the action's tokens under each."""
    rows = [
        inspect.episode_row(source, steps, list(source.frames_of(steps)))
        for steps in inspect.shown_steps(source, episodes, frames)
    ]
    title = 'Step and tokens of the action under each frame'
    canvas = contact_sheet.draw(rows, title, inspect.SHEET_WIDTH)
    return Image(data=cv2.imencode('.png', np.ascontiguousarray(canvas[..., ::-1]))[1].tobytes())


def lengths(source: StepSource) -> Figure:
    """A histogram of the episodes' steps."""
    steps = np.diff(source.index.arrays['episode_first'])
    figure, axis = notebook.single(6, 2.6)
    exact = np.arange(steps.min(), steps.max() + 2) - 0.5
    edges = exact.tolist() if len(exact) < 60 else 60
    axis.hist(steps, bins=edges, color=notebook.BLUE, rwidth=0.9)
    title = f'Steps an episode: median {np.median(steps):g}'
    axis.set(title=title, xlabel='steps', ylabel='episodes')
    return figure


def step(source: StepSource, number: int) -> HTML:
    """A step as the model gets it, and what the robot would be sent for its tokens."""
    example = inspect.decoded(source, number)
    rows = [(name, value) for name, value in example.items() if name != 'command']
    rows += [(f'command {path}', value) for path, value in example['command'].items()]
    return notebook.table(('', ''), [(name, _joined(value)) for name, value in rows])


def _joined(value: Any) -> str:
    return ', '.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def statistics(source: StepSource) -> HTML:
    """Statistics of each dimension, in its unit."""
    keys = ('min', 'q01', 'mean', 'q99', 'max', 'std')
    space = source.index.card.action_space
    rows = [
        (name, unit, *(float(source.index.statistics[name][key]) for key in keys))
        for name, unit in zip(space.names, space.units, strict=True)
    ]
    return notebook.table(('dimension', 'unit', *keys), rows)


def spaces(source: StepSource) -> dict[str, ActionSpace]:
    """The bounds that are compared: RT-1's (else the card's own), and the data's quantiles."""
    card, data_statistics = source.index.card.action_space, source.index.statistics
    alike = card.number_names == ActionSpace.rt1_bounds().number_names
    first = (RT1, 'rt1') if alike else ("the card's bounds", 'card')
    return {
        name: action_statistics.action_space(card, bounds, data_statistics)
        for name, bounds in (first, (DATA, 'q01-q99'))
    }


def actions(source: StepSource) -> np.ndarray:
    """Actions float32 [N, terminate + D] of the data set, at most STEPS of them."""
    values = source.index.arrays['action']
    return np.array(values[:: -(-len(values) // STEPS)])


def round_trip(values: np.ndarray, space: ActionSpace) -> tuple[np.ndarray, np.ndarray]:
    """Actions [N, terminate + D] as integers int32 [N, D], and decoded again, float32 [N, D]."""
    codec = ActionTokenizer(space, Tokenizer.load_default())
    integers = codec.to_integers(values)
    first = int(space.terminate)
    return integers[:, first:], codec.from_integers(integers)[:, first:]


def histograms(values: np.ndarray, compared: Mapping[str, ActionSpace]) -> Figure:
    """How many actions fall into each bin: a row a dimension, a column the bounds."""
    names = next(iter(compared.values())).names
    figure, axes = notebook.grid(len(names) * len(compared), len(compared), 6.2, 1.75)
    trips = {title: round_trip(values, space)[0] for title, space in compared.items()}
    for k, dimension in enumerate(names):
        for (title, space), colour in zip(compared.items(), notebook.CYCLE):
            axis = next(axes)
            counts = np.bincount(trips[title][:, k], minlength=space.bins)
            axis.bar(np.arange(space.bins), counts, width=1, color=colour)
            axis.set(yscale='log', ylim=(0.5, counts.max() * 3), xlim=(-1, space.bins))
            unit = '' if space.units[k] == '1' else f' {space.units[k]}'
            axis.set_title(
                f'{dimension}: {space.low[k]:.3g} to {space.high[k]:.3g}{unit}, '
                f'{(counts > 0).sum()} of {space.bins} bins used',
                fontsize=10,
            )
            if k == 0:
                axis.annotate(title, (0.5, 1.3), xycoords='axes fraction', ha='center', fontsize=13)
            axis.tick_params(axis='x', labelbottom=k == len(names) - 1)
    figure.supylabel('actions, on a logarithmic scale')
    figure.supxlabel('bin')
    return figure


def losses(values: np.ndarray, compared: Mapping[str, ActionSpace]) -> HTML:
    """What is lost by going to integers and back: a row a dimension and bounds."""
    rows = []
    for title, space in compared.items():
        integers, decoded = round_trip(values, space)
        original = values[:, int(space.terminate) :]
        error = np.abs(decoded - original)
        low, high = (
            np.array(bound, np.float32) for bound in (space.low, space.high)
        )  # as the data are
        outside = ((original < low) | (original > high)).mean(axis=0)
        for k, (name, unit) in enumerate(zip(space.names, space.units, strict=True)):
            used, width = len(np.unique(integers[:, k])), float(space.bin_widths[k])
            errors = float(error[:, k].mean()), float(error[:, k].max())
            rows.append((title, name, unit, used, width, *errors, f'{outside[k]:.1%}'))
    return notebook.table(LOSSES, rows)


def errors(values: np.ndarray, compared: Mapping[str, ActionSpace]) -> Figure:
    """Distribution of the round trip's error, up to a little more than half the widest bin."""
    names = next(iter(compared.values())).names
    figure, axes = notebook.grid(len(names), 4, 3.3, 2.5, sharey=True)
    for k, (name, axis) in enumerate(zip(names, axes)):
        reach = 1.3 * max(space.bin_widths[k] / 2 for space in compared.values())
        for (title, space), colour in zip(compared.items(), notebook.CYCLE):
            decoded = round_trip(values, space)[1][:, k]
            error = np.sort(np.abs(decoded - values[:, int(space.terminate) + k]))
            share = np.arange(len(error) + 1) / len(error)
            ends = np.concatenate([[0], error, [max(reach, error[-1])]])
            axis.stairs(share, ends, color=colour, label=title, baseline=None, linewidth=1.5)
            axis.axvline(space.bin_widths[k] / 2, color=colour, linestyle=':', linewidth=1.2)
        unit = space.units[k]
        label = 'error' if unit == '1' else f'error, {unit}'
        axis.set(title=name, xlabel=label, xlim=(-0.02 * reach, reach), ylim=(0, 1.03))
        axis.locator_params(axis='x', nbins=4)
    figure.supylabel('share of actions')
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside upper center', ncols=2)
    return figure


def path(source: StepSource, episode: int, compared: Mapping[str, ActionSpace]) -> Figure:
    """The sum of an episode's changes in the first two dimensions, before and after the round trip."""
    values = np.stack([source.table.action(step) for step in source.table.episode_steps(episode)])
    space = source.index.card.action_space
    lines = {'as recorded': values[:, int(space.terminate) :]}
    lines |= {title: round_trip(values, other)[1] for title, other in compared.items()}
    styles: list[dict[str, Any]] = [dict(color=notebook.GREY, linewidth=6, alpha=0.35)]
    styles += [dict(color=c, linewidth=1.5, marker='o', markersize=4) for c in notebook.CYCLE]
    figure, axis = notebook.single(8, 4)
    for (title, changes), style in zip(lines.items(), styles):
        points = np.concatenate([np.zeros([1, 2]), changes[:, :2].cumsum(axis=0)])
        axis.plot(*points.T, label=title, **style)
    axis.set_aspect('equal', adjustable='datalim')
    x, y = (f'{space.names[k]} added up, {space.units[k]}' for k in range(2))
    axis.set(title=f'Episode {episode}: its commands added up', xlabel=x, ylabel=y)
    axis.legend()
    return figure
