"""T5Gemma 2 (arXiv 2512.14856): a SigLIP tower and an encoder-decoder, all with one embedding.

Axes: B batch, F frames, H and W pixels, N image tokens a frame, P prompt, T target, S encoder states,
L layers, D width, V vocabulary, C columns of it.

The encoder sees, for each frame, `before_image`, N pooled tokens and `after_image`, then the prompt, as
in transformers' modeling_t5gemma2.py.
"""

from __future__ import annotations

from collections.abc import Mapping
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import embedding, gemma, layers, t5gemma2_stacks, vit
from rt2_jax.models.decode_state import DecodeState


class Embedding(nn.Module):
    """Embeddings times sqrt(D), and one id that has a vector of its own in place of a row.

    Attributes:
        vocab: V.
        width: D.
        dtype: of the vectors.
        own: the id.
    """

    vocab: int
    width: int
    dtype: layers.Dtype
    own: int

    def setup(self) -> None:
        """Makes the table and the vector."""
        self.words = embedding.Embedding(self.vocab, self.width, self.dtype)
        self.vector = self.param(
            'vector',
            layers.with_axes(nn.initializers.zeros, ('vector',)),
            (self.width,),
            jnp.float32,
        )

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Maps int32 [B, T] to [B, T, D]."""
        vectors = self.words.embed(ids) * jnp.asarray(math.sqrt(self.width), self.dtype)
        return jnp.where(ids[..., None] == self.own, self.vector.astype(self.dtype), vectors)

    def logits(self, x: jax.Array, columns: jax.Array | None = None) -> jax.Array:
        """Maps states [..., D] to float32 logits [..., V], or [..., C] for ids int32 [C]."""
        return self.words.logits(x, columns)


class Projection(nn.Module):
    """Image tokens: averaged over squares, normed, and brought to the language model's width.

    Attributes:
        width: D.
        tokens: N.
        dtype: of the product.
    """

    width: int
    tokens: int
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps patches [B, patches, width of the tower] to [B, N, D].

        Raises:
            ValueError: the patches are no square, or not a whole number of squares to average over.
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
    """A `backbone.Backbone` of a ViT and both stacks.

    Attributes:
        vision: fields of `vit.ViTConfig`.
        encoder: fields of `t5gemma2_stacks.StackConfig`.
        decoder: likewise.
        vocab: V.
        dtype: of matrix products.
        image_tokens: N.
        before_image: ids of the tokens before a frame's.
        after_image: ids of the tokens behind them.
        end_of_image: the id with a vector of its own.
        start: id of the token that a target begins with, in place of padding.
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

    def setup(self) -> None:
        """Makes the parts."""
        vision = vit.ViTConfig.parse(self.vision, 'config.model.vision', dtype=self.dtype)
        encoder, decoder = (
            t5gemma2_stacks.StackConfig.parse(fields, f'config.model.{part}', dtype=self.dtype)
            for part, fields in (('encoder', self.encoder), ('decoder', self.decoder))
        )
        self.tower = vit.ViT(vision)
        self.projection = Projection(encoder.width, self.image_tokens, self.dtype)
        self.embedding = Embedding(self.vocab, encoder.width, self.dtype, self.end_of_image)
        self.text_encoder = t5gemma2_stacks.Encoder(encoder)
        self.text_decoder = t5gemma2_stacks.Decoder(decoder)

    def encode(self, images: jax.Array, prompt: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Encodes frames and prompt.

        Args:
            images: uint8 [B, F, H, W, 3].
            prompt: int32 [B, P].

        Returns:
            States [B, S, D], and which of them are no padding, bool [B, S].
        """
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
        return self.text_encoder(layers.constrain(x, 'batch', 'length', 'width'), valid), valid

    def __call__(
        self,
        images: jax.Array,
        prompt: jax.Array,
        target_in: jax.Array,
        columns: jax.Array | None = None,
    ) -> jax.Array:
        """Teacher forcing: logits float32 [B, T, V] or [B, T, C]; see `Backbone`."""
        encoded, valid = self.encode(images, prompt)
        first = jnp.arange(target_in.shape[1]) == 0
        words = self.embedding(jnp.where(first, self.start, target_in))
        logits = self._logits(self.text_decoder(words, encoded, valid), columns)
        return layers.constrain(logits, 'batch', 'length', 'vocab')

    def prefill(self, images: jax.Array, prompt: jax.Array, max_length: int) -> DecodeState:
        """Encodes frames and prompt; see `Backbone`."""
        return self.text_decoder.prefill(*self.encode(images, prompt), max_length)

    def step(
        self, state: DecodeState, token: jax.Array, columns: jax.Array | None = None
    ) -> tuple[jax.Array, DecodeState]:
        """Decodes one token: logits float32 [B, V] or [B, C], and the state; see `Backbone`."""
        token = jnp.where(state.index == 0, self.start, token)
        x, state = self.text_decoder.step(self.embedding(token[:, None]), state)
        return self._logits(x[:, 0], columns), state

    def image_attention(
        self, intermediates: Mapping, images: jax.Array, prompt: jax.Array
    ) -> jax.Array:
        """Attention of the target to the image, [L, B, T, F, rows, columns]; see `Backbone`.

        A part of each place's attention is on the target.
        """
        del prompt
        weights = intermediates['text_decoder']['layers']['mixing']['weights'][0].mean((2, 3))
        shape, frames = weights.shape[:-1], images.shape[1]
        before, side = len(self.before_image), math.isqrt(self.image_tokens)
        length = before + self.image_tokens + len(self.after_image)
        # The target's own tokens come first among the keys.
        weights = weights[..., shape[-1] : shape[-1] + frames * length]
        weights = weights.reshape(*shape, frames, length)[..., before : before + self.image_tokens]
        return weights.reshape(*shape, frames, side, side)

    def _logits(self, x: jax.Array, columns: jax.Array | None = None) -> jax.Array:
        return gemma.capped(self.embedding.logits(x, columns), self.cap)
