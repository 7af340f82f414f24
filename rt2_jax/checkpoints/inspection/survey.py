"""The report of a checkpoint, and of what changed between two, as JSON has it."""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import math
from typing import Any

from rt2_jax import configuration
from rt2_jax.checkpoints.inspection import layout, measures
from rt2_jax.checkpoints.inspection.measures import Change, Measures
from rt2_jax.checkpoints.inspection.opened import Opened, of_tokenizer


@dataclasses.dataclass
class _Measured:
    """Statistics by name: of the checkpoint's arrays, of the earlier one's, and between them."""

    here: dict[str, Measures] = dataclasses.field(default_factory=dict)
    there: dict[str, Measures] = dataclasses.field(default_factory=dict)
    changes: dict[str, Change] = dataclasses.field(default_factory=dict)


def survey(
    opened: Opened, against: Opened | None = None, *, values: bool = True, depth: int = 2
) -> dict[str, Any]:
    """The report of a checkpoint.

    Args:
        opened: the checkpoint.
        against: one to compare it with, taken as the earlier one.
        values: whether arrays are read; else the report has shapes, types and placements alone.
        depth: how many parts of a parameter's name make its module.

    Raises:
        SourceError: an array cannot be read.
    """
    table, expected = layout.by_table(opened)
    layout.check_shapes(opened, expected)
    measured = _measure(opened, against) if values else _Measured()
    parameters = {}
    for name, array in opened.arrays.items():
        placement = opened.placements.get(name)
        parameters[name] = {
            'shape': list(array.shape),
            'dtype': array.dtype.name,
            'bytes': array.bytes,
            'saved_as': placement.spec if placement else None,
            'by_table': table.get(name),
        } | (measured.here[name].report() if values else {})
    _warn_of_values(opened, measured.here)
    report = _beside(opened) | {
        'total': _total(opened, opened.arrays, measured.here),
        'modules': {
            module: _total(opened, names, measured.here)
            for module, names in modules(opened.arrays, depth).items()
        },
        'parameters': parameters,
    }
    if against is not None:
        _warn_of_values(against, measured.there)
        report['against'] = _between(opened, against, measured, depth)
        report['warnings'] += [f'{against.directory}: {words}' for words in against.warnings]
    return report


def modules(names: Iterable[str], depth: int) -> dict[str, list[str]]:
    """Names by module: the first `depth` parts of each name, but never all of it."""
    grouped: dict[str, list[str]] = {}
    for name in names:
        parts = name.split('/')
        grouped.setdefault('/'.join(parts[: min(depth, len(parts) - 1)]), []).append(name)
    return grouped


def _beside(opened: Opened) -> dict[str, Any]:
    """All but the parameters."""
    config = opened.config
    meshes = {tuple(placement.mesh.items()) for placement in opened.placements.values()}
    chunks = [math.prod(x.chunk) * x.dtype.itemsize for x in opened.arrays.values() if x.chunk]
    return {
        'checkpoint': str(opened.directory),
        'kind': opened.kind,
        'step': opened.step,
        'steps': opened.steps,
        'disk': opened.disk,
        'saved_on_mesh': [dict(mesh) for mesh in sorted(meshes)],
        'largest_chunk_bytes': max(chunks, default=0),
        'embodiment': opened.embodiment,
        'tokenizer': of_tokenizer(opened.tokenizer),
        'versions': opened.versions,
        'data_position': opened.position,
        'config': config.to_dict() if hasattr(config, 'to_dict') else config,
        'warnings': opened.warnings,
    }


def _measure(opened: Opened, against: Opened | None) -> _Measured:
    measured = _Measured()
    others = against.arrays if against else {}
    for name, array in opened.arrays.items():
        if name in others and others[name].shape == array.shape:
            measured.here[name], measured.there[name], measured.changes[name] = measures.compare(
                array, others[name]
            )
        else:
            measured.here[name] = measures.measure(array)
    for name, array in others.items():
        if name not in measured.there:
            measured.there[name] = measures.measure(array)
    return measured


