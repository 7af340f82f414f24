"""A report of `survey` as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rt2_jax import configuration
from rt2_jax.checkpoints.inspection import layout
from rt2_jax.checkpoints.inspection.survey import modules

Report = Mapping[str, Any]
_FEW = 3  # names are listed even if they are all names
_LONGEST = 100  # characters of a value of a config


def as_text(report: Report, depth: int) -> str:
    """The whole report.

    Args:
        report: of `survey`.
        depth: how many parts of a parameter's name make its module, as for `survey`.
    """
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
    """Rows as lines; the first `left` columns and the last are aligned left."""
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
    pairs = lambda values: ', '.join(f'{name} {value}' for name, value in values.items())
    lines = []
    if report['steps']:
        lines.append(f'steps: {", ".join(f"{step:,}" for step in report["steps"])}')
    disk = {name: size(count) for name, count in report['disk'].items()}
    lines += [
        f'{total["parameters"]:,} parameters in {total["arrays"]} arrays, '
        f'{", ".join(total["dtypes"])}, {size(total["bytes"])}',
        f'{size(sum(report["disk"].values()))} on disk: {pairs(disk)}',
        *(f'saved on a mesh of {pairs(mesh)}' for mesh in report['saved_on_mesh']),
    ]
    if report['versions']:
        lines.append(f'written by {pairs(report["versions"])}')
    if report['data_position']:
        lines += _position(report['data_position'])
    if tokenizer:
        low, high = tokenizer['integer_ids']
        lines.append(
            f'tokenizer: {tokenizer["kind"]}, {tokenizer["tokens"]:,} tokens, integers '
            f'0..{tokenizer["integers"] - 1} at ids {low}..{high}, sha256 {tokenizer["sha256"][:16]}'
        )
    return [_title(report), *_indented(lines)]


def _title(report: Report) -> str:
    step = '' if report['step'] is None else f', step {report["step"]:,}'
    return f'{report["checkpoint"]}: {report["kind"]}{step}'


def _position(position: Report) -> list[str]:
    fingerprint = position.get('fingerprint', {})
    size = f' of {fingerprint["batch_size"]} examples' if 'batch_size' in fingerprint else ''
    lines = [f'data: {position.get("batches", 0):,} batches{size} were read']
    for kind in ('robot', 'web'):
        for name in fingerprint.get(f'{kind}_sources', ()):
            source = fingerprint.get(f'source {name!r}', {})
            if 'length' in source:
                weight = source['weight']
                share = weight['start'] if isinstance(weight, Mapping) else weight
                lines.append(f'  {kind}: {name}, {source["length"]:,} examples, weight {share:g}')
    return lines


def _actions(report: Report) -> list[str]:
    embodiment = report['embodiment']
    if not embodiment:
        return []
    lines = []
    # A card of an older version, which is no more, may lack some fields.
    if card := embodiment.get('embodiment', {}):
        lines.append(
            f'card {card.get("name")}: {card.get("motion", "delta")} actions at '
            f'{card.get("frequency", 0):g} Hz; {card.get("frame", "")}'
        )
        if isinstance(gripper := card.get('gripper'), Mapping):
            lines.append(
                f'gripper of the data: {gripper["kind"]}, {gripper["closed"]:g} closed and '
                f'{gripper["open"]:g} open; here +1 closed and -1 open'
            )
    own, sources = embodiment['action_space'], embodiment.get('sources', {})
    lines += _space(own, [name for name, space in sources.items() if space == own])
    for name, space in sources.items():
        lines += _space(space, [name]) if space != own else []
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
    present = configuration.leaves(config)
    changed = {key: new for key, (_, new) in fields.items() if key in present}
    return ['config, fields that differ from the defaults', *_indented(_fields(changed))]


def _fields(fields: Mapping[str, Any]) -> list[str]:
    """Fields by their parent: 'model.encoder  width=128, depth=2'."""
    groups: dict[str, list[str]] = {}
    for key, value in fields.items():
        parent, _, name = key.rpartition('.')
        groups.setdefault(parent, []).append(f'{name}={_short(value)}')
    return table([(parent, ', '.join(words)) for parent, words in groups.items()])


def _short(value: Any) -> str:
    text = 'none' if value is None else str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + '...'


def _parameters(report: Report, depth: int) -> list[str]:
    parameters, total = report['parameters'], report['total']
    values = ('norm', 'min', 'max', 'zeros', 'NaN/Inf') if 'norm' in total else ()
    # One column if every array lay as the table says.
    moved = any(x['saved_as'] not in (None, x['by_table']) for x in parameters.values())
    placements = {'by_table': 'by the table', 'saved_as': 'as saved'}
    placements = placements if moved else {'by_table': 'mesh axes'}
    rows = [('', 'shape', 'type', 'size', *values, *placements.values())]

    def add(label: str, shape: str, figures: Report) -> None:
        dtype = figures.get('dtype') or '+'.join(figures['dtypes'])
        numbers = _values(figures) if values else ()
        axes = [layout.text(figures.get(key)) for key in placements]
        rows.append((label, shape, dtype, size(figures['bytes']), *numbers, *axes))

    for module, members in modules(parameters, depth).items():
        for label, name in _labels(module, members):
            if name is None:
                figures = report['modules'][module]
                add(label, f'{figures["parameters"]:,}', figures)
            else:
                shape = 'x'.join(map(str, parameters[name]['shape'])) or 'scalar'
                add(label, shape, parameters[name])
    add('all', f'{total["parameters"]:,}', total)
    return [
        'parameters; mesh axes: what each axis of an array is split over, a dot for nothing',
        *_indented(table(rows)),
    ]


def _labels(module: str, members: Sequence[str]) -> list[tuple[str, str | None]]:
    """Labels of a module's rows, each with its array's name, None for the whole module."""
    if len(members) == 1:
        return [(members[0], members[0])]
    names = [(f'  {name.removeprefix(f"{module}/")}', name) for name in members]
    return [(module or '(top)', None), *names]


def _values(figures: Report) -> tuple[str, ...]:
    number = lambda x: '-' if x is None else f'{x:.3g}'
    zeros = figures['zeros']
    return (
        f'{figures["norm"]:.4g}',
        number(figures['min']),
        number(figures['max']),
        '0' if not zeros else '<0.1%' if zeros < 0.001 else f'{zeros:.1%}',
        f'{figures["nan"] + figures["inf"]:,}',
    )


def _against(report: Report, depth: int) -> list[str]:
    lines = [*_changes(report, depth), *_lists(report)]
    if fields := report['config']:
        rows = [('field', 'there', 'here')]
        rows += [(key, _short(old), _short(new)) for key, (old, new) in fields.items()]
        lines += ['', 'config', *_indented(table(rows, left=2))]
    for what in ('tokenizer', 'action_space', 'sources'):
        if report[what]:
            there, here = map(_short, report[what])
            lines += ['', f'{what}: there {there}', f'{" " * len(what)}  here  {here}']
    if report['versions']:
        words = (f'{k} {old} -> {new}' for k, (old, new) in report['versions'].items())
        lines += ['', f'versions: {", ".join(words)}']
    same = [what.replace('_', ' ') for what in report['same']]
    same += [what for what in ('config', 'versions') if not report[what]]
    lines += ['', f'the same in both: {", ".join(same)}'] if same else []
    return [f'against {_title(report)}', *_indented(lines)]


def _lists(report: Report) -> list[str]:
    """Names by what is different about them; all names are not listed."""
    lists = {words.replace('_', ' '): report[words] for words in ('only_here', 'only_there')}
    for key, words in (('other_shape', 'other shape'), ('other_dtype', 'other type')):
        for name, (old, new) in report[key].items():
            lists.setdefault(f'{words}, {old} there and {new} here', []).append(name)
    lines = []
    for title, names in lists.items():
        every = len(names) == len(report['parameters']) > _FEW and title.startswith('other')
        if names:
            lines += ['', f'{title} ({"all " if every else ""}{len(names)})']
            lines += [] if every else _indented(names)
    return lines


def _changes(report: Report, depth: int) -> list[str]:
    if not report['parameters']:
        return []
    rows: list[tuple[str, ...]] = [('', 'change', 'of norm', 'largest', '')]
    for module, members in modules(report['parameters'], depth).items():
        labels = _labels(module, members)
        # One line where nothing changed.
        for label, name in labels[:1] if report['modules'][module]['equal'] else labels:
            change = report['modules'][module] if name is None else report['parameters'][name]
            rows.append((label, *_change(change)))
    return [
        'change: norm of the difference in units of the norm there; largest: of a number',
        *table(rows),
    ]


def _change(change: Report) -> tuple[str, ...]:
    if change['equal']:
        return '-', '-', '-', 'equal to the bit'
    share = lambda x, sign='': '-' if x is None else format(x, f'{sign}.2%')
    note = ''
    if change.get('equal_arrays'):
        note = f'{change["equal_arrays"]} of {change["arrays"]} equal to the bit'
    if change['incomparable']:
        note = f'{change["incomparable"]:,} NaN or Inf in one of them'
    norms = share(change['relative']), share(change['norm'], '+')
    return *norms, f'{change["largest"]:.3g}', note
