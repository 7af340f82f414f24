"""Layers one above the other, and what their configs share.

Axes: L layers.

In training a stack is one layer whose parameters have a leading layer axis, and a loop over it: that
compiles in the time of one layer. A decoder may have each layer by itself (`unroll=0`), so that no turn
of a loop first copies its part out of a larger array.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any, Self, get_type_hints

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.nearest import check


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields of a part of `config.model`."""

    @classmethod
    def parse(cls, fields: Mapping[str, Any], where: str, **more: Any) -> Self:
        """Reads a config.

        Args:
            fields: by name; those of a part within the part as a mapping.
            where: where in the config they are, e.g. 'config.model.vision'.
            **more: fields that the config does not have.

        Raises:
            ValueError: an unknown field, with the nearest valid one, or a missing one.
        """
        if not hasattr(fields, 'items'):  # ConfigDict is no Mapping
            raise ValueError(f'{where} is {fields!r}; a part of a model has fields')
        known = {field.name: field for field in dataclasses.fields(cls)}
        for name in fields:
            check(f'field of {where}:', name, known.keys() - more.keys())
        values = dict(fields) | more
        for name, field in known.items():
            if field.default is dataclasses.MISSING and name not in values:
                raise ValueError(f'{where} has no {name}')
        for name, kind in get_type_hints(cls).items():
            if isinstance(kind, type) and issubclass(kind, Config) and name in values:
                values[name] = kind.parse(values[name], f'{where}.{name}')
        return cls(**values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackConfig(Config):
    """What every stack has.

    Attributes:
        width: D, of the states between layers.
        depth: L.
        mlp: width of the hidden layer.
        dtype: of matrix products.
        remat: what the backward pass keeps: 'none' keeps all, 'full' nothing, otherwise the name of a
            policy in `jax.checkpoint_policies`.
        unroll: layers a turn of the loop: 1 compiles fastest; all of them run a quarter faster on a
            CPU. 0 makes `UnstackedLayers`, without `remat`.
    """

    width: int
    depth: int
    mlp: int
    dtype: jnp.dtype
    remat: str = 'none'
    unroll: int = 1


class UnstackedLayers(nn.Module):
    """Layers named '0', '1', ..., called one after the other; the interface is that of `stack`.

    Caches come out as a tuple, one a layer, and may go in so or with a leading layer axis.

    Attributes:
        layer: class of a layer, which takes `config`.
        config: of the stack.
    """

    layer: type[nn.Module]
    config: Any

    @nn.compact
    def __call__(
        self, x: Any, scanned: Any, *shared: Any, method: str = '__call__'
    ) -> tuple[Any, tuple[Any, ...]]:
        """Calls a method of each layer."""
        if not isinstance(scanned, tuple):
            scanned = tuple(
                jax.tree.map(lambda a, i=i: a[i], scanned) for i in range(self.config.depth)
            )
        outputs = []
        for i, own in enumerate(scanned):
            layer = self.layer(self.config, name=str(i))
            x, output = getattr(layer, method)(x, own, *shared)
            outputs.append(output)
        return x, tuple(outputs)

    def attend(self, x: Any, scanned: Any, *shared: Any) -> tuple[Any, tuple[Any, ...]]:
        """Calls `attend` of each layer."""
        return self(x, scanned, *shared, method='attend')

    def prefill(self, x: Any, scanned: Any, *shared: Any) -> tuple[Any, tuple[Any, ...]]:
        """Calls `prefill` of each layer."""
        return self(x, scanned, *shared, method='prefill')

    def step(self, x: Any, scanned: Any, *shared: Any) -> tuple[Any, tuple[Any, ...]]:
        """Calls `step` of each layer."""
        return self(x, scanned, *shared, method='step')


def stack(
    layer: type[nn.Module],
    config: StackConfig,
    broadcast: Mapping[str, int],
    name: str | None = None,
) -> Any:
    """Repeats a layer over parameters with a leading layer axis.

    A method of the layer is called as `layer.method(x, scanned, *shared)` and returns `(x, output)`:
    x flows from layer to layer, `scanned` and `output` have a leading layer axis (or are None), and
    every layer gets `shared` as it is.

    Args:
        layer: class of a layer, which takes `config`.
        config: of the stack.
        broadcast: the layer's methods, and the number of their `shared` arguments.
        name: of the stack; None in `setup`.

    Raises:
        ValueError: an unknown remat policy.
    """
    if not config.unroll:
        return UnstackedLayers(layer, config, name=name)
    if config.remat != 'none':
        policy = remat_policy(config.remat)
        layer = nn.remat(layer, policy=policy, prevent_cse=False, methods=list(broadcast))
    loop = {
        'length': config.depth,
        'unroll': config.unroll,
        'variable_axes': {'params': 0, 'intermediates': 0},
        'split_rngs': {'params': True, 'dropout': True},
        'out_axes': 0,
        'metadata_params': {nn.PARTITION_NAME: 'layers'},
    }
    methods = {
        method: loop | {'in_axes': (0, *[nn.broadcast] * shared)}
        for method, shared in broadcast.items()
    }
    return nn.scan(layer, methods=methods)(config, name=name)


def remat_policy(name: str) -> Any:
    """The rematerialisation policy of this name; None keeps nothing.

    Raises:
        ValueError: no such policy; the nearest is named.
    """
    if name == 'full':
        return None
    policies = [policy for policy in dir(jax.checkpoint_policies) if not policy.startswith('_')]
    check('remat policy', name, [*policies, 'none', 'full'])
    return getattr(jax.checkpoint_policies, name)


def stack_trees(tree: Any) -> Any:
    """A tree of `UnstackedLayers` as `stack` names it: with a leading layer axis."""
    if not isinstance(tree, Mapping):
        return tree
    tree = {name: stack_trees(inner) for name, inner in tree.items()}
    if not tree or not all(name.isdigit() for name in tree):
        return tree
    layers = (tree[str(i)] for i in range(len(tree)))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
