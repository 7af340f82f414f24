"""T5Gemma 2's encoder and decoder (arXiv 2512.14856), of Gemma 3's layers.

Axes: B batch, T target, S encoder states, L layers, D width, G heads of keys and values, K width of a
head.

A decoder layer has one attention for both the target so far and the encoder's states, as in
transformers' modeling_t5gemma2.py.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import gemma, layers, stacks
from rt2_jax.models.decode_state import DecodeState, LayerCache, cache_length

Pair = tuple[jax.Array, jax.Array]  # of something, for local and for global layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackConfig(stacks.StackConfig):
    """An encoder or a decoder.

    Attributes:
        attention: of each layer.
        every: each how-many-eth layer is global.
        window: tokens that the others see.
        bases: of the rotary rates, local and global.
        stretches: how much slower they turn, local and global.
    """

    attention: gemma.AttentionConfig
    every: int = 6
    window: int = 512
    bases: tuple[float, float] = (10_000.0, 1_000_000.0)
    stretches: tuple[float, float] = (1.0, 1.0)

    def rates(self) -> Pair:
        """Rotary rates, float32 [K/2]."""
        local, far = (
            gemma.rates(self.attention.head_dim, base, stretch)
            for base, stretch in zip(self.bases, self.stretches)
        )
        return local, far

    def global_layers(self) -> jax.Array:
        """Whether each layer is global, bool [L]."""
        return jnp.asarray(gemma.global_layers(self.depth, self.every))


class Parts(nn.Module):
    """What a layer of either stack has: attention and a hidden layer, each between two norms."""

    config: StackConfig

    def setup(self) -> None:
        """Makes both parts and the four norms."""
        config = self.config
        self.mixing = gemma.Attention(config.attention, config.width, config.dtype)
        self.mlp_block = layers.GatedMLP(config.mlp, config.dtype)
        self.attention_norm = layers.RMSNorm(config.dtype, offset=1.0)
        self.attention_out_norm = layers.RMSNorm(config.dtype, offset=1.0)
        self.mlp_norm = layers.RMSNorm(config.dtype, offset=1.0)
        self.mlp_out_norm = layers.RMSNorm(config.dtype, offset=1.0)

    def _add(self, x: jax.Array, mixed: jax.Array) -> jax.Array:
        """Adds attention and hidden layer to x."""
        x += self.attention_out_norm(mixed)
        x += self.mlp_out_norm(self.mlp_block(self.mlp_norm(x)))
        return layers.constrain(x, 'batch', 'length', 'width')


class EncoderLayer(Parts):
    """Attention in both directions."""

    def __call__(
        self, x: jax.Array, is_global: jax.Array, positions: jax.Array, rates: Pair, masks: Pair
    ) -> tuple[jax.Array, None]:
        """Maps [B, S, D] to [B, S, D], with masks [B, 1, 1, S, S]."""
        turn = positions, gemma.select(is_global, rates)
        y = self.attention_norm(x)
        keys_values = self.mixing.keys_values(y, turn)
        mask = gemma.select(is_global, masks)
        return self._add(x, self.mixing(y, turn, keys_values, mask)), None


class DecoderLayer(Parts):
    """Attention to the target so far and, without positions, to the encoder's states."""

    def attend(
        self,
        x: jax.Array,
        is_global: jax.Array,
        encoded: jax.Array,
        positions: jax.Array,
        rates: Pair,
        masks: Pair,
        cross_mask: jax.Array,
    ) -> tuple[jax.Array, None]:
        """All of the target at once: x [B, T, D] to [B, T, D].

        Args:
            x: states.
            is_global: bool [], of this layer.
            encoded: the encoder's states [B, S, D].
            positions: int32 [T].
            rates: float32 [K/2] each.
            masks: float32 [1, 1, 1, T, T] each.
            cross_mask: float32 [B, 1, 1, 1, S].
        """
        turn = positions, gemma.select(is_global, rates)
        y = self.attention_norm(x)
        own = self.mixing.keys_values(y, turn)
        both = _join(own, self.mixing.keys_values(encoded, None))
        mask = _join_masks(gemma.select(is_global, masks), cross_mask)
        return self._add(x, self.mixing(y, turn, both, mask)), None

    def prefill(self, x: None, cache: LayerCache, encoded: jax.Array) -> tuple[None, LayerCache]:
        """Puts keys and values of the encoder's states [B, S, D] into the cache."""
        keys, values = self.mixing.keys_values(encoded, None)
        return x, dataclasses.replace(cache, cross_keys=keys, cross_values=values)

    def step(
        self,
        x: jax.Array,
        cache: LayerCache,
        index: jax.Array,
        positions: jax.Array,
        rates: Pair,
        masks: Pair,
        cross_mask: jax.Array,
    ) -> tuple[jax.Array, LayerCache]:
        """One token x [B, 1, D] at the cache's place `index`, int32 []; the rest as in `attend`."""
        turn = positions, gemma.select(cache.is_global, rates)
        y = self.attention_norm(x)
        cache = cache.write(*self.mixing.keys_values(y, turn), index)
        both = _join((cache.keys, cache.values), cache.cross)
        mask = _join_masks(gemma.select(cache.is_global, masks), cross_mask)
        return self._add(x, self.mixing(y, turn, both, mask)), cache


