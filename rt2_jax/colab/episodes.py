"""A robot data set to look at: a few episodes as pictures, its lengths, what it warns of."""

from collections.abc import Mapping
from typing import Any

import cv2
from IPython.display import HTML, Image
from matplotlib.figure import Figure
import numpy as np

from rt2_jax.colab import colours, table
from rt2_jax.data import inspect
from rt2_jax.data.looking import contact_sheet
from rt2_jax.data.robot.step_source import StepSource

COUNTS = ('episodes', 'steps', 'hours', 'successful', 'failed', 'empty_episodes')


def summary(report: Mapping[str, Any]) -> HTML:
    """Counts, what the card says, the commonest instructions and all warnings."""
    counts, says = report['counts'], report['card_says']
    about = [(name.replace('_', ' '), counts[name]) for name in COUNTS]
    about.append(('instructions', report['instructions']['distinct']))
    card = [(name.replace('_', ' '), _words(value)) for name, value in says.items()]
    common = [(n, words) for words, n in report['instructions']['commonest'].items()]
    parts = [
        table.show((report['card'], ''), about),
        table.show(('card', ''), card),
        table.show(('episodes', 'instruction'), common),
    ]
    columns = ''.join(f'<div style="margin-right:2em">{part.data}</div>' for part in parts)
    warnings = ''.join(f'<li>{words}</li>' for words in report['warnings'])
    warned = f'<b>Warnings</b><ul>{warnings}</ul>' if warnings else '<b>No warnings.</b>'
    return HTML(f'<div style="display:flex;flex-wrap:wrap">{columns}</div>{warned}')


def _words(value: Any) -> str:
    return ', '.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def sheet(source: StepSource, episodes: int, frames: int) -> Image:
    """Episodes evenly over the data set as strips of frames, the action's tokens under each."""
    rows = [
        inspect.episode_row(source, steps, source.frames_of(steps))
        for steps in inspect.shown_steps(source, episodes, frames)
    ]
    title = 'Step and tokens of the action under each frame'
    return shown_as_png(contact_sheet.draw(rows, title, inspect.SHEET_WIDTH))


def shown_as_png(canvas: np.ndarray) -> Image:
    """A picture uint8 [H, W, 3] to be displayed at its own size."""
    return Image(data=cv2.imencode('.png', np.ascontiguousarray(canvas[..., ::-1]))[1].tobytes())


def lengths(source: StepSource) -> Figure:
    """How many steps episodes have."""
    steps = np.diff(source.index.arrays['episode_first'])
    figure = Figure(figsize=(6, 2.6), layout='constrained')
    axis = figure.subplots()
    edges = np.arange(steps.min(), steps.max() + 2) - 0.5 if np.ptp(steps) < 60 else 60
    axis.hist(steps, bins=edges, color=colours.BLUE, rwidth=0.9)
    axis.set(
        title=f'Steps an episode: median {np.median(steps):g}', xlabel='steps', ylabel='episodes'
    )
    return figure


def one(source: StepSource, step: int) -> HTML:
    """A step as the model meets it, and what the robot would be sent for its tokens."""
    example = inspect.decoded(source, step)
    rows = [(name, _words(value)) for name, value in example.items() if name != 'command']
    rows += [(f'command {path}', _words(value)) for path, value in example['command'].items()]
    return table.show(('', ''), rows)
