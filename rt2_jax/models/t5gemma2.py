"""T5Gemma 2 (arXiv 2512.14856): a SigLIP tower and two stacks of Gemma 3's layers, all words tied.

Axes: B batch, F frames, N image tokens a frame, P prompt, S keys of the encoder, T target, D width,
L layers, G heads of keys and values, K width of a head, V vocabulary.

The encoder sees, for each frame, `before_image`, N pooled tokens and `after_image`, then the prompt. A
decoder layer has one attention for both the target so far and the encoder's states. As transformers'
modeling_t5gemma2.py computes it.
"""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import gemma, layers, stacks, vit
from rt2_jax.models.gemma import GLOBAL, LOCAL
from rt2_jax.models.parts import part


class EncoderLayer(nn.Module):
    """Attention in both directions and a gated hidden layer, each between two norms.

    `attention` holds the attributes of `gemma.Attention`.
    """

    width: int
    mlp: int
    dtype: layers.Dtype
    attention: Mapping[str, Any]

    def setup(self):
        self.mixing = gemma.Attention(self.width, dtype=self.dtype, **self.attention)
        self.mlp_block = layers.GatedMLP(self.mlp, self.dtype)
        names = ('attention_norm', 'attention_out_norm', 'mlp_norm', 'mlp_out_norm')
        for name in names:
            setattr(self, name, layers.RMSNorm(self.dtype, offset=1.0))

    def __call__(self, x, cache, positions, rates, masks):
        turn = positions, gemma.chosen(cache['kind'], rates)
        y = self.attention_norm(x)
        y = self.mixing(
            y, turn, self.mixing.keys_values(y, turn), gemma.chosen(cache['kind'], masks)
        )
        x += self.attention_out_norm(y)
        x += self.mlp_out_norm(self.mlp_block(self.mlp_norm(x)))
        return layers.boundary(x, 'batch', 'length', 'width'), cache


class DecoderLayer(EncoderLayer):
    """The same with the encoder's states among what is attended to; they are not turned."""

    def __call__(self, x, cache, encoded, index, positions, rates, masks, mask):
        """One of three passes, told apart by what is there.

        With `encoded` and no `index`, all of the target at once, or, where x is None, only the keys and
        values of the encoder's states into the cache. With an `index`, one token.
        """
        if x is None:
            keys, values = self.mixing.keys_values(encoded, None)
            return x, cache | {'cross_keys': keys, 'cross_values': values}
        turn = positions, gemma.chosen(cache['kind'], rates)
        y = self.attention_norm(x)
        keys, values = self.mixing.keys_values(y, turn)
        if index is not None:
            keys = jax.lax.dynamic_update_slice_in_dim(cache['keys'], keys, index, axis=1)
            values = jax.lax.dynamic_update_slice_in_dim(cache['values'], values, index, axis=1)
            cache = cache | {'keys': keys, 'values': values}
            cross = cache['cross_keys'], cache['cross_values']
        else:
            cross = self.mixing.keys_values(encoded, None)
        both = (
            jnp.concatenate([keys, cross[0]], axis=1),
            jnp.concatenate([values, cross[1]], axis=1),
        )
        seen = gemma.chosen(cache['kind'], masks)
        shape = (*jnp.broadcast_shapes(seen.shape[:-1], mask.shape[:-1]), -1)
        bias = jnp.concatenate(
            [jnp.broadcast_to(m, (*shape[:-1], m.shape[-1])) for m in (seen, mask)], axis=-1
        )
        x += self.attention_out_norm(self.mixing(y, turn, both, bias))
        x += self.mlp_out_norm(self.mlp_block(self.mlp_norm(x)))
        return layers.boundary(x, 'batch', 'length', 'width'), cache


class Stack(nn.Module):
    """What both stacks share. Attributes as in the config.

    Attributes:
      width, depth, mlp: D, L and the hidden layer's width.
      attention: attributes of `gemma.Attention`.
      every: each how-many-eth layer is global; the others see only a window of `window` tokens.
      bases, stretches: of the rotary rates, local and global.
    """

    width: int
    depth: int
    mlp: int
    dtype: layers.Dtype
    attention: Mapping[str, Any]
    every: int = 6
    window: int = 512
    bases: tuple[float, float] = (10_000.0, 1_000_000.0)
    stretches: tuple[float, float] = (1.0, 1.0)
    remat: str = 'none'
    unroll: int = 1

    layer = EncoderLayer

    def setup(self):
        self.layers = stacks.stack(
            self.layer,
            self.depth,
            self.remat,
            self.unroll,
            width=self.width,
            mlp=self.mlp,
            dtype=self.dtype,
            attention=self.attention,
        )
        self.norm = layers.RMSNorm(self.dtype, offset=1.0)

    def kinds(self) -> dict[str, jax.Array]:
        """What each layer is, [L]."""
        return {'kind': jnp.asarray(gemma.pattern(self.depth, self.every))}

    def rates(self) -> tuple[jax.Array, jax.Array]:
        """Rotary rates of local and of global layers."""
        size = self.attention['head_dim']
        return tuple(gemma.rates(size, *each) for each in zip(self.bases, self.stretches))


