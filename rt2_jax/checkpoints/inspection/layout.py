"""How parameters lie on a mesh: as they were saved, and as the sharding table would lay them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rt2_jax.checkpoints import param_shapes
from rt2_jax.checkpoints.inspection.opened import Opened
from rt2_jax.parallel import sharding

Spec = tuple[Any, ...]
_SHOWN = 5  # names in a warning


def by_table(opened: Opened) -> tuple[dict[str, Spec], dict[str, tuple[int, ...]]]:
    """Of each parameter that the checkpoint's config asks for: mesh axes, and shape.

    Where the model of the config can't be built, both are empty and a warning says why.
    """
    try:
        layout = _layout(opened)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        opened.warnings.append(f"the config's model cannot be built here: {error}")
        return {}, {}
    table = {name: tuple(sharding.mesh_spec(axes)) for name, (_, axes) in layout.items()}
    shapes = {name: shape for name, (shape, _) in layout.items()}
    return {name: _full(table[name], len(shapes[name])) for name in table}, shapes


def _layout(opened: Opened) -> Mapping[str, tuple]:
    if opened.kind == 'converted':
        model = dict(opened.config['model'])
        return param_shapes.named_layout(model, model.get('image_size'))
    return param_shapes.stored_layout(opened.config, opened.tokenizer)


def check_shapes(opened: Opened, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Warns of parameters that the config's model has and the checkpoint lacks, and so on.

    A converted directory may hold a part of a model: what it lacks starts at random.
    """
    if not expected:
        return
    names = opened.arrays
    for name, stored in names.items():
        if name in expected and stored.shape != expected[name]:
            opened.warnings.append(
                f"{name} is {list(stored.shape)}; the config's model has {list(expected[name])}"
            )
    _warn_of(opened, "the config's model has no", [n for n in names if n not in expected])
    if opened.kind != 'converted':
        lost = [name for name in expected if name not in names]
        _warn_of(opened, "the config's model has, and this checkpoint lacks,", lost)


def _warn_of(opened: Opened, words: str, names: Sequence[str]) -> None:
    if names:
        more = f', and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
        opened.warnings.append(f'{words} {", ".join(names[:_SHOWN])}{more}')


def _full(spec: Spec, axes: int) -> Spec:
    return spec + (None,) * (axes - len(spec))


def text(spec: Spec | None) -> str:
    """'tensor fsdp', a dot for an axis that is whole; 'whole' where all are."""
    if spec is None:
        return ''
    words = ['.' if x is None else '+'.join([x] if isinstance(x, str) else x) for x in spec]
    return ' '.join(words) if any(x is not None for x in spec) else 'whole'
