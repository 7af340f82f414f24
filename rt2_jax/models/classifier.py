"""A vision tower alone, learning to name what it sees, before a language model is put behind it.

PaLI's towers are trained on images alone first (arXiv 2209.06794, section 3.1), and PaLI-X learns to
find things too (arXiv 2305.18565, section 3.2); so does the tiny one. Through an encoder-decoder with
random weights, whose attention starts as an average over all image tokens, it learns the names of small
things ten times later: from one word an image, not one a token.

Axes: B batch, F frames, H and W pixels, N image tokens a frame, T target, D width, V vocabulary.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import embedding, layers, towers


class Classifier(nn.Module):
    """Predicts the n-th token of an answer from the n-th image token, and the end after the last.

    The prompt is not read and no token of the answer sees another, so it is for training a tower on
    maps of what is where, not for decoding. The parameters of its tower, projection and embedding
    are those of `PaLI`, which so starts from image tokens that say the words of what they see. A tower of
    RT-1's learns so what RT-1's learnt from ImageNet; no sentence conditions it yet. A call that may write
    the collection `efficientnet.STATISTICS` leaves new values of some parameters there.

    Attributes:
        vision: fields of the tower's config.
        width: D of the language model that the tower is for, or of RT-1's words.
        vocab: V.
        tower: 'vit', 'efficientnet' or 'resnet'; see `towers`.
        sentence: width of the vector that conditions an EfficientNet, here of zeros.
        dtype: of matrix products.
    """

    vision: Mapping
    width: int
    vocab: int
    tower: str = 'vit'
    sentence: int = 0
    dtype: layers.Dtype = jnp.float32

    @property
    def untrained(self) -> tuple[str, ...]:
        """Patterns of names of parameters that no gradient changes."""
        return towers.untrained(self.tower)

    @nn.compact
    def __call__(self, images: jax.Array, prompt: jax.Array, target_in: jax.Array) -> jax.Array:
        """Names what each image token shows.

        Args:
            images: uint8 [B, F, H, W, 3].
            prompt: int32 [B, P], not read.
            target_in: int32 [B, T], not read.

        Returns:
            Logits float32 [B, T, V].

        Raises:
            ValueError: T is not F N + 1.
        """
        b, f = images.shape[:2]
        no_sentence = jnp.zeros((b * f, self.sentence), self.dtype)
        tower = towers.make(self.tower, self.vision, self.dtype)
        tokens = towers.features(tower, images.reshape(b * f, *images.shape[2:]), no_sentence)
        tokens = layers.Linear((self.width,), ('vision', 'embed'), self.dtype, name='projection')(
            tokens
        ).reshape(b, -1, self.width)
        if target_in.shape[1] != tokens.shape[1] + 1:
            raise ValueError(
                f'{tokens.shape[1]} image tokens and the end are {tokens.shape[1] + 1} tokens; '
                f'config.data.target_length is {target_in.shape[1]}'
            )
        end = self.param(
            'end',
            layers.with_axes(nn.initializers.normal(1.0), (None, 'embed')),
            (1, self.width),
            jnp.float32,
        )
        end = jnp.broadcast_to(end.astype(self.dtype), (b, 1, self.width))
        table = embedding.Embedding(self.vocab, self.width, self.dtype, name='embedding')
        states = jnp.concatenate([tokens, end], axis=1)
        return table.logits(states)
