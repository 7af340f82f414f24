"""A picture's vector and its text's vector brought together: SigLIP (arXiv 2303.15343), CLIP (2103.00020).

A row's text is its target, as if it were a caption. All pictures and texts of the global batch meet; where
the batch is cut into parts (`config.accumulate`), only those of a part do. Of several frames the last counts.

Axes: B batch, F frames, H and W pixels, P prompt, T target, M image tokens, D width of the text's states,
E width of the vectors that are compared, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import embedding, encoder_decoder, layers, towers
from rt2_jax.nearest import check

_CLIP_START, _CLIP_MOST = 1 / 0.07, 100.0  # factors on similarities
_SIGLIP_START, _SIGLIP_BIAS = 10.0, -10.0


def siglip_loss(logits: jax.Array) -> jax.Array:
    """Each pair a yes or no of its own (SigLIP, equation 1).

    Args:
        logits: [B, B], pictures by texts.

    Returns:
        [B], of each picture the sum over all texts, so that the mean is the paper's loss.
    """
    signs = 2 * jnp.eye(logits.shape[0]) - 1
    return -jax.nn.log_sigmoid(signs * logits).sum(1)


def clip_loss(logits: jax.Array) -> jax.Array:
    """Which text a picture has, and which picture a text has (CLIP, figure 3).

    Args:
        logits: [B, B], pictures by texts.

    Returns:
        [B], the mean of both cross-entropies.
    """
    own = jnp.diagonal(logits)
    both = jax.nn.logsumexp(logits, axis=1) + jax.nn.logsumexp(logits, axis=0)
    return both / 2 - own


_LOSSES = {'siglip': siglip_loss, 'clip': clip_loss}


class Contrastive(nn.Module):
    """A `backbone.OwnLoss` of an image tower and a text encoder.

    Attributes:
        vision: fields of the tower's config.
        text: fields of `encoder_decoder.T5Config`.
        vocab: V.
        objective: 'siglip' or 'clip'.
        tower: of `towers.ALONE`.
        width: E.
        heads: of the attention that pools image tokens.
        dtype: of matrix products.
    """

    vision: Mapping
    text: Mapping
    vocab: int
    objective: str = 'siglip'
    tower: str = 'vit'
    width: int = 128
    heads: int = 4
    dtype: layers.Dtype = jnp.float32

    @property
    def untrained(self) -> tuple[str, ...]:
        """Patterns of names of parameters that no gradient changes."""
        return towers.untrained(self.tower)

    @nn.compact
    def __call__(self, images: jax.Array, prompt: jax.Array, target: jax.Array) -> jax.Array:
        """Compares pictures and texts.

        Args:
            images: uint8 [B, F, H, W, 3].
            prompt: int32 [B, P], not read.
            target: int32 [B, T], the texts.

        Returns:
            Logits float32 [B, B], pictures by texts.
        """
        sigmoid = check('config.model.objective', self.objective, _LOSSES) == 'siglip'
        check('config.model.tower', self.tower, towers.ALONE)
        x = towers.features(towers.make(self.tower, self.vision, self.dtype), images[:, -1])
        x = towers.AttentionPool(self.heads, 2 * self.width, self.dtype, name='pool')(x)
        pictures = _unit(self._projection('picture_projection')(x))

        text = encoder_decoder.T5Config.parse(self.text, 'config.model.text', dtype=self.dtype)
        table = embedding.Embedding(self.vocab, text.width, self.dtype, name='embedding')
        valid = target != 0
        states = encoder_decoder.Encoder(text, name='text')(table.embed(target), valid)
        mean = jnp.where(valid[..., None], states, 0).sum(1) / jnp.maximum(
            valid.sum(1, keepdims=True), 1
        )
        texts = _unit(self._projection('text_projection')(mean.astype(self.dtype)))

        start = math.log(_SIGLIP_START if sigmoid else _CLIP_START)
        # The largest factor that CLIP allows.
        factor = jnp.exp(jnp.minimum(self._scalar('temperature', start), math.log(_CLIP_MOST)))
        logits = factor * jnp.einsum('ie,je->ij', pictures, texts)
        return logits + self._scalar('offset', _SIGLIP_BIAS) if sigmoid else logits

    def losses(
        self, images: jax.Array, prompt: jax.Array, target: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """See `backbone.OwnLoss`; a hit is a picture to which no text is nearer than its own."""
        logits = self(images, prompt, target)
        hits = jnp.diagonal(logits) >= logits.max(1)
        return _LOSSES[self.objective](logits), hits.astype(jnp.float32), jnp.ones(len(logits))

    @nn.nowrap
    def _projection(self, name: str) -> layers.Linear:
        return layers.Linear((self.width,), ('vision', 'embed'), self.dtype, name=name)

    @nn.nowrap
    def _scalar(self, name: str, start: float) -> jax.Array:
        init = layers.with_axes(nn.initializers.constant(start), ())
        return self.param(name, init, (), jnp.float32)


def _unit(x: jax.Array) -> jax.Array:
    """Vectors [B, E] as float32 of length 1."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)
