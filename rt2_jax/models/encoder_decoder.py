"""T5-family encoder-decoder (arXiv 1910.10683, v1.1: gated hidden layer, untied output).

Axes: B batch, T target, S encoder states, L layers, D width, H heads, K width of a head.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import layers, stacks
from rt2_jax.models.decode_state import DecodeState, LayerCache, cache_length


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config(stacks.StackConfig):
    """An encoder or a decoder.

    Attributes:
        heads: H.
        head_dim: K.
        scale: of the attention logits. T5 has none (1.0), which suits Adafactor's steps relative to
            the size of a parameter; with Adam's absolute steps, small query kernels and no scale,
            attention is thrown about and nothing is learnt: use 1 / sqrt(K).
        activation: of `layers.ACTIVATIONS`.
    """

    heads: int
    head_dim: int
    scale: float = 1.0
    activation: str = 'gelu'

    def attention(self, name: str | None = None) -> layers.Attention:
        """An attention of this stack; `name` as in `nn.compact`."""
        return layers.Attention(
            self.width, self.heads, self.head_dim, self.dtype, self.scale, name=name
        )

    def gated_mlp(self, name: str | None = None) -> layers.GatedMLP:
        """A hidden layer of this stack; `name` as in `nn.compact`."""
        return layers.GatedMLP(self.mlp, self.dtype, self.activation, name=name)


class EncoderLayer(nn.Module):
    """Bidirectional self-attention and a gated hidden layer, both pre-norm."""

    config: T5Config

    @nn.compact
    def __call__(
        self, x: jax.Array, scanned: None, bias: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, None]:
        """Maps [B, S, D] to [B, S, D], with biases [1, H, S, S] and [B, 1, 1, S]."""
        config = self.config
        attention = config.attention('attention')
        y = layers.RMSNorm(config.dtype, name='attention_norm')(x)
        x += attention(y, attention.keys_values(y), bias, mask)
        y = layers.RMSNorm(config.dtype, name='mlp_norm')(x)
        x += config.gated_mlp('mlp')(y)
        return layers.constrain(x, 'batch', 'length', 'width'), scanned


class Encoder(nn.Module):
    """Embedded inputs -> states."""

    config: T5Config

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array) -> jax.Array:
        """Maps [B, S, D] to [B, S, D]; what valid, bool [B, S], leaves out is not attended to."""
        config = self.config
        positions = jnp.arange(x.shape[1])
        bias = layers.RelativeBias(config.heads, bidirectional=True, name='relative_bias')(
            positions, positions
        )
        stack = stacks.stack(EncoderLayer, config, broadcast={'__call__': 2}, name='layers')
        x, _ = stack(x, None, bias, _mask(valid))
        return layers.RMSNorm(config.dtype, name='norm')(x)


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder and a gated hidden layer, all pre-norm."""

    config: T5Config

    def setup(self) -> None:
        """Makes the three parts and their norms."""
        config = self.config
        self.self_attention = config.attention()
        self.cross_attention = config.attention()
        self.mlp_block = config.gated_mlp()
        self.self_norm = layers.RMSNorm(config.dtype)
        self.cross_norm = layers.RMSNorm(config.dtype)
        self.mlp_norm = layers.RMSNorm(config.dtype)

    def attend(
        self,
        x: jax.Array,
        scanned: None,
        encoded: jax.Array,
        self_bias: jax.Array,
        cross_bias: jax.Array,
    ) -> tuple[jax.Array, None]:
        """All of the target at once: x [B, T, D] and encoder states [B, S, D] to [B, T, D]."""
        y = self.self_norm(x)
        x += self.self_attention(y, self.self_attention.keys_values(y), self_bias)
        cross = self.cross_attention.keys_values(encoded)
        x += self.cross_attention(self.cross_norm(x), cross, cross_bias)
        return self._mlp(x), scanned

    def prefill(
        self, x: jax.Array, cache: LayerCache, encoded: jax.Array
    ) -> tuple[jax.Array, LayerCache]:
        """Puts keys and values of the encoder's states [B, S, D] into the cache."""
        keys, values = self.cross_attention.keys_values(encoded)
        # The layouts that the products of a step read: else each step would transpose them again.
        keys, values = jnp.einsum('bshk->bhks', keys), jnp.einsum('bshk->bhsk', values)
        return x, dataclasses.replace(cache, cross_keys=keys, cross_values=values)

    def step(
        self,
        x: jax.Array,
        cache: LayerCache,
        index: jax.Array,
        self_bias: jax.Array,
        cross_bias: jax.Array,
    ) -> tuple[jax.Array, LayerCache]:
        """One token x [B, 1, D] at the cache's place `index`, int32 []."""
        y = self.self_norm(x)
        cache = cache.write(*self.self_attention.keys_values(y), index)
        x += self.self_attention(y, (cache.keys, cache.values), self_bias)
        x += self.cross_attention(
            self.cross_norm(x), cache.cross, cross_bias, layouts=('bhks', 'bhsk')
        )
        return self._mlp(x), cache

    def _mlp(self, x: jax.Array) -> jax.Array:
        x += self.mlp_block(self.mlp_norm(x))
        return layers.constrain(x, 'batch', 'length', 'width')


class Decoder(nn.Module):
    """Embedded targets and encoder states -> states, all at once or token by token."""

    config: T5Config

    def setup(self) -> None:
        """Makes the layers, the position bias that they share, and the last norm."""
        config = self.config
        self.relative_bias = layers.RelativeBias(config.heads, bidirectional=False)
        self.layers = stacks.stack(
            DecoderLayer, config, broadcast={'attend': 3, 'prefill': 1, 'step': 3}
        )
        self.norm = layers.RMSNorm(config.dtype)

    def __call__(self, x: jax.Array, encoded: jax.Array, valid: jax.Array) -> jax.Array:
        """Teacher forcing: x [B, T, D] and encoder states [B, S, D], valid [B, S], to [B, T, D]."""
        positions = jnp.arange(x.shape[1])
        causal = jnp.where(positions[None, :] <= positions[:, None], 0.0, layers.NEGATIVE)
        bias = self.relative_bias(positions, positions) + causal
        x, _ = self.layers.attend(x, None, encoded, bias, _mask(valid))
        return self.norm(x)

    def prefill(self, encoded: jax.Array, valid: jax.Array, max_length: int) -> DecodeState:
        """The state before the first of up to `max_length` tokens, for encoder states [B, S, D]."""
        config, batch = self.config, encoded.shape[0]
        shape = (config.depth, batch, max_length, config.heads, config.head_dim)
        empty = jnp.zeros(shape, config.dtype)
        unused = jnp.zeros((batch, 1, config.width), config.dtype)
        _, cache = self.layers.prefill(unused, LayerCache(empty, empty), encoded)
        return DecodeState(cache, valid, jnp.zeros((), jnp.int32))

    def step(self, x: jax.Array, state: DecodeState) -> tuple[jax.Array, DecodeState]:
        """One token x [B, 1, D]; returns states [B, 1, D] and the state after it."""
        index = state.index
        positions = jnp.arange(cache_length(state.cache))
        bias = self.relative_bias(index[None], positions)
        bias += jnp.where(positions <= index, 0.0, layers.NEGATIVE)
        x, cache = self.layers.step(x, state.cache, index, bias, _mask(state.valid))
        return self.norm(x), state.next(cache)


def _mask(valid: jax.Array) -> jax.Array:
    return jnp.where(valid, 0.0, layers.NEGATIVE)[:, None, None, :]
