"""T5-family encoder-decoder (arXiv 1910.10683, v1.1: gated hidden layer, untied output).

Axes: B batch, T queries, S keys, L layers, D width, H heads, K width of a head, V vocabulary.

`scale` multiplies the attention logits. T5 has none (1.0), which suits Adafactor's steps relative to
the size of a parameter; with Adam's absolute steps, small query kernels and no scale, attention is
thrown about and nothing is learnt: use 1 / sqrt(K).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import layers, stacks


class EncoderLayer(nn.Module):
    """Bidirectional self-attention and a gated hidden layer, both pre-norm."""

    width: int
    heads: int
    head_dim: int
    mlp: int
    dtype: layers.Dtype
    scale: float = 1.0
    activation: str = 'gelu'

    @nn.compact
    def __call__(self, x, cache, bias, mask):
        attention = layers.Attention(
            self.width, self.heads, self.head_dim, self.dtype, scale=self.scale, name='attention'
        )
        y = layers.RMSNorm(self.dtype, name='attention_norm')(x)
        x += attention(y, attention.keys_values(y), bias, mask)
        x += layers.GatedMLP(self.mlp, self.dtype, self.activation, name='mlp')(
            layers.RMSNorm(self.dtype, name='mlp_norm')(x)
        )
        return layers.boundary(x, 'batch', 'length', 'width'), cache


class Encoder(nn.Module):
    """Embedded inputs -> states."""

    width: int
    depth: int
    heads: int
    head_dim: int
    mlp: int
    dtype: layers.Dtype
    scale: float = 1.0
    activation: str = 'gelu'
    remat: str = 'none'
    unroll: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array) -> jax.Array:
        """Maps [B, S, D] to [B, S, D]; positions where valid [B, S] is False are not attended to."""
        positions = jnp.arange(x.shape[1])
        bias = layers.RelativeBias(self.heads, bidirectional=True, name='relative_bias')(
            positions, positions
        )
        x, _ = stacks.stack(
            EncoderLayer,
            self.depth,
            self.remat,
            self.unroll,
            width=self.width,
            heads=self.heads,
            head_dim=self.head_dim,
            mlp=self.mlp,
            dtype=self.dtype,
            scale=self.scale,
            activation=self.activation,
            name='layers',
        )(x, None, bias, _mask(valid))
        return layers.RMSNorm(self.dtype, name='norm')(x)


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder and a gated hidden layer, all pre-norm."""

    width: int
    heads: int
    head_dim: int
    mlp: int
    dtype: layers.Dtype
    scale: float = 1.0
    activation: str = 'gelu'

    def setup(self):
        attention = (self.width, self.heads, self.head_dim, self.dtype, self.scale)
        self.self_attention = layers.Attention(*attention)
        self.cross_attention = layers.Attention(*attention)
        self.mlp_block = layers.GatedMLP(self.mlp, self.dtype, self.activation)
        self.self_norm = layers.RMSNorm(self.dtype)
        self.cross_norm = layers.RMSNorm(self.dtype)
        self.mlp_norm = layers.RMSNorm(self.dtype)

    def __call__(self, x, cache, encoded, index, self_bias, cross_bias):
        """One of three passes, told apart by what is there.

        With no cache, all of the target at once. With a cache and `encoded`, only the keys and
        values of the encoder's states are put into the cache. With a cache alone, one token.
        """
        if cache is not None and encoded is not None:
            keys, values = self.cross_attention.keys_values(encoded)
            keys, values = jnp.einsum('bshk->bhks', keys), jnp.einsum('bshk->bhsk', values)
            return x, cache | {'cross_keys': keys, 'cross_values': values}
        y = self.self_norm(x)
        keys, values = self.self_attention.keys_values(y)
        if cache is not None:
            keys = jax.lax.dynamic_update_slice_in_dim(cache['keys'], keys, index, axis=1)
            values = jax.lax.dynamic_update_slice_in_dim(cache['values'], values, index, axis=1)
            cache = cache | {'keys': keys, 'values': values}
            # As the products of a step take them: else each step would turn them over again.
            cross, form = (cache['cross_keys'], cache['cross_values']), 'bhks bhsk'
        else:
            cross, form = self.cross_attention.keys_values(encoded), 'bshk bshk'
        x += self.self_attention(y, (keys, values), self_bias)
        x += self.cross_attention(self.cross_norm(x), cross, cross_bias, form=form)
        x += self.mlp_block(self.mlp_norm(x))
        return layers.boundary(x, 'batch', 'length', 'width'), cache


class Decoder(nn.Module):
    """Embedded targets and encoder states -> states, all at once or token by token."""

    width: int
    depth: int
    heads: int
    head_dim: int
    mlp: int
    dtype: layers.Dtype
    scale: float = 1.0
    activation: str = 'gelu'
    remat: str = 'none'
    unroll: int = 1

    def setup(self):
        self.relative_bias = layers.RelativeBias(self.heads, bidirectional=False)
        self.layers = stacks.stack(
            DecoderLayer,
            self.depth,
            self.remat,
            self.unroll,
            width=self.width,
            heads=self.heads,
            head_dim=self.head_dim,
            mlp=self.mlp,
            dtype=self.dtype,
            scale=self.scale,
            activation=self.activation,
        )
        self.norm = layers.RMSNorm(self.dtype)

    def __call__(self, x: jax.Array, encoded: jax.Array, valid: jax.Array) -> jax.Array:
        """Teacher forcing: x [B, T, D] and encoder states [B, S, D], valid [B, S], to [B, T, D]."""
        positions = jnp.arange(x.shape[1])
        causal = jnp.where(positions[None, :] <= positions[:, None], 0.0, layers.NEGATIVE)
        bias = self.relative_bias(positions, positions) + causal
        x, _ = self.layers(x, None, encoded, None, bias, _mask(valid))
        return self.norm(x)

    def prefill(self, encoded: jax.Array, valid: jax.Array, max_length: int) -> dict:
        """Returns the cache of up to `max_length` tokens for encoder states [B, S, D]."""
        b = encoded.shape[0]
        empty = jnp.zeros((self.depth, b, max_length, self.heads, self.head_dim), self.dtype)
        nothing = jnp.zeros((b, 1, self.width), self.dtype)
        cache = {'keys': empty, 'values': empty}
        _, cache = self.layers(nothing, cache, encoded, None, None, None)
        return {'layers': cache, 'valid': valid, 'index': jnp.zeros((), jnp.int32)}

    def step(self, x: jax.Array, cache: dict) -> tuple[jax.Array, dict]:
        """One token x [B, 1, D] at the cache's next place; returns states [B, 1, D] and the cache."""
        index = cache['index']
        positions = jnp.arange(stacks.places(cache['layers']))
        bias = self.relative_bias(index[None], positions)
        bias += jnp.where(positions <= index, 0.0, layers.NEGATIVE)
        x, inner = self.layers(x, cache['layers'], None, index, bias, _mask(cache['valid']))
        return self.norm(x), cache | {'layers': inner, 'index': index + 1}


def _mask(valid: jax.Array) -> jax.Array:
    return jnp.where(valid, 0.0, layers.NEGATIVE)[:, None, None, :]
