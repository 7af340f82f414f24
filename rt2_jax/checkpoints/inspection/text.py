"""A report of `survey` as lines to print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rt2_jax import configuration
from rt2_jax.checkpoints.inspection import layout
from rt2_jax.checkpoints.inspection.survey import modules

Report = Mapping[str, Any]
_FEW = 3  # names are listed, though they are all
_LONGEST = 100  # characters of a value of a config


def as_text(report: Report, depth: int) -> str:
    """The whole report."""
    parts = [_head(report), _actions(report), _config(report), _parameters(report, depth)]
    if 'against' in report:
        parts.append(_against(report['against'], depth))
    if report['warnings']:
        parts.append([f'warnings ({len(report["warnings"])})'] + _indented(report['warnings']))
    return '\n\n'.join('\n'.join(part) for part in parts if part)


def size(count: float) -> str:
    """Bytes: '8.46 MB'."""
    for unit in ('B', 'kB', 'MB', 'GB'):
        if count < 1000:
            return f'{count:.3g} {unit}'
        count /= 1000
    return f'{count:.3g} TB'


def table(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Rows as lines; the `left` first columns and the last are aligned on the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    last = len(widths) - 1
    return [
        '  '.join(
            cell.ljust(width) if i < left or i == last else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _indented(lines: Sequence[str]) -> list[str]:
    return [f'  {line}'.rstrip() for text in lines for line in (text.splitlines() or [''])]


def _head(report: Report) -> list[str]:
    total, tokenizer = report['total'], report['tokenizer']
    step = '' if report['step'] is None else f', step {report["step"]:,}'
    lines = [
        f'{total["parameters"]:,} parameters in {total["arrays"]} arrays, '
        f'{", ".join(total["dtypes"])}, {size(total["bytes"])}',
        f'{size(sum(report["disk"].values()))} on disk: '
        + ', '.join(f'{name} {size(n)}' for name, n in report['disk'].items()),
    ]
    if report['steps']:
        lines.insert(0, f'steps there are: {", ".join(f"{step:,}" for step in report["steps"])}')
    for mesh in report['saved_on_mesh']:
        lines.append(f'saved on a mesh of {", ".join(f"{k} {v}" for k, v in mesh.items())}')
    if report['versions']:
        lines.append(f'written by {", ".join(f"{k} {v}" for k, v in report["versions"].items())}')
    if report['data_position']:
        lines += _position(report)
    if tokenizer:
        lines.append(
            f'tokenizer: {tokenizer["kind"]}, {tokenizer["tokens"]:,} tokens, integers '
            f'0..{tokenizer["integers"] - 1} at ids {tokenizer["integer_ids"][0]}..'
            f'{tokenizer["integer_ids"][1]}, sha256 {tokenizer["sha256"][:16]}'
        )
    return [f'{report["checkpoint"]}: {report["kind"]}{step}', *_indented(lines)]


def _position(report: Report) -> list[str]:
    position = report['data_position']
    told = position.get('fingerprint', {})
    of = f' of {told["batch_size"]} examples' if 'batch_size' in told else ''
    lines = [f'data: {position.get("batches", 0):,} batches{of} were read']
    for kind in ('robot', 'web'):
        for name in told.get(f'{kind}_sources', ()):
            source = told.get(f'source {name!r}', {})
            if 'length' in source:
                weight = source['weight']
                share = weight['start'] if isinstance(weight, Mapping) else weight
                lines.append(f'  {kind}: {name}, {source["length"]:,} examples, weight {share:g}')
    return lines


def _actions(report: Report) -> list[str]:
    told = report['embodiment']
    if not told:
        return []
    card = told.get('embodiment', {})
    lines = []
    if card:
        # A card of an older version, which is no more, may lack some.
        lines.append(
            f'card {card.get("name")}: {card.get("motion", "delta")} actions at '
            f'{card.get("frequency", 0):g} Hz; {card.get("frame", "")}'
        )
        if isinstance(gripper := card.get('gripper'), Mapping):
            lines.append(
                f'gripper of the data: {gripper["kind"]}, {gripper["closed"]:g} closed and '
                f'{gripper["open"]:g} open; here +1 closed and -1 open'
            )
    same = [
        name for name, space in told.get('sources', {}).items() if space == told['action_space']
    ]
    lines += _space(told['action_space'], same)
    for name, space in told.get('sources', {}).items():
        if space != told['action_space']:
            lines += _space(space, [name])
    return ['action space', *_indented(lines)]


def _space(space: Report, sources: Sequence[str]) -> list[str]:
    rows = [('', 'low', 'high', 'unit')]
    if space.get('terminate', True):
        rows.append(('terminate', '0', '1', ''))
    units = ('' if unit == '1' else unit for unit in space['units'])
    rows += [
        (name, f'{low:.6g}', f'{high:.6g}', unit)
        for name, low, high, unit in zip(space['names'], space['low'], space['high'], units)
    ]
    of = f', of {", ".join(sources)}' if sources else ''
    return [f'{space["bins"]} bins{of}', *_indented(table(rows))]


def _config(report: Report) -> list[str]:
    config = report['config']
    if not config:
        return []
    if report['kind'] == 'converted':
        return ['config.model', *_indented(_fields(configuration.leaves(config['model'])))]
    fields = configuration.differences(configuration.defaults(), config)
    own = configuration.leaves(config)
    return [
        'config, where it is not the default',
        *_indented(_fields({key: new for key, (_, new) in fields.items() if key in own})),
    ]


def _fields(fields: Mapping[str, Any]) -> list[str]:
    """Fields by what they belong to: 'model.encoder  width=128, depth=2'."""
    groups: dict[str, list[str]] = {}
    for key, value in fields.items():
        owner, _, name = key.rpartition('.')
        groups.setdefault(owner, []).append(f'{name}={_short(value)}')
    return table([(owner, ', '.join(words)) for owner, words in groups.items()])


def _short(value: Any) -> str:
    text = 'none' if value is None else str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + '...'


def _parameters(report: Report, depth: int) -> list[str]:
    read = 'norm' in report['total']
    names = report['parameters']
    # Said once, where every array lay as the table says.
    moved = any(x['saved_as'] not in (None, x['by_table']) for x in names.values())
    values = ('norm', 'min', 'max', 'zeros', 'NaN/Inf') if read else ()
    places = ('by the table', 'as saved') if moved else ('mesh axes',)
    rows = [('', 'shape', 'type', 'size', *values, *places)]

    def add(name: str, shape: str, found: Report, where: Sequence[str]) -> None:
        dtype = found.get('dtype') or '+'.join(found['dtypes'])
        values = _values(found) if read else ()
        rows.append((name, shape, dtype, size(found['bytes']), *values, *where))

    for module, members in modules(names, depth).items():
        total = report['modules'][module]
        for label, name in _labels(module, members):
            if name is None:
                add(label, f'{total["parameters"]:,}', total, [''] * len(places))
                continue
            keys = ('by_table', 'saved_as') if moved else ('by_table',)
            shape = 'x'.join(map(str, names[name]['shape'])) or 'scalar'
            add(label, shape, names[name], [layout.text(names[name][key]) for key in keys])
    add('all', f'{report["total"]["parameters"]:,}', report['total'], [''] * len(places))
    return [
        "parameters; mesh axes are those that an array's axes are split over, a dot is none",
        *_indented(table(rows)),
    ]


def _labels(module: str, members: Sequence[str]) -> list[tuple[str, str | None]]:
    """What the rows of a module are called and which array each shows, None for all of them."""
    if len(members) == 1:
        return [(members[0], members[0])]
    return [
        (module or '(top)', None),
        *((f'  {name.removeprefix(f"{module}/")}', name) for name in members),
    ]


def _values(found: Report) -> tuple[str, ...]:
    bad = found['nan'] + found['inf']
    number = lambda x: '-' if x is None else f'{x:.3g}'
    zeros = found['zeros']
    return (
        f'{found["norm"]:.4g}',
        number(found['min']),
        number(found['max']),
        '0' if not zeros else '<0.1%' if zeros < 0.001 else f'{zeros:.1%}',
        f'{bad:,}',
    )


def _against(found: Report, depth: int) -> list[str]:
    step = '' if found['step'] is None else f', step {found["step"]:,}'
    lines = [*_changes(found, depth), *_lists(found)]
    fields = found['config']
    if fields:
        rows = [('field', 'there', 'here')]
        rows += [(key, _short(old), _short(new)) for key, (old, new) in fields.items()]
        lines += ['', 'config', *_indented(table(rows, left=2))]
    for what in ('tokenizer', 'action_space', 'sources'):
        if found[what]:
            there, here = found[what]
            lines += [
                '',
                f'{what}: there {_short(there)}',
                f'{" " * len(what)}  here  {_short(here)}',
            ]
    if found['versions']:
        words = (f'{k} {old} -> {new}' for k, (old, new) in found['versions'].items())
        lines += ['', f'versions: {", ".join(words)}']
    same = [what.replace('_', ' ') for what in found['same']]
    same += [what for what in ('config', 'versions') if not found[what]]
    lines += ['', f'the same in both: {", ".join(same)}'] if same else []
    return [f'against {found["checkpoint"]}: {found["kind"]}{step}', *_indented(lines)]


def _lists(found: Report) -> list[str]:
    lines = []
    for key, words in (('only_here', 'only here'), ('only_there', 'only there')):
        if found[key]:
            lines += ['', f'{words} ({len(found[key])})', *_indented(found[key])]
    for key, words in (('other_shape', 'other shape'), ('other_dtype', 'other type')):
        pairs: dict[str, list[str]] = {}
        for name, (old, new) in found[key].items():
            pairs.setdefault(f'{words}, {old} there and {new} here', []).append(name)
        for title, names in pairs.items():
            every = len(names) == len(found['parameters']) > _FEW
            lines += ['', f'{title} ({"all " if every else ""}{len(names)})']
            lines += [] if every else _indented(names)
    return lines


def _changes(found: Report, depth: int) -> list[str]:
    if not found['parameters']:
        return []
    rows = [('', 'change', 'of norm', 'largest', '')]
    for module, members in modules(found['parameters'], depth).items():
        labels = _labels(module, members)
        # One line where nothing changed.
        for label, name in labels[:1] if found['modules'][module]['equal'] else labels:
            change = found['modules'][module] if name is None else found['parameters'][name]
            rows.append(_change_row(label, change))
    return [
        'change: norm of the difference in units of the norm there; largest: of a number',
        *table(rows),
    ]


def _change_row(name: str, change: Report) -> tuple[str, ...]:
    if change['equal']:
        return name, '-', '-', '-', 'equal to the bit'
    share = lambda x, sign='': '-' if x is None else format(x, f'{sign}.2%')
    words = ''
    if change.get('equal_arrays'):
        words = f'{change["equal_arrays"]} of {change["arrays"]} equal to the bit'
    if change['incomparable']:
        words = f'{change["incomparable"]:,} NaN or Inf in one of them'
    return (
        name,
        share(change['relative']),
        share(change['norm'], '+'),
        f'{change["largest"]:.3g}',
        words,
    )
