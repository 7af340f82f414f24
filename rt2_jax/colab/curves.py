"""Training curves of a run, from its metrics.jsonl."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from rt2_jax.colab import colours

# Panels: a title, the metrics of it ('*' stands for a source), what they are measured in, log scale.
PANELS = (
    ('Loss by source', 'source/*/loss', 'nats a token', True),
    ('Tokens right, by source', 'source/*/accuracy', 'share', False),
    ('Loss of held-out episodes', 'validation/source/*/loss', 'nats a token', True),
    ('Learning rate', 'lr', '', False),
    ('Norm of the gradient', 'gradient_norm', '', True),
    ('Speed', 'speed/examples_per_second', 'examples a second', False),
    ('Waiting for data', 'speed/data_wait', 'share of the time', False),
)


def draw(rows: Sequence[Mapping[str, float]]) -> Figure:
    """The panels for which there is something.

    Args:
        rows: one mapping a logged step, as `metrics.read` gives them.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    panels = [(panel, _matching(panel[1], names)) for panel in PANELS]
    panels = [(panel, found) for panel, found in panels if found]
    figure, axes = colours.grid(len(panels), 3, 4.4, 2.8)
    for ((title, _, unit, logarithmic), found), axis in zip(panels, axes, strict=True):
        for (name, label), colour in zip(found.items(), colours.CYCLE * 9):
            points = [(row['step'], row[name]) for row in rows if name in row]
            axis.plot(*zip(*points), color=colour, label=label)
        axis.set(title=title, ylabel=unit, xlabel='step')
        if logarithmic:
            axis.set_yscale('log')
        else:
            axis.set_ylim(bottom=0)
        if any(found.values()):
            axis.legend(fontsize=8)
    return figure


def _matching(pattern: str, names) -> dict[str, str]:
    """Names that fit a pattern, with what its star stands for."""
    before, star, after = pattern.partition('*')
    if not star:
        return {pattern: ''} if pattern in names else {}
    return {
        name: name[len(before) : len(name) - len(after)]
        for name in names
        if name.startswith(before) and name.endswith(after)
    }
