"""How parameters are sharded: by the sharding table, and whether they are those of the config's model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rt2_jax.checkpoints import param_shapes
from rt2_jax.checkpoints.inspection.opened import Opened
from rt2_jax.parallel import sharding

Spec = tuple[Any, ...]
_SHOWN = 5  # names in a warning


def by_table(opened: Opened) -> tuple[dict[str, Spec], dict[str, tuple[int, ...]]]:
    """Mesh axes and shapes of the parameters of the config's model, by name.

    Both are empty if the model can't be built; a warning says why.
    """
    try:
        layout = _layout(opened)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        opened.warnings.append(f"the config's model cannot be built here: {error}")
        return {}, {}
    table = {name: tuple(sharding.mesh_spec(axes)) for name, (_, axes) in layout.items()}
    shapes = {name: shape for name, (shape, _) in layout.items()}
    full = {name: spec + (None,) * (len(shapes[name]) - len(spec)) for name, spec in table.items()}
    return full, shapes


def _layout(opened: Opened) -> Mapping[str, tuple[Any, ...]]:
    if opened.kind == 'converted':
        model = dict(opened.config['model'])
        return param_shapes.named_layout(model, model.get('image_size'))
    assert opened.tokenizer is not None, 'only converted directories lack one'
    return param_shapes.stored_layout(opened.config, opened.tokenizer)


def check_shapes(opened: Opened, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Warns of missing, unknown and misshapen parameters.

    A converted directory may hold a part of a model: the rest starts at random.
    """
    if not expected:
        return
    arrays = opened.arrays
    for name, array in arrays.items():
        if name in expected and array.shape != expected[name]:
            opened.warnings.append(
                f"{name} is {list(array.shape)}; the config's model has {list(expected[name])}"
            )
    unknown = [name for name in arrays if name not in expected]
    missing = [name for name in expected if name not in arrays and opened.kind != 'converted']
    for words, names in (
        ("the config's model has no", unknown),
        ("the config's model has, and this checkpoint lacks,", missing),
    ):
        if names:
            more = f', and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
            opened.warnings.append(f'{words} {", ".join(names[:_SHOWN])}{more}')


def text(spec: Spec | None) -> str:
    """'tensor fsdp', a dot for an axis that is not split; 'whole' if none is."""
    if spec is None:
        return ''
    words = ['.' if x is None else '+'.join([x] if isinstance(x, str) else x) for x in spec]
    return ' '.join(words) if any(x is not None for x in spec) else 'whole'
