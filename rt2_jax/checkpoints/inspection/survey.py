"""All that is to be said of a checkpoint, and of two beside each other, as JSON has it."""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
from typing import Any

from rt2_jax import configuration
from rt2_jax.checkpoints.inspection import layout, measures
from rt2_jax.checkpoints.inspection.measures import Change, Measures
from rt2_jax.checkpoints.inspection.opened import Opened, of_tokenizer


@dataclasses.dataclass
class _Read:
    """What was measured: of the checkpoint's arrays, of the other's, and between them."""

    of_this: dict[str, Measures]
    of_other: dict[str, Measures]
    changes: dict[str, Change]


def survey(
    opened: Opened, against: Opened | None = None, *, values: bool = True, depth: int = 2
) -> dict[str, Any]:
    """The report of a checkpoint.

    Args:
        opened: the checkpoint.
        against: one to compare it with, taken as the earlier one.
        values: whether arrays are read; else only shapes, types and places are told.
        depth: how many parts of a parameter's name make its module.

    Raises:
        SourceError: an array cannot be read.
    """
    table, expected = layout.by_table(opened)
    layout.check_shapes(opened, expected)
    read = _read(opened, against) if values else _Read({}, {}, {})
    parameters = {}
    for name, stored in opened.arrays.items():
        found = read.of_this.get(name)
        _warn_of_values(opened, name, found)
        parameters[name] = {
            'shape': list(stored.shape),
            'dtype': stored.dtype.name,
            'bytes': stored.bytes,
            'saved_as': stored.spec,
            'by_table': table.get(name),
        } | (found.report() if found else {})
    report = _beside(opened) | {
        'total': _total(opened, opened.arrays, read.of_this),
        'modules': {
            module: _total(opened, names, read.of_this)
            for module, names in modules(opened.arrays, depth).items()
        },
        'parameters': parameters,
    }
    if against is not None:
        for name, found in read.of_other.items():
            _warn_of_values(against, name, found)
        report['against'] = _between(opened, against, read, depth)
        report['warnings'] += [f'{against.directory}: {words}' for words in against.warnings]
    return report


def modules(names: Iterable[str], depth: int) -> dict[str, list[str]]:
    """Names by module: the first `depth` parts of each name, but never all of it."""
    found: dict[str, list[str]] = {}
    for name in names:
        parts = name.split('/')
        found.setdefault('/'.join(parts[: min(depth, len(parts) - 1)]), []).append(name)
    return found


def _beside(opened: Opened) -> dict[str, Any]:
    """What there is to say but of the parameters."""
    config = opened.config
    meshes = {tuple(stored.mesh.items()) for stored in opened.arrays.values() if stored.mesh}
    return {
        'checkpoint': str(opened.directory),
        'kind': opened.kind,
        'step': opened.step,
        'steps': opened.steps,
        'disk': opened.disk,
        'saved_on_mesh': [dict(mesh) for mesh in sorted(meshes)],
        'largest_chunk_bytes': max(map(_chunk_bytes, opened.arrays.values()), default=0),
        'embodiment': opened.embodiment,
        'tokenizer': of_tokenizer(opened.tokenizer),
        'versions': opened.versions,
        'data_position': opened.position,
        'config': config.to_dict() if hasattr(config, 'to_dict') else config,
        'warnings': opened.warnings,
    }


def _chunk_bytes(stored: Any) -> int:
    count = 1
    for size in stored.chunk or ():
        count *= size
    return count * stored.dtype.itemsize if stored.chunk else 0


def _read(opened: Opened, against: Opened | None) -> _Read:
    read = _Read({}, {}, {})
    others = against.arrays if against else {}
    for name, stored in opened.arrays.items():
        if name in others and others[name].shape == stored.shape:
            read.of_this[name], read.of_other[name], read.changes[name] = measures.compare(
                name, stored, others[name]
            )
        else:
            read.of_this[name] = measures.measure(name, stored)
    for name, stored in others.items():
        if name not in read.of_other:
            read.of_other[name] = measures.measure(name, stored)
    return read


