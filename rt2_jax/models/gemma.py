"""Gemma's layers, of which PaliGemma's language model and both stacks of T5Gemma 2 are made.

Axes: B batch, T queries, S keys, D width, H heads, G heads of keys and values, K width of a head.

Gemma (arXiv 2403.08295): rotary positions, few heads of keys and values, norms that multiply by
1 + scale. Gemma 2 (2408.00118): norms behind each part too, capped logits, layers that see only a
window. Gemma 3 (2503.19786): normed queries and keys, other wavelengths in windows, no caps.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import heads, layers

LOCAL, GLOBAL = 0, 1


def rotary(x: jax.Array, positions: jax.Array, rates: jax.Array) -> jax.Array:
    """Turns pairs of features by angles that grow with the position (arXiv 2104.09864).

    Args:
      x: [B, T, H, K]; feature i and feature i + K/2 are a pair.
      positions: int32 [B, T] or [T].
      rates: float32 [K/2], radians a position.
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
    """Grouped-query attention: each head of keys and values serves H / G heads of queries.

    Attributes:
      width, heads, kv_heads, head_dim: D, H, G, K.
      scale: factor on the queries.
      qk_norm: whether each head's queries and keys are normed (Gemma 3).
      cap: of the logits (Gemma 2); 0 for none.
    """

    width: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: layers.Dtype
    scale: float
    qk_norm: bool = False
    cap: float = 0.0

    def setup(self):
        q, kv = (self.heads, self.head_dim), (self.kv_heads, self.head_dim)
        self.query = layers.Linear(q, ('embed', 'heads', 'head_dim'), self.dtype)
        self.key = layers.Linear(kv, ('embed', 'kv_heads', 'head_dim'), self.dtype)
        self.value = layers.Linear(kv, ('embed', 'kv_heads', 'head_dim'), self.dtype)
        self.out = layers.Linear(
            (self.width,), ('heads', 'head_dim', 'embed'), self.dtype, contract=2
        )
        if self.qk_norm:
            self.query_norm = layers.RMSNorm(self.dtype, offset=1.0)
            self.key_norm = layers.RMSNorm(self.dtype, offset=1.0)

    def keys_values(
        self, source: jax.Array, turn: tuple[jax.Array, jax.Array] | None
    ) -> tuple[jax.Array, jax.Array]:
        """Keys and values, each [B, S, G, K], of [B, S, D]; `turn` are positions and rates."""
        keys = self.key(source)
        keys = self.key_norm(keys) if self.qk_norm else keys
        keys = rotary(keys, *turn) if turn else keys
        names = 'batch', 'length', 'kv_heads', 'head_dim'
        return layers.boundary(keys, *names), layers.boundary(self.value(source), *names)

    def __call__(
        self,
        x: jax.Array,
        turn: tuple[jax.Array, jax.Array],
        keys_values: tuple[jax.Array, jax.Array],
        *biases: jax.Array,
    ) -> jax.Array:
        """Attends from x [B, T, D] to keys and values [B, S, G, K].

        Args:
          x: what asks.
          turn: positions int32 [B, T] or [T], and `rates`.
          keys_values: what is attended to.
          *biases: float32, each broadcastable to [B, 1, 1, T, S]: masks.

        Returns:
          [B, T, D].
        """
        keys, values = keys_values
        query = self.query(x)
        query = self.query_norm(query) if self.qk_norm else query
        query = rotary(query, *turn) * jnp.asarray(self.scale, self.dtype)
        query = layers.boundary(query, 'batch', 'length', 'heads', 'head_dim')
        b, t = query.shape[:2]
        grouped = query.reshape(b, t, self.kv_heads, -1, self.head_dim)
        product = functools.partial(heads.einsum, self.query)
        logits = product('btghk,bsgk->bghts', grouped, keys, jnp.float32)
        logits = capped(logits, self.cap)
        for bias in biases:
            logits += bias
        weights = jax.nn.softmax(logits, axis=-1)
        self.sow('intermediates', 'weights', weights)
        weights = weights.astype(self.dtype)
        mixed = product('bghts,bsgk->btghk', weights, values, self.dtype)
        mixed = mixed.reshape(b, t, self.heads, self.head_dim)
        return self.out(layers.boundary(mixed, 'batch', 'length', 'heads', 'head_dim'))


def pattern(depth: int, every: int) -> tuple[int, ...]:
    """Which layers are GLOBAL: each `every`-th; all if it is 1."""
    return tuple(GLOBAL if (i + 1) % every == 0 else LOCAL for i in range(depth))


def window(queries: jax.Array, keys: jax.Array, left: int, right: int) -> jax.Array:
    """Mask float32 [T, S]: seen are keys less than `left` before a query and `right` behind it."""
    before = queries[:, None] - keys[None, :]
    seen = jnp.where(before >= 0, before < left, -before < right)
    return jnp.where(seen, 0.0, layers.NEGATIVE)


def chosen(kind: jax.Array, options: Sequence[jax.Array]) -> jax.Array:
    """The option of a layer's kind: what is for LOCAL or for GLOBAL layers."""
    return jnp.where(kind == GLOBAL, options[GLOBAL], options[LOCAL])


def as_mask(valid: jax.Array) -> jax.Array:
    """Which keys there are, bool [B, S], to float32 [B, 1, 1, 1, S]."""
    return jnp.where(valid, 0.0, layers.NEGATIVE)[:, None, None, None, :]
