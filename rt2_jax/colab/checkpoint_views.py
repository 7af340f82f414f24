"""A checkpoint's own description: source, parameters by module, training curves, config, actions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import math
from typing import Any

from IPython.display import HTML
from matplotlib.figure import Figure

from rt2_jax.checkpoints.inspection.survey import modules
from rt2_jax.colab import notebook
from rt2_jax.text.actions import ActionSpace

CARD = ('name', 'frequency', 'frame', 'motion', 'gripper', 'terminate_rule', 'images')
PARAMETERS = (
    'module', 'type', 'arrays', 'parameters', 'MB', 'of all', 'norm', 'least', 'greatest', 'NaN, Inf',
)  # fmt: skip
# Panels of training curves: title, metrics ('*' stands for a source), unit, log scale.
PANELS = (
    ('Loss by source', 'source/*/loss', 'nats a token', True),
    ('Tokens right, by source', 'source/*/accuracy', 'share', False),
    ('Loss of held-out episodes', 'validation/source/*/loss', 'nats a token', True),
    ('Learning rate', 'lr', '', False),
    ('Norm of the gradient', 'gradient_norm', '', True),
    ('Speed', 'speed/examples_per_second', 'examples a second', False),
    ('Waiting for data', 'speed/data_wait', 'share of the time', False),
)


def summary(report: Mapping[str, Any]) -> HTML:
    """Directory, step, inputs, data sets and warnings.

    Args:
        report: of `inspection.survey`.
    """
    config, tokenizer, total = report['config'] or {}, report['tokenizer'], report['total']
    step = 'not trained here' if report['step'] is None else f'{report["step"]:,}'
    others = [str(k) for k in report['steps'] if k != report['step']]
    rows = [
        ('directory', report['checkpoint']),
        ('kind', report['kind']),
        ('step', step + (f' (others: {", ".join(others)})' if others else '')),
        ('parameters', f'{total["parameters"]:,}, {total["bytes"] / 1e6:,.1f} MB as stored'),
        ('vocabulary', f'{tokenizer["tokens"]:,} tokens' if tokenizer else 'not here'),
    ]
    if 'data' in config:
        data, model, side = config['data'], config['model'], config['data']['image_size']
        sources = [*data.get('robot', {}), *data.get('web', {})]
        rows += [
            ('model', f'{model["name"]}, computed in {model["dtype"]}'),
            ('input', f'{data["frames"]} frame(s) of {side} x {side} pixels'),
            ('prompt', f'at most {data["prompt_length"]} tokens'),
            ('answer', f'at most {data["target_length"]} tokens'),
            ('trained on', ', '.join(sources) or 'nothing named'),
            ('started from', config.get('init_from') or 'random weights'),
        ]
    return notebook.stack(notebook.table(('', ''), rows), notebook.warnings(report['warnings']))


def parameters(report: Mapping[str, Any], depth: int) -> HTML:
    """A table of modules, and below it a tree of all parameters.

    Args:
        report: of `inspection.survey`.
        depth: parts of a parameter's name that make its module; 1: the parts of the model.
    """
    by_name = report['parameters']
    return notebook.stack(
        notebook.table(PARAMETERS, module_rows(by_name, depth)), notebook.tree(nested(by_name))
    )


def module_rows(by_name: Mapping[str, Mapping[str, Any]], depth: int) -> list[tuple[Any, ...]]:
    """Rows of `PARAMETERS` in the order of the tree, all parameters first."""
    total = sum(x['bytes'] for x in by_name.values())

    def row(module: str, names: Iterable[str]) -> tuple[Any, ...]:
        arrays = [by_name[name] for name in names]
        size = sum(x['bytes'] for x in arrays)
        return (
            module,
            ', '.join(sorted({x['dtype'] for x in arrays})),
            len(arrays),
            sum(math.prod(x['shape']) for x in arrays),
            size / 1e6,
            f'{size / total:.1%}',
            math.hypot(*(x['norm'] for x in arrays)),
            min((x['min'] for x in arrays if x['min'] is not None), default=''),
            max((x['max'] for x in arrays if x['max'] is not None), default=''),
            sum(x['nan'] + x['inf'] for x in arrays),
        )

    groups = modules(by_name, depth)
    return [row('all', by_name)] + [row(module, names) for module, names in groups.items()]


def nested(by_name: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A nested dict of the parameters: type, shape, norm and extremes of each."""
    root: dict[str, Any] = {}
    for name, x in by_name.items():
        *path, leaf = name.split('/')
        node = root
        for part in path:
            node = node.setdefault(part, {})
        extremes = '' if x['min'] is None else f', {x["min"]:.3g} to {x["max"]:.3g}'
        node[leaf] = f'{x["dtype"]}{x["shape"]}, norm {x["norm"]:.4g}{extremes}'
    return root


def curves(rows: Sequence[Mapping[str, float]]) -> Figure:
    """The panels for which there are metrics.

    Args:
        rows: one mapping a logged step, from `metrics.read`.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    panels = [(panel, _matching(panel[1], names)) for panel in PANELS]
    panels = [(panel, labels) for panel, labels in panels if labels]
    figure, axes = notebook.grid(len(panels), 3, 4.4, 2.8)
    for ((title, _, unit, logarithmic), labels), axis in zip(panels, axes, strict=True):
        for (name, label), colour in zip(labels.items(), notebook.CYCLE * 9):
            points = [(row['step'], row[name]) for row in rows if name in row]
            axis.plot(*zip(*points), color=colour, label=label)
        axis.set(title=title, ylabel=unit, xlabel='step')
        if logarithmic:
            axis.set_yscale('log')
        else:
            axis.set_ylim(bottom=0)
        if any(labels.values()):
            axis.legend(fontsize=8)
    return figure


def _matching(pattern: str, names: Iterable[str]) -> dict[str, str]:
    """Names that match a pattern, with the part that its star matches."""
    before, star, after = pattern.partition('*')
    if not star:
        return {pattern: ''} if pattern in names else {}
    return {
        name: name[len(before) : len(name) - len(after)]
        for name in names
        if name.startswith(before) and name.endswith(after)
    }


def actions(embodiment: Mapping[str, Any] | None) -> HTML:
    """The robot's card, and the action space of each source of the run."""
    if embodiment is None:
        return HTML('These are weights of a language or vision model: they know no action.')
    card = embodiment.get('embodiment', {})
    rows: list[tuple[Any, ...]] = []
    for name, record in ({'acts in': embodiment['action_space']} | embodiment['sources']).items():
        space = ActionSpace.from_json(record)
        rows += [(name, 'terminate', '', '', '', 2, '')] if space.terminate else []
        widths = map(float, space.bin_widths)
        numbers = zip(space.names, space.units, space.low, space.high, widths, strict=True)
        rows += [(name, n, unit, low, high, space.bins, w) for n, unit, low, high, w in numbers]
    header = ('space', 'number', 'unit', 'low', 'high', 'bins', 'width of a bin')
    fields = {name: card[name] for name in CARD if card.get(name) is not None}
    return notebook.stack(notebook.tree(fields), notebook.table(header, rows))
