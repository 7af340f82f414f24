"""A vision tower alone, learning to name what it sees, before a language model is put behind it.

PaLI's towers are first trained on image classification (arXiv 2209.06794, section 3.1), and so is the
tiny one: through an encoder-decoder from random weights, whose attention starts as an average over
all image tokens, the names of small things are learnt an order of magnitude later.

Axes: B batch, F frames, N image tokens, T target, D width, V vocabulary.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import layers, vit


class Classifier(nn.Module):
    """Predicts each place of a short answer from each feature's largest value over the frames.

    The prompt is not read and no token of the answer sees another, so it is for training a tower on
    names, not for decoding. The parameters of its tower, projection and embedding are those of
    `PaLI`, which so starts from words and image tokens that already mean the same.

    Attributes:
      vision: attributes of `vit.ViT`.
      width: width D of the language model that the tower is for.
      vocab: number of tokens V.
      dtype: what matrix products are computed in.
    """

    vision: Mapping
    width: int
    vocab: int
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, prompt: jax.Array, target_in: jax.Array) -> jax.Array:
        """Maps images uint8 [B, F, H, W, 3] to logits float32 [B, T, V]; T is that of target_in [B, T]."""
        b, f = images.shape[:2]
        width, places = self.width, target_in.shape[1]
        tokens = vit.ViT(dtype=self.dtype, name='tower', **self.vision)(
            images.reshape(b * f, *images.shape[2:])
        )
        tokens = layers.Linear((width,), ('vision', 'embed'), self.dtype, name='projection')(tokens)
        summary = jnp.max(tokens.reshape(b, -1, width), axis=1)
        summary = layers.LayerNorm(self.dtype, name='norm')(summary)
        states = layers.Linear(
            (places, width), ('vision', 'positions', 'embed'), self.dtype, name='places'
        )(summary)
        embedding = layers.embedding(self.vocab, width, self.dtype, name='embedding')
        return embedding.attend(states).astype(jnp.float32)