def _join(own: Pair, cross: Pair) -> Pair:
    """Keys and values of the target, then of the encoder, along their length."""
    keys, values = (jnp.concatenate(pair, axis=1) for pair in zip(own, cross))
    return keys, values


def _join_masks(own: jax.Array, cross: jax.Array) -> jax.Array:
    """Masks of both, along the keys."""
    shape = jnp.broadcast_shapes(own.shape[:-1], cross.shape[:-1])
    return jnp.concatenate(
        [jnp.broadcast_to(mask, (*shape, mask.shape[-1])) for mask in (own, cross)], axis=-1
    )


class Encoder(nn.Module):
    """Embedded inputs -> states."""

    config: StackConfig

    def setup(self) -> None:
        """Makes the layers and the last norm."""
        self.layers = stacks.stack(EncoderLayer, self.config, broadcast={'__call__': 3})
        self.norm = layers.RMSNorm(self.config.dtype, offset=1.0)

    def __call__(self, x: jax.Array, valid: jax.Array) -> jax.Array:
        """Maps [B, S, D] to [B, S, D]; what valid, bool [B, S], leaves out is not attended to."""
        config = self.config
        positions = jnp.arange(x.shape[1])
        left, right = (config.window + 1) // 2, config.window // 2 + 1
        mask = gemma.as_mask(valid)
        local = mask + gemma.window(positions, positions, left, right)
        masks = local, jnp.broadcast_to(mask, local.shape)
        x, _ = self.layers(x, config.global_layers(), positions, config.rates(), masks)
        return self.norm(x)


class Decoder(nn.Module):
    """Embedded targets and encoder states -> states, all at once or token by token."""

    config: StackConfig

    def setup(self) -> None:
        """Makes the layers and the last norm."""
        self.layers = stacks.stack(
            DecoderLayer, self.config, broadcast={'attend': 5, 'prefill': 1, 'step': 5}
        )
        self.norm = layers.RMSNorm(self.config.dtype, offset=1.0)

    def __call__(self, x: jax.Array, encoded: jax.Array, valid: jax.Array) -> jax.Array:
        """Teacher forcing: x [B, T, D] and encoder states [B, S, D], valid [B, S], to [B, T, D]."""
        config, positions = self.config, jnp.arange(x.shape[1])
        masks, cross_mask = self._masks(positions, positions), gemma.as_mask(valid)
        x, _ = self.layers.attend(
            x, config.global_layers(), encoded, positions, config.rates(), masks, cross_mask
        )
        return self.norm(x)

    def prefill(self, encoded: jax.Array, valid: jax.Array, max_length: int) -> DecodeState:
        """The state before the first of up to `max_length` tokens, for encoder states [B, S, D]."""
        config, heads = self.config, self.config.attention
        shape = (config.depth, encoded.shape[0], max_length, heads.kv_heads, heads.head_dim)
        empty = jnp.zeros(shape, config.dtype)
        cache = LayerCache(empty, empty, is_global=config.global_layers())
        _, cache = self.layers.prefill(None, cache, encoded)
        return DecodeState(cache, valid, jnp.zeros((), jnp.int32))

    def step(self, x: jax.Array, state: DecodeState) -> tuple[jax.Array, DecodeState]:
        """One token x [B, 1, D]; returns states [B, 1, D] and the state after it."""
        query = state.index[None]
        masks = self._masks(query, jnp.arange(cache_length(state.cache)))
        x, cache = self.layers.step(
            x, state.cache, state.index, query, self.config.rates(), masks,
            gemma.as_mask(state.valid),
        )  # fmt: skip
        return self.norm(x), state.next(cache)

    def _masks(self, queries: jax.Array, keys: jax.Array) -> Pair:
        local, far = (
            gemma.window(queries, keys, left, 0)[None, None, None]
            for left in (self.config.window, 1 << 30)
        )
        return local, far
