"""Points of a prompt as pixels of an image channel, MOO's way to say which thing is meant (arXiv 2303.00905).

A prompt "push 410 530 to 210 330" has two points: the first is one white pixel, the second a grey one.

Axes: B batch, F frames, H and W pixels, P prompt.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

SIDE = 1000  # a number is so many parts of the picture's side
LEVELS = (255, 128)  # of the pixels of the first and of the second point


def numbers(prompt: jax.Array, integers: Sequence[int]) -> jax.Array:
    """The integer that each token stands for, int32 [B, P]; -1 for words.

    Args:
        prompt: int32 [B, P].
        integers: the token id of each integer 0, 1, ...
    """
    value = np.full(max(integers) + 2, -1, np.int32)
    value[list(integers)] = np.arange(len(integers))
    # Ids behind the last integer's have the last entry.
    return jnp.asarray(value)[jnp.minimum(prompt, max(integers) + 1)]


def paint(images: jax.Array, values: jax.Array) -> jax.Array:
    """Adds the channel to all frames.

    Args:
        images: uint8 [B, F, H, W, 3].
        values: int32 [B, P], as `numbers` gives them: u and v of the first point, then of the second.
            A point that lacks a number or is at 0 0 is not painted.

    Returns:
        uint8 [B, F, H, W, 4].
    """
    height, width = images.shape[2:4]
    is_number = values >= 0
    order = jnp.where(is_number, jnp.cumsum(is_number, axis=1) - 1, -1)
    channel = jnp.zeros((len(images), height, width), jnp.int32)
    for point, level in reversed(list(enumerate(LEVELS))):  # so that the first lies on top
        u, v = (jnp.where(order == 2 * point + axis, values, 0).sum(1) for axis in (0, 1))
        there = (is_number.sum(1) >= 2 * point + 2) & (u + v > 0)
        row = jnp.arange(height) == jnp.minimum(v * height // SIDE, height - 1)[:, None]
        column = jnp.arange(width) == jnp.minimum(u * width // SIDE, width - 1)[:, None]
        pixel = row[:, :, None] & column[:, None, :] & there[:, None, None]
        channel = jnp.where(pixel, level, channel)
    channel = jnp.broadcast_to(
        channel.astype(images.dtype)[:, None, ..., None], (*images.shape[:-1], 1)
    )
    return jnp.concatenate([images, channel], axis=-1)
