"""PaLI as a vision-language-action model: a ViT in front of an encoder-decoder.

Image tokens are projected to the language model's width and put before the prompt's embeddings in
the encoder (PaLI, arXiv 2209.06794; PaLI-X, arXiv 2305.18565); text and actions come out of the
decoder. Every backbone has the interface of `PaLI` here, so trainer, sampler and evaluator are one.

Axes: B batch, F frames, N image tokens, P prompt, T target, D width, V vocabulary, C columns.
"""

from collections.abc import Mapping
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import encoder_decoder, layers, rows, vit
from rt2_jax.models.parts import part
from rt2_jax.nearest import check


class Head(nn.Module):
    """States -> logits over the vocabulary, or over a few columns of it."""

    vocab: int
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: jax.Array, columns: jax.Array | None = None) -> jax.Array:
        """Maps [..., D] to float32 [..., V], or [..., C] for columns int32 [C]."""
        stored = rows.of(self)
        if stored is not None:
            stored = stored if columns is None else stored.at(columns)
            return stored.product(x, 1, self.dtype)
        kernel = self.param(
            'kernel',
            nn.with_logical_partitioning(
                nn.initializers.normal(x.shape[-1] ** -0.5), ('embed', 'vocab')
            ),
            (x.shape[-1], self.vocab),
            jnp.float32,
        )
        if columns is not None:
            kernel = kernel[:, columns]
        return jnp.einsum(
            '...d,dv->...v', x, kernel.astype(self.dtype), preferred_element_type=jnp.float32
        )


class PaLI(nn.Module):
    """ViT + encoder-decoder.

    Attributes:
      vision, encoder, decoder: attributes of `vit.ViT`, `encoder_decoder.Encoder` and `.Decoder`.
      vocab: number of tokens V.
      dtype: what matrix products are computed in.
      positions: what is added to the projected image tokens, 'none' or fixed 'sincos'. A tower that
        learnt names alone keeps little of where a thing is.
      positions_scale: factor on them; a trained tower's tokens are larger than 1 a feature.
      prompt_positions: length of the fixed vector that tells a prompt's word its place, added to the
        word's own; 0 for none, as in T5. By the relative bias alone a small model is slow to learn
        which of two names comes first.
      tied: whether the word vectors are the output matrix too, as in T5 1.0, not in 1.1.
      number_line: whether near integers start with near word vectors (`layers.number_line`).
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

    def setup(self):
        check('positions', self.positions, ('none', 'sincos'))
        width = self.encoder['width']
        self.tower = part(vit.ViT, self.vision, 'config.model.vision', dtype=self.dtype)
        self.projection = layers.Linear((width,), ('vision', 'embed'), self.dtype)
        self.embedding = layers.WordVectors(
            self.vocab, width, self.dtype, self.integers if self.number_line else ()
        )
        self.text_encoder = part(
            encoder_decoder.Encoder, self.encoder, 'config.model.encoder', dtype=self.dtype
        )
        self.text_decoder = part(
            encoder_decoder.Decoder, self.decoder, 'config.model.decoder', dtype=self.dtype
        )
        self.head = None if self.tied else Head(self.vocab, self.dtype)

    def encode(self, images: jax.Array, prompt: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns encoder states [B, F N + P, D] and which of them are valid, bool [B, F N + P]."""
        b, f = images.shape[:2]
        tokens = self.projection(self.tower(images.reshape(b * f, *images.shape[2:])))
        if self.positions == 'sincos':
            rows, columns = vit.grid(images.shape[2:4], self.vision['patch'])
            wavelengths = 2.5, 4 * max(rows, columns)
            places = vit.sincos_positions(rows, columns, tokens.shape[-1], wavelengths)
            tokens += self.positions_scale * places.astype(self.dtype)
        tokens = tokens.reshape(b, -1, tokens.shape[-1])
        words = self.embedding.looked_up(prompt)
        if self.prompt_positions:
            # Fixed wavelengths, so that how far a prompt is padded doesn't change its vectors.
            line = layers.number_line(prompt.shape[1], words.shape[-1], (8, 512))
            words += (self.prompt_positions * line).astype(self.dtype)
        x = layers.boundary(jnp.concatenate([tokens, words], axis=1), 'batch', 'length', 'width')
        valid = jnp.concatenate([jnp.ones(tokens.shape[:2], bool), prompt != 0], axis=1)
        return self.text_encoder(x, valid), valid

    def __call__(self, images: jax.Array, prompt: jax.Array, target_in: jax.Array) -> jax.Array:
        """Teacher forcing.

        Args:
          images: uint8 [B, F, H, W, 3].
          prompt: int32 [B, P], padded with 0 on the right.
          target_in: int32 [B, T], the target shifted right by one, starting with 0.

        Returns:
          Logits float32 [B, T, V].
        """
        encoded, valid = self.encode(images, prompt)
        logits = self._logits(
            self.text_decoder(self.embedding.looked_up(target_in), encoded, valid)
        )
        return layers.boundary(logits, 'batch', 'length', 'vocab')

    def _logits(self, x: jax.Array, columns: jax.Array | None = None) -> jax.Array:
        return self.embedding.attend(x, columns) if self.tied else self.head(x, columns)

    def prefill(self, images: jax.Array, prompt: jax.Array, max_length: int) -> dict:
        """Encodes images uint8 [B, F, H, W, 3] and prompt int32 [B, P] into a cache for `step`."""
        return self.text_decoder.prefill(*self.encode(images, prompt), max_length)

    def step(
        self, cache: dict, token: jax.Array, columns: jax.Array | None = None
    ) -> tuple[jax.Array, dict]:
        """Decodes one token.

        Args:
          cache: what `prefill` or the last `step` returned.
          token: int32 [B], the last token; 0 at first.
          columns: int32 [C], the tokens whose logits are wanted; all if None.

        Returns:
          Logits float32 [B, V] (or [B, C]) of the next token, and the cache.
        """
        x, cache = self.text_decoder.step(self.embedding.looked_up(token[:, None]), cache)
        return self._logits(x[:, 0], columns), cache

    def image_attention(self, left: Mapping, images: jax.Array, prompt: jax.Array) -> jax.Array:
        """Where the decoder looked, from what a teacher-forced call left behind.

        Args:
          left: the collection 'intermediates' of that call.
          images, prompt: of that call.

        Returns:
          [layers, B, T, F, rows, columns], mean over heads: what each image token has of a place's
          attention, which sums to 1 over all that the layer attends to.
        """
        del prompt
        weights = left['text_decoder']['layers']['cross_attention']['weights'][0].mean(2)
        grid = images.shape[1], *vit.grid(images.shape[2:4], self.vision['patch'])
        return weights[..., : math.prod(grid)].reshape(*weights.shape[:-1], *grid)
