"""Vision transformer: frames -> image tokens (arXiv 2010.11929), without pooling.

Axes: B images, H and W pixels, N image tokens, D width.
"""

from collections.abc import Sequence
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import layers, stacks
from rt2_jax.nearest import check


def sincos_positions(
    rows: int,
    columns: int,
    width: int,
    wavelengths: tuple[float, float] = (2 * math.pi, 200 * math.pi),
) -> jax.Array:
    """Fixed 2-D sine and cosine positions, float32 [rows * columns, width].

    Half of the features tell the row and half the column, at wavelengths (in tokens) from the first
    to the second of `wavelengths`.

    Raises:
      ValueError: the width is not divisible by 4.
    """
    if width % 4:
        raise ValueError(f'sin-cos positions need a width divisible by 4, not {width}')
    rates = 2 * math.pi / jnp.geomspace(*wavelengths, width // 4)
    row, column = jnp.meshgrid(jnp.arange(rows), jnp.arange(columns), indexing='ij')
    angles = jnp.concatenate([row.reshape(-1, 1) * rates, column.reshape(-1, 1) * rates], axis=1)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def grid(sides: Sequence[int], patch: int) -> tuple[int, int]:
    """Rows and columns of the image tokens of a frame whose height and width are `sides`."""
    height, width = sides
    return height // patch, width // patch


class PatchStem(nn.Module):
    """Patches -> tokens by one matrix product, the stem of ViT."""

    patch: int
    width: int
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps [B, H, W, 3] to [B, H / patch, W / patch, D]."""
        patches = space_to_depth(images, self.patch)
        return layers.Linear(
            (self.width,), ('patch', 'embed'), self.dtype, bias=True, name='embedding'
        )(patches)


class PyramidStem(nn.Module):
    """Frames -> tokens by a few strided products over small windows, for tiny models.

    It sees edges before it sees patches, as a convolution would, but is made of matrix products
    alone, which a CPU does three times as fast. `widths` are those of the levels: the first level
    merges 4 x 4 pixels, each further one a 3 x 3 window of the last at every second place.
    """

    widths: tuple[int, ...]
    width: int
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps [B, H, W, 3] to [B, H / P, W / P, D] with P = 2 ** (1 + len(widths))."""
        x = space_to_depth(images, 4)
        for level, width in enumerate((*self.widths[1:], self.width)):
            x = layers.Linear(
                (self.widths[level],),
                ('patch', 'embed'),
                self.dtype,
                bias=True,
                name=f'level_{level}',
            )(x)
            x = windows(nn.gelu(x))
        return layers.Linear(
            (self.width,), ('patch', 'embed'), self.dtype, bias=True, name='embedding'
        )(x)


def space_to_depth(x: jax.Array, block: int) -> jax.Array:
    """Gathers blocks of pixels: [B, H, W, C] -> [B, H / block, W / block, block * block * C]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // block, block, w // block, block, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // block, w // block, block * block * c)


def windows(x: jax.Array) -> jax.Array:
    """Gathers 3 x 3 windows at every second place: [B, H, W, C] -> [B, H / 2, W / 2, 9 C]."""
    _, h, w, _ = x.shape
    x = jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)))
    return jnp.concatenate(
        [x[:, i : i + h : 2, j : j + w : 2] for i in range(3) for j in range(3)], axis=-1
    )


def _attention(block: nn.Module, **kind: bool) -> layers.Attention:
    """The attention of a block, its heads as wide as they share the width."""
    head_dim = block.width // block.heads
    return layers.Attention(
        block.width,
        block.heads,
        head_dim,
        block.dtype,
        scale=1 / math.sqrt(head_dim),
        name='attention',
        **kind,
    )


class Block(nn.Module):
    """One pre-norm transformer block."""

    width: int
    heads: int
    mlp: int
    dtype: layers.Dtype
    activation: str
    epsilon: float

    @nn.compact
    def __call__(self, x, cache):
        attention = _attention(self, bias=True)
        y = layers.LayerNorm(self.dtype, self.epsilon, name='attention_norm')(x)
        x += attention(y, attention.keys_values(y))
        y = layers.LayerNorm(self.dtype, self.epsilon, name='mlp_norm')(x)
        x += layers.MLP(self.mlp, self.dtype, self.activation, name='mlp')(y)
        return layers.boundary(x, 'batch', 'length', 'width'), cache


class ParallelBlock(nn.Module):
    """Attention and hidden layer side by side on one norm, as in ViT-22B (arXiv 2302.05442, 2).

    Queries and keys are normed, norms have neither mean nor bias, and only the hidden layer's
    products have biases.
    """

    width: int
    heads: int
    mlp: int
    dtype: layers.Dtype
    activation: str
    epsilon: float

    @nn.compact
    def __call__(self, x, cache):
        attention = _attention(self, qk_norm=True)
        y = layers.RMSNorm(self.dtype, self.epsilon, name='norm')(x)
        mlp = layers.MLP(self.mlp, self.dtype, self.activation, name='mlp')
        x += attention(y, attention.keys_values(y)) + mlp(y)
        return layers.boundary(x, 'batch', 'length', 'width'), cache


_BLOCKS = {'sequential': Block, 'parallel': ParallelBlock}


class ViT(nn.Module):
    """Attributes as in the config.

    `stem` is 'patch' or 'pyramid', `positions` 'sincos' or 'learned', `block` 'sequential' or
    'parallel'. `class_token` is 'none', 'plain', or 'placed' where it has a position too: towers that
    were trained with one need it among their tokens, but it is not given out. `activation` is of
    `layers.ACTIVATIONS`, `epsilon` what the norms add to the variance.
    """

    width: int
    depth: int
    heads: int
    mlp: int
    patch: int
    dtype: layers.Dtype
    stem: str = 'patch'
    stem_widths: tuple[int, ...] = ()
    positions: str = 'learned'
    block: str = 'sequential'
    class_token: str = 'none'
    activation: str = 'gelu'
    epsilon: float = 1e-6
    remat: str = 'none'
    unroll: int = 1

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps uint8 [B, H, W, 3] to image tokens [B, N, D], in rows from the top left.

        Raises:
          ValueError: the image is not a whole number of patches, or an unknown stem or positions.
        """
        check('vision.stem', self.stem, ('patch', 'pyramid'))
        check('vision.positions', self.positions, ('sincos', 'learned'))
        check('vision.block', self.block, _BLOCKS)
        check('vision.class_token', self.class_token, ('none', 'plain', 'placed'))
        if images.shape[1] % self.patch or images.shape[2] % self.patch:
            raise ValueError(
                f'Images of {images.shape[1]} x {images.shape[2]} pixels are no whole '
                f'number of patches of {self.patch}'
            )
        # In float32: bfloat16 would round a grey level before it is scaled, and again behind that.
        x = (images.astype(jnp.float32) / 127.5 - 1).astype(self.dtype)
        if self.stem == 'pyramid':
            x = PyramidStem(self.stem_widths, self.width, self.dtype, name='stem')(x)
        else:
            x = PatchStem(self.patch, self.width, self.dtype, name='stem')(x)
        b, rows, columns, width = x.shape
        x = x.reshape(b, rows * columns, width)
        if self.positions == 'sincos':
            # Normalised first: else the positions drown, and places are never learnt.
            x = layers.LayerNorm(self.dtype, name='stem_norm')(x)
            x += sincos_positions(rows, columns, width).astype(self.dtype)
        else:
            x += self._learned('positions', rows * columns)
        if self.class_token != 'none':
            first = self._learned('class_token', 1)
            if self.class_token == 'placed':
                first += self._learned('class_position', 1)
            x = jnp.concatenate([jnp.broadcast_to(first, (b, 1, width)), x], axis=1)
        x, _ = stacks.stack(
            _BLOCKS[self.block],
            self.depth,
            self.remat,
            self.unroll,
            width=width,
            heads=self.heads,
            mlp=self.mlp,
            dtype=self.dtype,
            activation=self.activation,
            epsilon=self.epsilon,
            name='blocks',
        )(layers.boundary(x, 'batch', 'length', 'width'), None)
        norm = layers.LayerNorm if self.block == 'sequential' else layers.RMSNorm
        x = norm(self.dtype, self.epsilon, name='norm')(x)
        return x if self.class_token == 'none' else x[:, 1:]

    def _learned(self, name: str, count: int) -> jax.Array:
        """Learned vectors [count, D], added to tokens."""
        start = nn.initializers.normal(self.width**-0.5)
        start = nn.with_logical_partitioning(start, ('positions', 'embed'))
        return self.param(name, start, (count, self.width), jnp.float32).astype(self.dtype)
