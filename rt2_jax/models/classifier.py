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

from rt2_jax.models import layers
from rt2_jax.models import vit


class Classifier(nn.Module):
    """Predicts each place of a short answer from each feature's largest value over the frames.

    The prompt is not read and no token of the answer sees another, so it is for training a tower on
    names, not for decoding. The tower's parameters are those of `PaLI.tower`.

    Attributes:
      vision: attributes of `vit.ViT`.
      vocab: number of tokens V.
      dtype: what matrix products are computed in.
    """

    vision: Mapping
    vocab: int
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, prompt: jax.Array, target_in: jax.Array) -> jax.Array:
        """Maps images uint8 [B, F, H, W, 3] to logits float32 [B, T, V]; T is that of target_in [B, T]."""
        b, f = images.shape[:2]
        tokens = vit.ViT(dtype=self.dtype, name='tower', **self.vision)(
            images.reshape(b * f, *images.shape[2:]))
        summary = jnp.max(tokens.reshape(b, -1, tokens.shape[-1]), axis=1)
        summary = layers.LayerNorm(self.dtype, name='norm')(summary)
        places, width = target_in.shape[1], summary.shape[-1]
        kernel = self.param('kernel', nn.with_logical_partitioning(
            nn.initializers.normal(width ** -0.5), ('vision', 'positions', 'vocab')),
            (width, places, self.vocab), jnp.float32)
        return jnp.einsum('bd,dtv->btv', summary, kernel.astype(self.dtype),
                          preferred_element_type=jnp.float32)
