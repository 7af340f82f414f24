"""What an action's bins do to it: which are used, what is lost on the way there and back."""

from collections.abc import Mapping

from IPython.display import HTML
from matplotlib.figure import Figure
import numpy as np

from rt2_jax.colab import colours, table
from rt2_jax.data.robot import action_statistics
from rt2_jax.data.robot.step_source import StepSource
from rt2_jax.text.actions import ActionSpace, ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer

STEPS = 200_000  # that the pictures are made of at most, evenly over the data set
RT1, DATA = "RT-1's bounds", 'q01-q99 of the data'


def spaces(source: StepSource) -> dict[str, ActionSpace]:
    """The bounds that are compared: RT-1's (else the card's own), and the data's quantiles."""
    card, statistics = source.index.card.action_space, source.index.statistics
    alike = card.number_names == ActionSpace.rt1_bounds().number_names
    first = (RT1, 'rt1') if alike else ("the card's bounds", 'card')
    return {
        name: action_statistics.action_space(card, bounds, statistics)
        for name, bounds in (first, (DATA, 'q01-q99'))
    }


def actions(source: StepSource) -> np.ndarray:
    """Actions float32 [N, terminate + D] of the data set, at most STEPS of them."""
    every = source.index.arrays['action']
    return np.array(every[:: -(-len(every) // STEPS)])


def round_trip(values: np.ndarray, space: ActionSpace) -> tuple[np.ndarray, np.ndarray]:
    """Actions [N, terminate + D] to integers int32 [N, D] and what they say, float32 [N, D]."""
    codec = ActionTokenizer(space, Tokenizer.load_default())
    integers = codec.to_integers(values)
    first = int(space.terminate)
    return integers[:, first:], codec.from_integers(integers)[:, first:]


def statistics(source: StepSource) -> HTML:
    """Of each dimension, in its unit."""
    keys = ('min', 'q01', 'mean', 'q99', 'max', 'std')
    space = source.index.card.action_space
    rows = [
        (name, unit, *(float(source.index.statistics[name][key]) for key in keys))
        for name, unit in zip(space.names, space.units, strict=True)
    ]
    return table.show(('dimension', 'unit', *keys), rows)


def histograms(values: np.ndarray, compared: Mapping[str, ActionSpace]) -> Figure:
    """How many actions fall into each bin, a row a dimension and a column the bounds."""
    names = next(iter(compared.values())).names
    figure, axes = colours.grid(len(names) * len(compared), len(compared), 6.2, 1.75)
    trips = {title: round_trip(values, space)[0] for title, space in compared.items()}
    for place, dimension in enumerate(names):
        for (title, space), colour in zip(compared.items(), colours.CYCLE):
            axis, column = next(axes), trips[title][:, place]
            counts = np.bincount(column, minlength=space.bins)
            axis.bar(np.arange(space.bins), counts, width=1, color=colour)
            axis.set(yscale='log', ylim=(0.5, counts.max() * 3), xlim=(-1, space.bins))
            unit = '' if space.units[place] == '1' else f' {space.units[place]}'
            axis.set_title(
                f'{dimension}: {space.low[place]:.3g} to {space.high[place]:.3g}{unit}, '
                f'{(counts > 0).sum()} of {space.bins} bins used',
                fontsize=10,
            )
            if place == 0:
                axis.annotate(title, (0.5, 1.3), xycoords='axes fraction', ha='center', fontsize=13)
            axis.tick_params(axis='x', labelbottom=place == len(names) - 1)
    figure.supylabel('actions, on a logarithmic scale')
    figure.supxlabel('bin')
    return figure


def losses(values: np.ndarray, compared: Mapping[str, ActionSpace]) -> HTML:
    """What is lost by going to integers and back, a row a dimension and bounds."""
    rows = []
    for title, space in compared.items():
        integers, said = round_trip(values, space)
        meant = values[:, int(space.terminate) :]
        error = np.abs(said - meant)
        for place, (name, unit) in enumerate(zip(space.names, space.units, strict=True)):
            outside = (meant[:, place] < space.low[place]) | (meant[:, place] > space.high[place])
            rows.append(
                (
                    title,
                    name,
                    unit,
                    len(np.unique(integers[:, place])),
                    float(space.bin_widths[place]),
                    float(error[:, place].mean()),
                    float(error[:, place].max()),
                    f'{outside.mean():.1%}',
                )
            )
    header = (
        'bounds', 'dimension', 'unit', 'bins used', 'width of a bin', 'mean error', 'largest error',
        'outside',
    )  # fmt: skip
    return table.show(header, rows)


def errors(values: np.ndarray, compared: Mapping[str, ActionSpace]) -> Figure:
    """How the error of the round trip is distributed, up to a little more than half the widest bin."""
    names = next(iter(compared.values())).names
    figure, axes = colours.grid(len(names), 4, 3.3, 2.5, sharey=True)
    for place, (name, axis) in enumerate(zip(names, axes)):
        halves = [space.bin_widths[place] / 2 for space in compared.values()]
        reach = 1.3 * max(halves)
        for (title, space), colour in zip(compared.items(), colours.CYCLE):
            said = round_trip(values, space)[1][:, place]
            error = np.sort(np.abs(said - values[:, int(space.terminate) + place]))
            share = np.arange(len(error) + 1) / len(error)
            ends = np.concatenate([[0], error, [max(reach, error[-1])]])
            axis.stairs(share, ends, color=colour, label=title, baseline=None, linewidth=1.5)
            axis.axvline(space.bin_widths[place] / 2, color=colour, linestyle=':', linewidth=1.2)
        unit = space.units[place]
        label = 'error' if unit == '1' else f'error, {unit}'
        axis.set(title=name, xlabel=label, xlim=(-0.02 * reach, reach), ylim=(0, 1.03))
        axis.locator_params(axis='x', nbins=4)
    figure.supylabel('share of actions')
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside upper center', ncols=2)
    return figure


def path(source: StepSource, episode: int, compared: Mapping[str, ActionSpace]) -> Figure:
    """Where the changes of one episode lead in the first two dimensions, and after the round trip."""
    values = np.stack([source.table.action(step) for step in source.table.episode_steps(episode)])
    space = source.index.card.action_space
    lines = {'as recorded': values[:, int(space.terminate) :]}
    lines |= {title: round_trip(values, other)[1] for title, other in compared.items()}
    figure = Figure(figsize=(8, 4), layout='constrained')
    axis = figure.subplots()
    looks = [dict(color=colours.GREY, linewidth=6, alpha=0.35)]
    looks += [
        dict(color=colour, linewidth=1.5, marker='o', markersize=4) for colour in colours.CYCLE
    ]
    for (title, changes), look in zip(lines.items(), looks):
        points = np.concatenate([np.zeros([1, 2]), changes[:, :2].cumsum(axis=0)])
        axis.plot(*points.T, label=title, **look)
    axis.set_aspect('equal', adjustable='datalim')
    x, y = (f'{space.names[k]} added up, {space.units[k]}' for k in range(2))
    axis.set(title=f'Episode {episode}: its commands added up', xlabel=x, ylabel=y)
    axis.legend()
    return figure
