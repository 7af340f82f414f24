"""A prompt as one vector, where a model has no language model: RT-1 and R3M.

A frozen table's words stand in for the sentence encoders that they have.

Axes: B batch, P prompt, W width of a word.
"""

import math

import jax
import jax.numpy as jnp

from rt2_jax.models import embedding

_WAVELENGTHS = 4.0, 64.0  # words, of the places in a prompt


def of_words(
    words: embedding.Embedding, prompt: jax.Array, valid: jax.Array, ordered: bool
) -> jax.Array:
    """The mean of a prompt's words, at unit mean square.

    Args:
        words: the table; no gradient reaches it.
        prompt: int32 [B, P].
        valid: bool [B, P], the tokens that count.
        ordered: whether there is a second part, in which each word counts with the sines of its place:
            of the mean alone, "X to Y" is "Y to X".

    Returns:
        Float32 [B, W] or [B, 2 W].
    """
    vectors = jax.lax.stop_gradient(words.embed(prompt)).astype(jnp.float32)
    if ordered:
        line = embedding.number_line(prompt.shape[1], words.width, _WAVELENGTHS)
        vectors = jnp.concatenate([vectors, vectors * line * math.sqrt(words.width)], axis=-1)
    valid = valid[..., None]
    mean = jnp.where(valid, vectors, 0).sum(1) / jnp.maximum(valid.sum(1), 1)
    square = jnp.square(mean).mean(-1, keepdims=True)
    return mean * jax.lax.rsqrt(square + 1e-12)
