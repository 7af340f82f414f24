"""PaLI as a vision-language-action model: a ViT in front of an encoder-decoder.

Image tokens are projected to the language model's width and put before the prompt's embeddings in the
encoder (PaLI, arXiv 2209.06794; PaLI-X, arXiv 2305.18565); text and actions come out of the decoder.

Axes: B batch, F frames, H and W pixels, N image tokens a frame, P prompt, T target, D width,
V vocabulary, C columns of it.
"""

from collections.abc import Mapping
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import embedding, encoder_decoder, layers, vit
from rt2_jax.models.decode_state import DecodeState
from rt2_jax.nearest import check


class PaLI(nn.Module):
    """A `backbone.Backbone` of a ViT and an encoder-decoder.

    Attributes:
        vision: fields of `vit.ViTConfig`.
        encoder: fields of `encoder_decoder.T5Config`.
        decoder: likewise.
        vocab: V.
        dtype: of matrix products.
        positions: what is added to the projected image tokens, 'none' or fixed 'sincos'
            (`vit.with_places`).
        positions_scale: factor on them.
        prompt_positions: factor on a fixed vector of each place, added to the prompt's words; 0 for
            none, as in T5. By the relative bias alone a small model is slow to learn which of two
            names comes first.
        tied: whether the embedding table is the output matrix too, as in T5 1.0, not in 1.1.
        number_line: whether near integers start with near vectors (`embedding.number_line`).
        integers: the token id of each integer 0, 1, ...
    """

    vision: Mapping
    encoder: Mapping
    decoder: Mapping
    vocab: int
    dtype: layers.Dtype = jnp.float32
    positions: str = 'none'
    positions_scale: float = 1.0
    prompt_positions: float = 0.0
    tied: bool = False
    number_line: bool = False
    integers: tuple[int, ...] = ()

    def setup(self) -> None:
        """Makes the parts."""
        check('positions', self.positions, ('none', 'sincos'))
        vision = vit.ViTConfig.parse(self.vision, 'config.model.vision', dtype=self.dtype)
        encoder, decoder = (
            encoder_decoder.T5Config.parse(fields, f'config.model.{part}', dtype=self.dtype)
            for part, fields in (('encoder', self.encoder), ('decoder', self.decoder))
        )
        self.tower = vit.ViT(vision)
        self.projection = layers.Linear((encoder.width,), ('vision', 'embed'), self.dtype)
        self.embedding = embedding.Embedding(
            self.vocab, encoder.width, self.dtype, self.integers if self.number_line else ()
        )
        self.text_encoder = encoder_decoder.Encoder(encoder)
        self.text_decoder = encoder_decoder.Decoder(decoder)
        if not self.tied:
            self.head = embedding.Head(self.vocab, self.dtype)

    def encode(self, images: jax.Array, prompt: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Encodes frames and prompt.

        Args:
            images: uint8 [B, F, H, W, 3].
            prompt: int32 [B, P].

        Returns:
            States [B, F N + P, D], and which of them are no padding, bool [B, F N + P].
        """
        b, f = images.shape[:2]
        tokens = self.projection(self.tower(images.reshape(b * f, *images.shape[2:])))
        if self.positions == 'sincos':
            sides, patch = images.shape[2:4], self.vision['patch']
            tokens = vit.with_places(tokens, sides, patch, self.positions_scale)
        tokens = tokens.reshape(b, -1, tokens.shape[-1])
        words = self.embedding.embed(prompt)
        if self.prompt_positions:
            words = embedding.with_places(words, self.prompt_positions)
        x = layers.constrain(jnp.concatenate([tokens, words], axis=1), 'batch', 'length', 'width')
        valid = jnp.concatenate([jnp.ones(tokens.shape[:2], bool), prompt != 0], axis=1)
        return self.text_encoder(x, valid), valid

    def __call__(
        self,
        images: jax.Array,
        prompt: jax.Array,
        target_in: jax.Array,
        columns: jax.Array | None = None,
    ) -> jax.Array:
        """Teacher forcing: logits float32 [B, T, V] or [B, T, C]; see `Backbone`."""
        encoded, valid = self.encode(images, prompt)
        states = self.text_decoder(self.embedding.embed(target_in), encoded, valid)
        return layers.constrain(self._logits(states, columns), 'batch', 'length', 'vocab')

    def prefill(self, images: jax.Array, prompt: jax.Array, max_length: int) -> DecodeState:
        """Encodes frames and prompt; see `Backbone`."""
        return self.text_decoder.prefill(*self.encode(images, prompt), max_length)

    def step(
        self, state: DecodeState, token: jax.Array, columns: jax.Array | None = None
    ) -> tuple[jax.Array, DecodeState]:
        """Decodes one token: logits float32 [B, V] or [B, C], and the state; see `Backbone`."""
        x, state = self.text_decoder.step(self.embedding.embed(token[:, None]), state)
        return self._logits(x[:, 0], columns), state

    def image_attention(
        self, intermediates: Mapping, images: jax.Array, prompt: jax.Array
    ) -> jax.Array:
        """Attention of the target to the image, [L, B, T, F, rows, columns]; see `Backbone`."""
        weights = intermediates['text_decoder']['layers']['cross_attention']['weights'][0].mean(2)
        grid = images.shape[1], *vit.grid(images.shape[2:4], self.vision['patch'])
        if weights.shape[-1] != math.prod(grid) + prompt.shape[1]:
            raise ValueError(
                f'the decoder attends to {weights.shape[-1]} places, not to {math.prod(grid)} image '
                f'tokens and {prompt.shape[1]} words: this backbone needs an image_attention of its own'
            )
        return weights[..., : math.prod(grid)].reshape(*weights.shape[:-1], *grid)

    def _logits(self, x: jax.Array, columns: jax.Array | None = None) -> jax.Array:
        return self.embedding.logits(x, columns) if self.tied else self.head(x, columns)