class Encoder(Stack):
    """Embedded inputs -> states."""

    def __call__(self, x: jax.Array, valid: jax.Array) -> jax.Array:
        """Maps [B, S, D] to [B, S, D]; positions where valid [B, S] is False are not attended to."""
        positions = jnp.arange(x.shape[1])
        left, right = (self.window + 1) // 2, self.window // 2 + 1
        mask = gemma.as_mask(valid)
        masks = {LOCAL: mask + gemma.window(positions, positions, left, right), GLOBAL: mask}
        shape = masks[LOCAL].shape
        masks = masks[LOCAL], jnp.broadcast_to(masks[GLOBAL], shape)
        x, _ = self.layers(x, self.kinds(), positions, self.rates(), masks)
        return self.norm(x)


class Decoder(Stack):
    """Embedded targets and encoder states -> states, all at once or token by token."""

    layer = DecoderLayer

    def __call__(self, x: jax.Array, encoded: jax.Array, valid: jax.Array) -> jax.Array:
        """Teacher forcing: x [B, T, D] and encoder states [B, S, D], valid [B, S], to [B, T, D]."""
        positions = jnp.arange(x.shape[1])
        masks = self._masks(positions, positions)
        x, _ = self.layers(
            x, self.kinds(), encoded, None, positions, self.rates(), masks, gemma.as_mask(valid)
        )
        return self.norm(x)

    def prefill(self, encoded: jax.Array, valid: jax.Array, max_length: int) -> dict:
        """Returns the cache of up to `max_length` tokens for encoder states [B, S, D]."""
        size = self.attention['kv_heads'], self.attention['head_dim']
        empty = jnp.zeros((self.depth, encoded.shape[0], max_length, *size), self.dtype)
        cache = self.kinds() | {'keys': empty, 'values': empty}
        _, cache = self.layers(None, cache, encoded, None, None, None, None, None)
        return {'layers': cache, 'valid': valid, 'index': jnp.zeros((), jnp.int32)}

    def step(self, x: jax.Array, cache: dict) -> tuple[jax.Array, dict]:
        """One token x [B, 1, D] at the cache's next place; returns states [B, 1, D] and the cache."""
        index, places = cache['index'], jnp.arange(stacks.places(cache['layers']))
        x, inner = self.layers(
            x, cache['layers'], None, index, index[None], self.rates(),
            self._masks(index[None], places), gemma.as_mask(cache['valid']),
        )  # fmt: skip
        return self.norm(x), cache | {'layers': inner, 'index': index + 1}

    def _masks(self, queries: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        far = 1 << 30
        return tuple(
            gemma.window(queries, keys, left, 0)[None, None, None] for left in (self.window, far)
        )


class Words(nn.Module):
    """Word vectors times sqrt(D), and one that has a vector of its own in the place of a word's."""

    vocab: int
    width: int
    dtype: layers.Dtype
    own: int

    def setup(self):
        self.words = layers.WordVectors(self.vocab, self.width, self.dtype)
        self.vector = self.param(
            'vector',
            nn.with_logical_partitioning(nn.initializers.zeros, ('vector',)),
            (self.width,),
            jnp.float32,
        )

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Maps int32 [B, T] to [B, T, D]."""
        vectors = self.words.looked_up(ids) * jnp.asarray(math.sqrt(self.width), self.dtype)
        return jnp.where(ids[..., None] == self.own, self.vector.astype(self.dtype), vectors)

    def attend(self, x: jax.Array, columns: jax.Array | None = None) -> jax.Array:
        """Maps states [..., D] to float32 logits [..., V], or [..., C] of the ids int32 [C]."""
        return self.words.attend(x, columns)


class Projection(nn.Module):
    """Image tokens: averaged over squares, normed, and brought to the language model's width."""

    width: int
    tokens: int
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, N, D of the tower] to [B, tokens, D].

        Raises:
          ValueError: N are no square, or not a whole number of squares to average over.
        """
        b, n, d = x.shape
        side, pooled = math.isqrt(n), math.isqrt(self.tokens)
        if side * side != n or side % pooled:
            raise ValueError(
                f'{n} patches do not pool to config.model.image_tokens={self.tokens}; take a '
                'config.data.image_size with whole squares of patches'
            )
        x = x.reshape(b, pooled, side // pooled, pooled, side // pooled, d).mean((2, 4))
        x = layers.RMSNorm(self.dtype, offset=1.0, name='norm')(x.reshape(b, self.tokens, d))
        return layers.Linear((self.width,), ('vision', 'embed'), self.dtype, name='linear')(x)


class T5Gemma2(nn.Module):
    """The whole model, with the interface of `pali.PaLI`.

    Attributes:
      vision, encoder, decoder: attributes of `vit.ViT`, `Encoder` and `Decoder`.
      vocab: number of tokens V.
      dtype: what matrix products are computed in.
      image_tokens: N, of a frame.
      before_image, after_image: ids of the tokens around a frame's.
      end_of_image: the id with a vector of its own.
      start: id of the token that a target begins with, in the place of padding.
      cap: of the logits; 0 for none.
    """

    vision: Mapping
    encoder: Mapping
    decoder: Mapping
    vocab: int
    dtype: layers.Dtype = jnp.float32
    image_tokens: int = 256
    before_image: tuple[int, ...] = (2, 108, 255_999)
    after_image: tuple[int, ...] = (256_000, 108)
    end_of_image: int = 256_000
    start: int = 2
    cap: float = 0.0

    def setup(self):
        width = self.encoder['width']
        self.tower = part(vit.ViT, self.vision, 'config.model.vision', dtype=self.dtype)
        self.projection = Projection(width, self.image_tokens, self.dtype)
        self.embedding = Words(self.vocab, width, self.dtype, self.end_of_image)
        self.text_encoder = part(Encoder, self.encoder, 'config.model.encoder', dtype=self.dtype)
        self.text_decoder = part(Decoder, self.decoder, 'config.model.decoder', dtype=self.dtype)

    def encode(self, images: jax.Array, prompt: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns encoder states [B, S, D] and which of them are valid, bool [B, S]."""
        b, f = images.shape[:2]
        tokens = self.projection(self.tower(images.reshape(b * f, *images.shape[2:])))
        tokens = tokens.reshape(b, f, self.image_tokens, -1)
        before, after = (
            self.embedding(jnp.tile(jnp.asarray(ids, jnp.int32), (b, f))).reshape(
                b, f, len(ids), -1
            )
            for ids in (self.before_image, self.after_image)
        )
        frames = jnp.concatenate([before, tokens, after], axis=2).reshape(b, -1, tokens.shape[-1])
        x = jnp.concatenate([frames, self.embedding(prompt)], axis=1)
        valid = jnp.concatenate([jnp.ones(frames.shape[:2], bool), prompt != 0], axis=1)
        return self.text_encoder(layers.boundary(x, 'batch', 'length', 'width'), valid), valid

    def __call__(self, images: jax.Array, prompt: jax.Array, target_in: jax.Array) -> jax.Array:
        """Teacher forcing; see `pali.PaLI`."""
        encoded, valid = self.encode(images, prompt)
        first = jnp.arange(target_in.shape[1]) == 0
        words = self.embedding(jnp.where(first, self.start, target_in))
        logits = self._logits(self.text_decoder(words, encoded, valid))
        return layers.boundary(logits, 'batch', 'length', 'vocab')

    def prefill(self, images: jax.Array, prompt: jax.Array, max_length: int) -> dict:
        """Encodes images and prompt into a cache for `step`; see `pali.PaLI`."""
        return self.text_decoder.prefill(*self.encode(images, prompt), max_length)

    def step(
        self, cache: dict, token: jax.Array, columns: jax.Array | None = None
    ) -> tuple[jax.Array, dict]:
        """Decodes one token; see `pali.PaLI`."""
        token = jnp.where(cache['index'] == 0, self.start, token)
        x, cache = self.text_decoder.step(self.embedding(token[:, None]), cache)
        return self._logits(x[:, 0], columns), cache

    def image_attention(self, left: Mapping, images: jax.Array, prompt: jax.Array) -> jax.Array:
        """Where each place of the target looked; see `pali.PaLI`. A part of each look is at the target."""
        del prompt
        weights = left['text_decoder']['layers']['mixing']['weights'][0].mean((2, 3))
        shape, frames = weights.shape[:-1], images.shape[1]
        before, side = len(self.before_image), math.isqrt(self.image_tokens)
        length = before + self.image_tokens + len(self.after_image)
        # The target's own tokens come first among the keys.
        weights = weights[..., shape[-1] : shape[-1] + frames * length]
        weights = weights.reshape(*shape, frames, length)[..., before : before + self.image_tokens]
        return weights.reshape(*shape, frames, side, side)

    def _logits(self, x: jax.Array, columns: jax.Array | None = None) -> jax.Array:
        return gemma.capped(self.embedding.attend(x, columns), self.cap)