def _warn_of_values(opened: Opened, name: str, found: Measures | None) -> None:
    if found is None:
        return
    wrong = [f'{n:,} {word}' for n, word in ((found.nan, 'NaN'), (found.infinite, 'Inf')) if n]
    if wrong:
        opened.warnings.append(f'{name}: {" and ".join(wrong)} among {found.count:,} numbers')
    elif found.count == found.zeros and name.endswith(('/kernel', '/embedding')):
        opened.warnings.append(f'{name} is all zeros')


def _total(opened: Opened, names: Iterable[str], read: dict[str, Measures]) -> dict[str, Any]:
    names = list(names)
    arrays = [opened.arrays[name] for name in names]
    total = {
        'arrays': len(arrays),
        'parameters': sum(stored.count for stored in arrays),
        'bytes': sum(stored.bytes for stored in arrays),
        'dtypes': sorted({stored.dtype.name for stored in arrays}),
    }
    if not read:
        return total
    joined = Measures()
    for name in names:
        joined.join(read[name])
    return total | joined.report()


def _between(opened: Opened, against: Opened, read: _Read, depth: int) -> dict[str, Any]:
    """What differs between two checkpoints; pairs are [the other's, this one's]."""
    one, other = opened.arrays, against.arrays
    both = [name for name in one if name in other]
    return {
        'checkpoint': str(against.directory),
        'kind': against.kind,
        'step': against.step,
        'only_here': [name for name in one if name not in other],
        'only_there': [name for name in other if name not in one],
        'other_shape': {
            name: [list(other[name].shape), list(one[name].shape)]
            for name in both
            if one[name].shape != other[name].shape
        },
        'other_dtype': {
            name: [other[name].dtype.name, one[name].dtype.name]
            for name in both
            if one[name].dtype != other[name].dtype
        },
        'modules': {
            module: _change_of_module(names, read)
            for module, names in modules(read.changes, depth).items()
        },
        'parameters': {
            name: change.report(read.of_this[name], read.of_other[name])
            for name, change in read.changes.items()
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


def _beside_each_other(opened: Opened, against: Opened) -> dict[str, Any]:
    """Pairs of what differs, and under 'same' what is the same in both; nothing of what one lacks."""
    told = {
        'tokenizer': lambda x: of_tokenizer(x.tokenizer),
        'action_space': lambda x: (x.embodiment or {}).get('action_space'),
        'sources': lambda x: sorted(x.embodiment['sources']) if _has_sources(x) else None,
    }
    pairs = {what: (of(against), of(opened)) for what, of in told.items()}
    known = {what: pair for what, pair in pairs.items() if None not in pair}
    return {what: None for what in told} | {
        **{what: list(pair) for what, pair in known.items() if pair[0] != pair[1]},
        'same': [what for what, pair in known.items() if pair[0] == pair[1]],
    }


def _has_sources(opened: Opened) -> bool:
    return 'sources' in (opened.embodiment or {})


def _change_of_module(names: list[str], read: _Read) -> dict[str, Any]:
    this, that, change = Measures(), Measures(), Change()
    for name in names:
        this.join(read.of_this[name])
        that.join(read.of_other[name])
        change.join(read.changes[name])
    equal = sum(read.changes[name].equal for name in names)
    return change.report(this, that) | {'arrays': len(names), 'equal_arrays': equal}


def _configs(opened: Opened, against: Opened) -> dict[str, list[Any]]:
    if opened.config is None or against.config is None:
        return {}
    found = configuration.differences(against.config, opened.config)
    if 'converted' in (opened.kind, against.kind):  # which tells of a model alone, in its own words
        both = set.intersection(*(set(configuration.leaves(x.config)) for x in (opened, against)))
        found = {key: pair for key, pair in found.items() if key in both}
    return {key: list(pair) for key, pair in found.items()}
