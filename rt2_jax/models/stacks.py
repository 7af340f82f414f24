"""Layers one above the other.

Axes: L layers.

In training they are one layer whose parameters have a leading axis of layers, and a loop over it: that
compiles in the time of one, however many there are. What decodes may have each layer by itself
(`unroll=0`), so that no turn of a loop first copies its part out of a larger array.
"""

from __future__ import annotations

from collections.abc import Mapping
import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.nearest import check


class Separate(nn.Module):
    """Layers named '0', '1', ..., called one after the other; the interface is that of `stack`.

    Caches come out as a tuple, one a layer, and may go in so or with a leading axis of layers.
    """

    layer: type[nn.Module]
    depth: int
    attributes: Mapping[str, Any]

    @nn.compact
    def __call__(self, x, cache, *shared):
        if not isinstance(cache, tuple):
            cache = tuple(jax.tree.map(lambda a: a[i], cache) for i in range(self.depth))
        found = []
        for i, own in enumerate(cache):
            x, own = self.layer(**self.attributes, name=str(i))(x, own, *shared)
            found.append(own)
        return x, tuple(found)


def stack(layer: type[nn.Module], depth: int, remat: str, unroll: int, **attributes) -> nn.Module:
    """Scans `depth` copies of a layer over parameters with a leading 'layers' axis.

    The layer is called as `layer(x, cache, *shared)` and returns `(x, cache)`: x flows from layer to
    layer, cache has a leading layer axis (or is None), shared goes to every layer as it is.

    Args:
      layer: the module class to repeat.
      depth: number of layers.
      remat: what the backward pass keeps: 'none' keeps all, 'full' nothing, otherwise the name of a
        policy in `jax.checkpoint_policies`.
      unroll: layers a turn of the loop: 1 compiles fastest; all of them run a quarter faster on a CPU.
        0 is for `Separate` ones, without `remat`.
      **attributes: the layer's own attributes.
    """
    if not unroll:
        own = {'name': attributes.pop('name')} if 'name' in attributes else {}
        return Separate(layer, depth, attributes, **own)
    if remat != 'none':
        layer = nn.remat(layer, policy=remat_policy(remat), prevent_cse=False)
    shared = len(inspect.signature(layer.__call__).parameters) - 3
    scanned = nn.scan(
        layer,
        length=depth,
        unroll=unroll,
        variable_axes={'params': 0, 'intermediates': 0},
        split_rngs={'params': True},
        in_axes=(0, *[nn.broadcast] * shared),
        out_axes=0,
        metadata_params={nn.PARTITION_NAME: 'layers'},
    )
    return scanned(**attributes)


def remat_policy(name: str):
    """Returns the rematerialisation policy of this name; None keeps nothing."""
    if name == 'full':
        return None
    policies = [p for p in dir(jax.checkpoint_policies) if not p.startswith('_')]
    check('remat policy', name, [*policies, 'none', 'full'])
    return getattr(jax.checkpoint_policies, name)


def places(cache: Any) -> int:
    """For how many tokens a stack's cache has room: the length of `keys`, [..., T, heads, K]."""
    return (cache[0] if isinstance(cache, tuple) else cache)['keys'].shape[-3]


def with_room(cache: Any, length: int) -> Any:
    """A stack's cache with room for `length` more keys and values behind what it has."""
    if isinstance(cache, tuple):
        return tuple(with_room(own, length) for own in cache)
    more = [(0, 0)] * (cache['keys'].ndim - 3) + [(0, length), (0, 0), (0, 0)]
    return cache | {name: jnp.pad(cache[name], more) for name in ('keys', 'values')}


def joined(tree: Any) -> Any:
    """A tree of what `Separate` layers have or left, as `stack` names it: an axis of layers in front."""
    if not isinstance(tree, Mapping):
        return tree
    tree = {name: joined(inner) for name, inner in tree.items()}
    if not tree or not all(name.isdigit() for name in tree):
        return tree
    return jax.tree.map(lambda *each: jnp.stack(each), *(tree[str(i)] for i in range(len(tree))))
