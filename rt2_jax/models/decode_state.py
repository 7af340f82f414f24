"""What one decoding step hands to the next.

Axes: L layers, B batch, T target (the most tokens that a cache has room for), S tokens before the
target, G heads of keys and values, K width of a head, D width.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp


@struct.dataclass
class LayerCache:
    """Keys and values of one layer, or, with a leading layer axis, of all layers of a stack.

    Attributes:
        keys: [B, T, G, K].
        values: [B, T, G, K].
        cross_keys: those of the encoder's states, in the layout that the layer's product reads; None
            where a model has no encoder.
        cross_values: likewise.
        is_global: bool [], whether a layer of Gemma's kind attends without a window; None elsewhere.
    """

    keys: jax.Array
    values: jax.Array
    cross_keys: jax.Array | None = None
    cross_values: jax.Array | None = None
    is_global: Any = None

    @property
    def cross(self) -> tuple[jax.Array, jax.Array]:
        """Keys and values of the encoder's states."""
        assert self.cross_keys is not None and self.cross_values is not None
        return self.cross_keys, self.cross_values

    def write(self, keys: jax.Array, values: jax.Array, index: jax.Array) -> LayerCache:
        """The cache of one layer with keys and values [B, 1, G, K] of the token at `index`."""
        update = jax.lax.dynamic_update_slice_in_dim
        return dataclasses.replace(
            self,
            keys=update(self.keys, keys, index, axis=1),
            values=update(self.values, values, index, axis=1),
        )


Cache = LayerCache | tuple[LayerCache, ...]  # one with a leading layer axis, or one a layer


@struct.dataclass
class DecodeState:
    """The state of decoding a batch, of any backbone.

    Attributes:
        cache: of the layers.
        valid: bool [B, S], which tokens before the target are no padding.
        index: int32 [], tokens decoded so far.
        first: [B, D], the prompt's last state, which a decoder-only model's first token comes from;
            None in an encoder-decoder.
    """

    cache: Cache
    valid: jax.Array
    index: jax.Array
    first: Any = None

    def next(self, cache: Cache) -> DecodeState:
        """The state after one more token."""
        return dataclasses.replace(self, cache=cache, index=self.index + 1)


def cache_length(cache: Cache) -> int:
    """The number of tokens T that a stack's cache has room for."""
    return (cache[0] if isinstance(cache, tuple) else cache).keys.shape[-3]


def extend_cache(cache: Cache, length: int) -> Cache:
    """A stack's cache with room for `length` more tokens behind those that it has."""
    if isinstance(cache, tuple):
        return tuple(_extend(layer, length) for layer in cache)
    return _extend(cache, length)


def _extend(cache: LayerCache, length: int) -> LayerCache:
    pad = [(0, 0)] * (cache.keys.ndim - 3) + [(0, length), (0, 0), (0, 0)]
    return dataclasses.replace(
        cache, keys=jnp.pad(cache.keys, pad), values=jnp.pad(cache.values, pad)
    )
