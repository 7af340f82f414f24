"""From token ids to vectors, and from states to logits.

Axes: B batch, T tokens, D width, V vocabulary, C columns of it.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rt2_jax.models.layers import Dtype, constrain, with_axes


class Embedding(nn.Module):
    """Token ids -> vectors, and states -> logits by the same table.

    Attributes:
        vocab: V.
        width: D.
        dtype: of the vectors.
        numbers: the token id of each integer 0, 1, ...: a fixed `number_line` is added to their
            vectors. Empty if integers are words like any other.
    """

    vocab: int
    width: int
    dtype: Dtype
    numbers: tuple[int, ...] = ()

    def setup(self) -> None:
        """Makes the table."""
        self.embedding = self.param(
            'embedding',
            with_axes(nn.initializers.normal(self.width**-0.5), ('vocab', 'embed')),
            (self.vocab, self.width),
            jnp.float32,
        )
        self.fixed: jax.Array | float = 0.0
        if self.numbers:
            fixed = np.zeros((self.vocab, self.width), np.float32)
            fixed[list(self.numbers)] = number_line(len(self.numbers), self.width)
            self.fixed = jnp.asarray(fixed)

    def table(self) -> jax.Array:
        """All vectors, [V, D]."""
        return (self.embedding.astype(jnp.float32) + self.fixed).astype(self.dtype)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Maps int32 [...] to [..., D]."""
        # Rows are taken before the sum, so that a decoding step does not make the whole table.
        vectors = jnp.take(self.embedding, ids, axis=0).astype(jnp.float32)
        if self.numbers:
            vectors += jnp.take(self.fixed, ids, axis=0)
        return vectors.astype(self.dtype)

    def embed(self, ids: jax.Array) -> jax.Array:
        """Maps int32 [B, T] to [B, T, D] where the table is split over the mesh.

        Each device takes its part of the width for the rows of all devices that share the table, then
        exchanges columns for rows. Neither the table nor its gradient is gathered.
        """
        vectors = self(constrain(ids, 'rows', 'length'))
        vectors = constrain(vectors, 'rows', 'length', 'embed')
        return constrain(vectors, 'batch', 'length', 'width')

    def logits(self, x: jax.Array, columns: jax.Array | None = None) -> jax.Array:
        """Maps states [..., D] to float32 logits [..., V], or [..., C] for ids int32 [C]."""
        table = self.table() if columns is None else self(columns)
        return jnp.einsum('...d,vd->...v', x, table, preferred_element_type=jnp.float32)


class Head(nn.Module):
    """States -> logits by an output matrix of its own.

    Attributes:
        vocab: V.
        dtype: of the product's inputs.
    """

    vocab: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, columns: jax.Array | None = None) -> jax.Array:
        """Maps [..., D] to float32 logits [..., V], or [..., C] for ids int32 [C]."""
        kernel = self.param(
            'kernel',
            with_axes(nn.initializers.normal(x.shape[-1] ** -0.5), ('embed', 'vocab')),
            (x.shape[-1], self.vocab),
            jnp.float32,
        )
        if columns is not None:
            kernel = kernel[:, columns]
        return jnp.einsum(
            '...d,dv->...v', x, kernel.astype(self.dtype), preferred_element_type=jnp.float32
        )


def with_places(words: jax.Array, scale: float) -> jax.Array:
    """Adds a fixed vector of its place, times `scale`, to each of a prompt's words [B, P, D]."""
    # Fixed wavelengths, so that how far a prompt is padded doesn't change its vectors.
    line = number_line(words.shape[1], words.shape[2], (8, 512))
    return words + (scale * line).astype(words.dtype)


def number_line(
    count: int, width: int, wavelengths: tuple[float, float] | None = None
) -> np.ndarray:
    """Unit vectors of the integers below `count` as sines and cosines.

    Near numbers have near vectors, at every scale from a few up to `count`: a place or an action that
    is nearly right is nearly learnt, where words would all be equally wrong.

    Args:
        count: number of integers.
        width: of a vector.
        wavelengths: the shortest and the longest; 16 and four times `count` by default.

    Returns:
        float32 [count, width].

    Raises:
        ValueError: the width is odd.
    """
    if width % 2:
        raise ValueError(f'a number line needs an even width, not {width}')
    shortest, longest = wavelengths or (16, 4 * count)
    angles = np.arange(count)[:, None] * 2 * np.pi / np.geomspace(shortest, longest, width // 2)
    line = np.concatenate([np.sin(angles), np.cos(angles)], axis=1) / math.sqrt(width / 2)
    return line.astype(np.float32)
