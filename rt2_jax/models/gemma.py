"""Gemma's layers, of which PaliGemma's language model and both stacks of T5Gemma 2 are made.

Axes: B batch, T queries, S keys, L layers, D width, H heads, G heads of keys and values, K width of a
head.

Gemma (arXiv 2403.08295): rotary positions, few heads of keys and values, norms that multiply by
1 + scale. Gemma 2 (2408.00118): norms behind each part too, capped logits, layers that see only a
window. Gemma 3 (2503.19786): normed queries and keys, other wavelengths in windows, no caps.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rt2_jax.models import layers, stacks

LOCAL, GLOBAL = 0, 1


@dataclasses.dataclass(frozen=True)
class AttentionConfig(stacks.Config):
    """Grouped-query attention: each head of keys and values serves H / G heads of queries.

    Attributes:
        heads: H.
        kv_heads: G.
        head_dim: K.
        scale: factor on the queries.
        qk_norm: whether each head's queries and keys are normed (Gemma 3).
        cap: of the logits (Gemma 2); 0 for none.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    qk_norm: bool = False
    cap: float = 0.0


def rotary(x: jax.Array, positions: jax.Array, rates: jax.Array) -> jax.Array:
    """Turns pairs of features by angles that grow with the position (arXiv 2104.09864).

    Args:
        x: [B, T, H, K]; feature i and feature i + K/2 are a pair.
        positions: int32 [B, T] or [T].
        rates: float32 [K/2], radians a position.

    Returns:
        [B, T, H, K].
    """
    angles = positions[..., None, None].astype(jnp.float32) * rates
    sine, cosine = jnp.sin(angles), jnp.cos(angles)
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = [left * cosine - right * sine, right * cosine + left * sine]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def rates(head_dim: int, base: float, stretch: float = 1.0) -> jax.Array:
    """`rotary`'s rates, float32 [K/2]: powers of `base`, slower by `stretch`."""
    return base ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim) / stretch


def capped(x: jax.Array, cap: float) -> jax.Array:
    """Softly keeps numbers between -cap and cap; 0 leaves them."""
    return cap * jnp.tanh(x / cap) if cap else x


class Attention(nn.Module):
    """Attention with rotary positions, whose keys and values can be computed apart.

    Attributes:
        config: heads and scales.
        width: D.
        dtype: of the products.
    """

    config: AttentionConfig
    width: int
    dtype: layers.Dtype

    def setup(self) -> None:
        """Makes the four products, and two norms with `qk_norm`."""
        config = self.config
        split, grouped = (config.heads, config.head_dim), (config.kv_heads, config.head_dim)
        self.query = layers.Linear(split, ('embed', 'heads', 'head_dim'), self.dtype)
        self.key = layers.Linear(grouped, ('embed', 'kv_heads', 'head_dim'), self.dtype)
        self.value = layers.Linear(grouped, ('embed', 'kv_heads', 'head_dim'), self.dtype)
        self.out = layers.Linear(
            (self.width,), ('heads', 'head_dim', 'embed'), self.dtype, contract=2
        )
        if config.qk_norm:
            self.query_norm = layers.RMSNorm(self.dtype, offset=1.0)
            self.key_norm = layers.RMSNorm(self.dtype, offset=1.0)

    def keys_values(
        self, source: jax.Array, turn: tuple[jax.Array, jax.Array] | None
    ) -> tuple[jax.Array, jax.Array]:
        """Keys and values, each [B, S, G, K], of a source [B, S, D].

        Args:
            source: states.
            turn: positions int32 [B, S] or [S], and `rates`; None for keys without positions.
        """
        keys = self.key(source)
        keys = self.key_norm(keys) if self.config.qk_norm else keys
        if turn:
            keys = rotary(keys, *turn)
        names = 'batch', 'length', 'kv_heads', 'head_dim'
        return layers.constrain(keys, *names), layers.constrain(self.value(source), *names)

    def __call__(
        self,
        x: jax.Array,
        turn: tuple[jax.Array, jax.Array],
        keys_values: tuple[jax.Array, jax.Array],
        mask: jax.Array,
    ) -> jax.Array:
        """Attends from x [B, T, D] to keys and values [B, S, G, K].

        Args:
            x: the states that the queries are made of.
            turn: positions int32 [B, T] or [T] of the queries, and `rates`.
            keys_values: as `keys_values` returns them.
            mask: float32, broadcastable to [B, 1, 1, T, S], added to the logits.

        Returns:
            [B, T, D].
        """
        config = self.config
        keys, values = keys_values
        query = self.query(x)
        query = self.query_norm(query) if config.qk_norm else query
        query = rotary(query, *turn) * jnp.asarray(config.scale, self.dtype)
        query = layers.constrain(query, 'batch', 'length', 'heads', 'head_dim')
        b, t = query.shape[:2]
        grouped = query.reshape(b, t, config.kv_heads, -1, config.head_dim)
        logits = self.einsum('btghk,bsgk->bghts', grouped, keys, jnp.float32)
        weights = jax.nn.softmax(capped(logits, config.cap) + mask, axis=-1)
        self.sow('intermediates', 'weights', weights)
        weights = weights.astype(self.dtype)
        mixed = self.einsum('bghts,bsgk->btghk', weights, values, self.dtype)
        mixed = mixed.reshape(b, t, config.heads, config.head_dim)
        return self.out(layers.constrain(mixed, 'batch', 'length', 'heads', 'head_dim'))

    def einsum(self, spec: str, x: jax.Array, y: jax.Array, dtype: layers.Dtype) -> jax.Array:
        """A product of two activations, of type `dtype`."""
        return jnp.einsum(spec, x, y, preferred_element_type=dtype)


def pattern(depth: int, every: int) -> tuple[int, ...]:
    """Which layers are GLOBAL: each `every`-th; all if it is 1."""
    return tuple(GLOBAL if (i + 1) % every == 0 else LOCAL for i in range(depth))


def global_layers(depth: int, every: int) -> np.ndarray:
    """Whether each layer is GLOBAL, bool [L]."""
    return np.array(pattern(depth, every)) == GLOBAL


def window(queries: jax.Array, keys: jax.Array, left: int, right: int) -> jax.Array:
    """Mask float32 [T, S]: a query sees less than `left` keys before it and `right` behind it."""
    before = queries[:, None] - keys[None, :]
    seen = jnp.where(before >= 0, before < left, -before < right)
    return jnp.where(seen, 0.0, layers.NEGATIVE)


def select(is_global: jax.Array, options: tuple[jax.Array, jax.Array]) -> jax.Array:
    """A layer's option, of one for LOCAL and one for GLOBAL layers."""
    return jnp.where(is_global, options[GLOBAL], options[LOCAL])


def as_mask(valid: jax.Array) -> jax.Array:
    """Which keys are no padding, bool [B, S], as a mask float32 [B, 1, 1, 1, S]."""
    return jnp.where(valid, 0.0, layers.NEGATIVE)[:, None, None, None, :]
