"""What a checkpoint says of itself: where it comes from, its config, and what its actions mean."""

from collections.abc import Mapping
import html
import json
from typing import Any

from IPython.display import HTML

from rt2_jax import configuration
from rt2_jax.colab import table
from rt2_jax.text.actions import ActionSpace
from rt2_jax.training.loading import Loaded


def checkpoint(loaded: Loaded) -> HTML:
    """Where it lies, how long it was trained, what it sees and what it learnt from."""
    config = loaded.config
    data = config.data
    sources = [*data.get('robot', {}), *data.get('web', {})]
    rows = [
        ('directory', str(loaded.directory)),
        ('step', loaded.step),
        ('model', f'{config.model.name}, computed in {config.model.dtype}'),
        ('sees', f'{data.frames} frame(s) of {data.image_size} x {data.image_size} pixels'),
        ('prompt, answer', f'at most {data.prompt_length} and {data.target_length} tokens'),
        ('vocabulary', f'{loaded.tokenizer.vocab_size:,} tokens'),
        ('learnt from', ', '.join(sources) or 'nothing named'),
        ('started from', config.get('init_from') or 'random weights'),
        ('acts for', loaded.embodiment['name']),
    ]
    return table.show(('', ''), [(name, str(value)) for name, value in rows])


def config(loaded_config: Any) -> HTML:
    """The config, each part to be opened; what has no parts is at the top."""
    fields = json.loads(configuration.to_json(loaded_config))
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


def actions(loaded: Loaded) -> HTML:
    """The robot's card, and the action space of each source that the run learnt from."""
    card = loaded.embodiment
    says = [
        (name.replace('_', ' '), _words(card[name]))
        for name in ('name', 'frequency', 'frame', 'motion', 'gripper', 'terminate_rule', 'images')
        if card.get(name) is not None
    ]
    spaces = {'acts in': loaded.action_space} | loaded.action_spaces
    rows = [row for name, space in spaces.items() for row in _numbers(name, space)]
    header = ('space', 'number', 'unit', 'low', 'high', 'bins', 'width of a bin')
    parts = table.show(('card', ''), says), table.show(header, rows)
    return HTML('<br>'.join(part.data for part in parts))


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ', '.join(f'{name} {inner}' for name, inner in value.items())
    return ', '.join(map(str, value)) if isinstance(value, list) else str(value)


def _numbers(name: str, space: ActionSpace) -> list[tuple]:
    rows = []
    if space.terminate:
        rows.append((name, 'terminate', '', '', '', 2, ''))
    for place, dimension in enumerate(space.names):
        unit, width = space.units[place], float(space.bin_widths[place])
        rows.append((name, dimension, unit, space.low[place], space.high[place], space.bins, width))
    return rows