def _warn_of_values(opened: Opened, measured: dict[str, Measures]) -> None:
    for name, values in measured.items():
        counts = ((values.nan, 'NaN'), (values.infinite, 'Inf'))
        if wrong := [f'{n:,} {word}' for n, word in counts if n]:
            text = f'{name}: {" and ".join(wrong)} among {values.count:,} numbers'
            opened.warnings.append(text)
        elif values.count == values.zeros and name.endswith(('/kernel', '/embedding')):
            opened.warnings.append(f'{name} is all zeros')


def _total(opened: Opened, names: Iterable[str], measured: dict[str, Measures]) -> dict[str, Any]:
    names = list(names)
    arrays = [opened.arrays[name] for name in names]
    total = {
        'arrays': len(arrays),
        'parameters': sum(array.count for array in arrays),
        'bytes': sum(array.bytes for array in arrays),
        'dtypes': sorted({array.dtype.name for array in arrays}),
    }
    if not measured:
        return total
    return total | _joined(Measures(), (measured[name] for name in names)).report()


def _joined(total: Any, parts: Iterable[Any]) -> Any:
    """The `Measures` or `Change` of several parts."""
    for part in parts:
        total.join(part)
    return total


def _between(opened: Opened, against: Opened, measured: _Measured, depth: int) -> dict[str, Any]:
    """The differences of two checkpoints; pairs are [there, here]."""
    here, there = opened.arrays, against.arrays
    both = [name for name in here if name in there]
    return {
        'checkpoint': str(against.directory),
        'kind': against.kind,
        'step': against.step,
        'only_here': [name for name in here if name not in there],
        'only_there': [name for name in there if name not in here],
        'other_shape': {
            name: [list(there[name].shape), list(here[name].shape)]
            for name in both
            if here[name].shape != there[name].shape
        },
        'other_dtype': {
            name: [there[name].dtype.name, here[name].dtype.name]
            for name in both
            if here[name].dtype != there[name].dtype
        },
        'modules': {
            module: _change_of_module(names, measured)
            for module, names in modules(measured.changes, depth).items()
        },
        'parameters': {
            name: change.report(measured.here[name], measured.there[name])
            for name, change in measured.changes.items()
        },
        'config': _configs(opened, against),
        **_beside_each_other(opened, against),
        'versions': {
            name: [old, new]
            for name in sorted({*opened.versions, *against.versions})
            if (old := against.versions.get(name, 'missing'))
            != (new := opened.versions.get(name, 'missing'))
        },
    }


def _change_of_module(names: list[str], measured: _Measured) -> dict[str, Any]:
    here = _joined(Measures(), (measured.here[name] for name in names))
    there = _joined(Measures(), (measured.there[name] for name in names))
    change = _joined(Change(), (measured.changes[name] for name in names))
    equal = sum(measured.changes[name].equal for name in names)
    return change.report(here, there) | {'arrays': len(names), 'equal_arrays': equal}


def _beside_each_other(opened: Opened, against: Opened) -> dict[str, Any]:
    """Pairs that differ, None if they don't or one is missing; 'same' lists those that are equal."""
    result: dict[str, Any] = {'same': []}
    pairs = zip(_comparable(against).items(), _comparable(opened).values(), strict=True)
    for (what, old), new in pairs:
        known = None not in (old, new)
        result[what] = [old, new] if known and old != new else None
        result['same'] += [what] if known and old == new else []
    return result


def _comparable(opened: Opened) -> dict[str, Any]:
    embodiment = opened.embodiment or {}
    return {
        'tokenizer': of_tokenizer(opened.tokenizer),
        'action_space': embodiment.get('action_space'),
        'sources': sorted(embodiment['sources']) if 'sources' in embodiment else None,
    }


def _configs(opened: Opened, against: Opened) -> dict[str, list[Any]]:
    if opened.config is None or against.config is None:
        return {}
    fields = configuration.differences(against.config, opened.config)
    if 'converted' in (
        opened.kind,
        against.kind,
    ):  # whose config has some of a model's fields alone
        both = set.intersection(*(set(configuration.leaves(x.config)) for x in (opened, against)))
        fields = {key: pair for key, pair in fields.items() if key in both}
    return {key: list(pair) for key, pair in fields.items()}
