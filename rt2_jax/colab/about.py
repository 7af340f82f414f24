"""What a checkpoint says of itself: where it comes from, its config, and what its actions mean."""

from collections.abc import Mapping
import html
import json
from typing import Any

from IPython.display import HTML

from rt2_jax.colab import table
from rt2_jax.text.actions import ActionSpace

CARD = ('name', 'frequency', 'frame', 'motion', 'gripper', 'terminate_rule', 'images')


def checkpoint(report: Mapping[str, Any]) -> HTML:
    """Where it lies, how long it was trained, what it sees, what it learnt from, and all warnings.

    Args:
        report: of `inspection.survey`.
    """
    config, tokenizer, total = report['config'] or {}, report['tokenizer'], report['total']
    rows = [
        ('directory', report['checkpoint']),
        ('kind', report['kind']),
        ('step', _step(report)),
        ('parameters', f'{total["parameters"]:,}, {total["bytes"] / 1e6:,.1f} MB as stored'),
        ('vocabulary', f'{tokenizer["tokens"]:,} tokens' if tokenizer else 'not here'),
        *_trained(config),
    ]
    warnings = ''.join(f'<li>{html.escape(words)}</li>' for words in report['warnings'])
    shown = table.show(('', ''), rows).data
    return HTML(shown + (f'<b>Warnings</b><ul>{warnings}</ul>' if warnings else ''))


def _step(report: Mapping[str, Any]) -> str:
    step, others = report['step'], [k for k in report['steps'] if k != report['step']]
    return ('not trained here' if step is None else f'{step:,}') + (
        f' (others: {", ".join(map(str, others))})' if others else ''
    )


def _trained(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a run's config says of what it sees and learnt from."""
    if 'data' not in config:
        return []
    data, model = config['data'], config['model']
    sources = [*data.get('robot', {}), *data.get('web', {})]
    return [
        ('model', f'{model["name"]}, computed in {model["dtype"]}'),
        (
            'sees',
            f'{data["frames"]} frame(s) of {data["image_size"]} x {data["image_size"]} pixels',
        ),
        ('prompt', f'at most {data["prompt_length"]} tokens'),
        ('answer', f'at most {data["target_length"]} tokens'),
        ('learnt from', ', '.join(sources) or 'nothing named'),
        ('started from', config.get('init_from') or 'random weights'),
    ]


def config(fields: Mapping[str, Any] | None) -> HTML:
    """The config, part by part to be opened; what is in no part comes first."""
    fields = fields or {}
    plain = {name: value for name, value in fields.items() if not isinstance(value, Mapping)}
    parts = {name: value for name, value in fields.items() if name not in plain}
    blocks = [_folded('general', plain, opened=True)]
    return HTML(''.join(blocks + [_folded(name, value) for name, value in parts.items()]))


def _folded(name: str, fields: Mapping[str, Any], opened: bool = False) -> str:
    text = html.escape(json.dumps(fields, indent=2, ensure_ascii=False))
    return (
        f'<details{" open" if opened else ""}><summary><b>{html.escape(name)}</b></summary>'
        f'<pre style="font-size:12px;line-height:1.25">{text}</pre></details>'
    )


def actions(embodiment: Mapping[str, Any] | None) -> HTML:
    """The robot's card, and the action space of each source that the run learnt from."""
    if embodiment is None:
        return HTML('These are weights of a language or vision model: they know no action.')
    card = embodiment.get('embodiment', {})
    says = [
        (name.replace('_', ' '), _words(card[name])) for name in CARD if card.get(name) is not None
    ]
    spaces = {'acts in': embodiment['action_space']} | embodiment['sources']
    rows = [
        row
        for name, space in spaces.items()
        for row in _numbers(name, ActionSpace.from_json(space))
    ]
    header = ('space', 'number', 'unit', 'low', 'high', 'bins', 'width of a bin')
    parts = table.show(('card', ''), says), table.show(header, rows)
    return HTML('<br>'.join(part.data for part in parts))


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ', '.join(f'{name} {inner}' for name, inner in value.items())
    return ', '.join(map(str, value)) if isinstance(value, list) else str(value)


def _numbers(name: str, space: ActionSpace) -> list[tuple]:
    first = [(name, 'terminate', '', '', '', 2, '')] if space.terminate else []
    return first + [
        (name, dimension, unit, low, high, space.bins, float(width))
        for dimension, unit, low, high, width in zip(
            space.names, space.units, space.low, space.high, space.bin_widths, strict=True
        )
    ]
