"""Names and layouts of public checkpoints' tensors: one table a format, used in both directions.

A table is a sequence of `Rule`s. `imported` maps a checkpoint's tensors to our parameters, `exported` ours
to theirs; both are lazy. A tensor that no rule takes and a parameter that no rule fills are errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import difflib
import fnmatch
import math
import re
from typing import Any

import einops
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from rt2_jax.weights.tensors import SourceError, Tensor, of_array

LAYER = '{i}'
# Layouts of torch's linear layers, [outputs, inputs]: plain, and where a side is split into heads.
PRODUCT = 'outputs inputs -> inputs outputs'
HEADS_OUT = '(heads head_dim) width -> width heads head_dim'
HEADS_IN = 'width (heads head_dim) -> heads head_dim width'
# What weights may be.
FLOATS = tuple(np.dtype(kind) for kind in (ml_dtypes.bfloat16, 'float16', 'float32', 'float64'))


@dataclasses.dataclass(frozen=True)
class Rule:
    """One parameter of ours, and its tensor in a public format.

    Attributes:
        ours: our parameter's name, 'text_encoder/layers/attention/query/kernel'; '' for a tensor that
            our part of the model does not need. A copy of another tensor is not one of these: see
            `copies`.
        theirs: their tensor's name; with '{i}' there is one a layer, and ours has a leading layer axis.
            In the name of an unneeded tensor '*' matches anything.
        layout: how theirs becomes ours, an einops pattern (of one layer, where there is one a layer);
            '' if both have one layout. The right side names each axis of ours.
        sizes: of axes that the right side of `layout` joins.
        part: (axis, number, of): theirs stacks `of` of ours along an axis; this is one of them.
        span: (axis, start, stop): theirs concatenates ours and others along an axis.
        copies: other names of the same tensor in some files. The first present one is read; all
            present ones must be equal, which is checked on reading.
        instead: names to read from if neither `theirs` nor a copy is present: a head that is the word
            table, say. If both are present they may differ.
        resizes: ours and theirs are vectors on square grids, [tokens, width], that may differ in size;
            they are interpolated linearly.
        constant: the value of all of ours if a checkpoint has no `theirs`; None if it must have it.
    """

    ours: str
    theirs: str
    layout: str = ''
    sizes: tuple[tuple[str, int], ...] = ()
    part: tuple[int, int, int] | None = None
    span: tuple[int, int, int | None] | None = None
    copies: tuple[str, ...] = ()
    instead: tuple[str, ...] = ()
    resizes: bool = False
    constant: float | None = None

    def names(self, layers: int) -> list[str]:
        """Their tensors' names for a stack of this many layers."""
        if LAYER not in self.theirs:
            return [self.theirs]
        return [self.theirs.replace(LAYER, str(i)) for i in range(layers)]

    def to_ours(self, x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """One of their tensors as ours, of this shape."""
        if self.part:
            axis, number, _ = self.part
            x = np.take(x, number, axis)
        if self.span:
            axis, start, stop = self.span
            x = x[(slice(None),) * axis + (slice(start, stop),)]
        if self.layout:
            x = einops.rearrange(x, self.layout, **self._sizes(shape))
        if self.resizes and x.shape[0] != shape[0]:
            x = _resized(x, shape[0])
        return x

    def to_theirs(self, x: Any) -> Any:
        """One of ours as theirs; a part of theirs if there is `part` or `span`."""
        if not self.layout:
            return x
        left, right = self.layout.split('->')
        return einops.rearrange(x, f'{right} -> {left}', **dict(self.sizes))

    def _sizes(self, shape: Sequence[int]) -> dict[str, int]:
        """Sizes of the axes that the left side joins, by ours."""
        left, right = self.layout.split('->')
        axes = re.findall(r'\([^)]*\)|\S+', right)
        joined = set(' '.join(re.findall(r'\(([^)]*)\)', left)).split())
        known = {name: size for name, size in zip(axes, shape) if name in joined}
        return known | dict(self.sizes)


def _resized(x: np.ndarray, tokens: int) -> np.ndarray:
    """Vectors on a square grid [n * n, D] to another, [tokens, D], corners on corners."""
    old, new = math.isqrt(x.shape[0]), math.isqrt(tokens)
    if old * old != x.shape[0] or new * new != tokens:
        raise ValueError(f'{x.shape[0]} or {tokens} positions are no square')
    from scipy import ndimage  # takes a third of a second, and other rules do without

    grid = x.reshape(old, old, -1).astype(np.float32)
    return (
        ndimage.zoom(grid, (new / old, new / old, 1), order=1).reshape(tokens, -1).astype(x.dtype)
    )


def imported(
    rules: Sequence[Rule], source: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """Maps a checkpoint's tensors to our parameters.

    Args:
        rules: the format's table.
        source: the checkpoint's tensors, by name.
        shapes: of the model's parameters, by name; parts that the table does not know are left out.

    Raises:
        SourceError: tensors that no rule takes, parameters that no rule fills or of another shape, each
            named with the nearest. Reading a returned tensor raises it if a copy differs.
    """
    taken: set[str] = set()
    result: dict[str, Tensor] = {}
    wrong: list[str] = []
    for rule in (rule for rule in rules if rule.ours in shapes):
        shape = tuple(shapes[rule.ours])
        names = [_stored(rule, name, source) for name in rule.names(shape[0])]
        if missing := [name for name in names if name not in source]:
            if rule.constant is not None:
                array = np.full(shape, rule.constant, np.float32)
                result[rule.ours] = of_array(rule.ours, array)
                continue
            near = _near(missing[0], source)
            wrong.append(f'{rule.ours}: the checkpoint has no {missing[0]}{near}')
            continue
        taken |= {*names, *rule.copies}
        tensors = [_checked(rule, source[name], source) for name in names]
        wrong += _misfits(rule, tensors, shape)
        result[rule.ours] = _ours(rule, tensors, shape)
    wrong += [f'{name}: no rule of this format fills it' for name in _unfilled(rules, shapes)]
    known = [name for rule in rules for name in rule.names(1)]
    left = [name for name in source if name not in taken and not _unused(rules, name)]
    wrong += [f'{name}: nothing here takes it{_near(name, known)}' for name in left]
    if wrong:
        where = next(iter(source.values())).where if source else 'the checkpoint'
        more = f'\n  and {len(wrong) - 20} more' if len(wrong) > 20 else ''
        raise SourceError(
            f'{where} does not fit the model, {len(wrong)} tensors are wrong:\n  '
            + '\n  '.join(wrong[:20])
            + more
        )
    return result


def _stored(rule: Rule, name: str, source: Mapping[str, Tensor]) -> str:
    """The name that a rule's tensor is stored under; `name` if there is none."""
    options = (name, *rule.copies, *rule.instead)
    return next((option for option in options if option in source), name)


def _checked(rule: Rule, tensor: Tensor, source: Mapping[str, Tensor]) -> Tensor:
    """The tensor of a rule, compared with its copies when it is read."""
    copies = [source[name] for name in rule.copies if name in source]
    copies = [copy for copy in copies if copy is not tensor]
    if not copies:
        return tensor

    def same(get: Callable[[Tensor], np.ndarray]) -> np.ndarray:
        x = get(tensor)
        for copy in copies:
            if not np.array_equal(x, get(copy)):
                raise SourceError(
                    f'{copy.name} in {copy.where} is not the same as {tensor.name}, and there is one '
                    f'{rule.ours} here; a model that has both is not known'
                )
        return x

    take = (lambda index: same(lambda t: t[index])) if tensor.take else None
    return dataclasses.replace(tensor, read=lambda: same(lambda t: t.read()), take=take)


def _unfilled(rules: Sequence[Rule], shapes: Iterable[str]) -> list[str]:
    """Parameters that no rule fills, in the parts that the table knows."""
    ours = {rule.ours for rule in rules}
    parts = {name.split('/')[0] for name in ours if name}
    return [name for name in shapes if name.split('/')[0] in parts and name not in ours]


def _unused(rules: Sequence[Rule], name: str) -> bool:
    """Whether a table lists a tensor as unneeded."""
    patterns = (rule.theirs.replace(LAYER, '*') for rule in rules if not rule.ours)
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _near(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f' (nearest: {close[0]})' if close else ''


def _misfits(rule: Rule, tensors: Sequence[Tensor], shape: tuple[int, ...]) -> list[str]:
    """Errors of tensors that do not convert to a parameter's shape."""
    one = shape[1:] if LAYER in rule.theirs else shape
    for tensor in tensors:
        if tensor.dtype not in FLOATS:
            return [
                f'{rule.ours}: {tensor.name} in {tensor.where} is {tensor.dtype}; weights are read as '
                f'{", ".join(str(kind) for kind in FLOATS)}, quantised ones are not'
            ]
        try:
            made = _shape(lambda x: rule.to_ours(x, one), tensor.shape)
        except (einops.EinopsError, ValueError, IndexError, TypeError):
            made = None
        if made != one:
            return [
                f'{rule.ours} of {one}: {tensor.name} of {tensor.shape} in {tensor.where} does not '
                'become it'
            ]
    return []


def _shape(function: Callable[[np.ndarray], np.ndarray], shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a function's result, computed without the array's memory."""
    return function(np.broadcast_to(np.int8(0), shape)).shape


def _ours(rule: Rule, tensors: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    if LAYER not in rule.theirs:
        tensor = tensors[0]
        alike = tensor.shape == shape and not (rule.layout or rule.part or rule.span)
        return Tensor(
            rule.ours,
            shape,
            tensor.dtype,
            tensor.where,
            lambda: rule.to_ours(tensor.read(), shape),
            tensor.take if alike else None,
        )

    def take(index: Any) -> np.ndarray:
        layers: slice
        layers, *rest = index if isinstance(index, tuple) else (index,)
        return np.stack([rule.to_ours(t.read(), shape[1:])[tuple(rest)] for t in tensors[layers]])

    return Tensor(
        rule.ours, shape, tensors[0].dtype, tensors[0].where, lambda: take(slice(None)), take
    )


def exported(rules: Sequence[Rule], params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Maps our parameters to their tensors.

    Args:
        rules: the format's table.
        params: ours, by name.

    Raises:
        SourceError: no rule takes a parameter, or a rule needs one that is missing.
    """
    by_theirs: dict[str, list[Rule]] = {}
    for rule in rules:
        if rule.ours:
            by_theirs.setdefault(rule.theirs, []).append(rule)
    parts = {rule.ours.split('/')[0] for rule in rules}
    known = {rule.ours for rule in rules}
    lost = [n for n in params if n.split('/')[0] in parts and n not in known]
    lost += [n for n in known - {''} if n not in params]
    if lost:
        raise SourceError(f'these parameters do not fit the format: {", ".join(sorted(lost))}')
    result: dict[str, Tensor] = {}
    for group in by_theirs.values():
        group = sorted(group, key=lambda rule: (rule.part or rule.span or (0, 0))[1])
        layers = params[group[0].ours].shape[0]
        for i, name in enumerate(group[0].names(layers)):
            result[name] = _theirs(name, group, params, i)
    return result


def _theirs(name: str, group: Sequence[Rule], params: Mapping[str, Tensor], i: int) -> Tensor:
    stacked = LAYER in group[0].theirs

    def read() -> np.ndarray:
        tensors = (params[rule.ours] for rule in group)
        return _joined(group, [tensor[i] if stacked else tensor.read() for tensor in tensors])

    shapes = [params[rule.ours].shape[1:] if stacked else params[rule.ours].shape for rule in group]
    empty = [np.broadcast_to(np.int8(0), shape) for shape in shapes]
    shape = jax.eval_shape(lambda parts: _joined(group, parts, jnp), empty).shape
    of = params[group[0].ours]
    return Tensor(name, tuple(shape), of.dtype, of.where, read)


def _joined(group: Sequence[Rule], parts: Sequence[np.ndarray], numpy: Any = np) -> np.ndarray:
    """One of their tensors, from its parts of ours."""
    parts = [rule.to_theirs(part) for rule, part in zip(group, parts)]
    if group[0].part:
        return numpy.stack(parts, group[0].part[0])
    if group[0].span:
        return numpy.concatenate(parts, group[0].span[0])
    return parts[0]
