"""Vision transformer: frames -> image tokens (arXiv 2010.11929), without pooling.

Axes: B images, H and W pixels, N image tokens, D width.
"""

from collections.abc import Sequence
import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import layers, pixels, stacks
from rt2_jax.nearest import check


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig(stacks.StackConfig):
    """A tower, as `config.model.vision` has it.

    Attributes:
        heads: of the attention; each is D / heads wide.
        patch: side of a patch in pixels.
        stem: 'patch' or 'pyramid'.
        stem_widths: of the levels of a pyramid.
        positions: 'sincos' or 'learned'.
        block: 'sequential' or 'parallel'.
        class_token: 'none', 'plain', or 'placed' where it has a position too: towers that were trained
            with one need it among their tokens, but it is not given out.
        activation: of `layers.ACTIVATIONS`.
        epsilon: added to the variance in norms.
        pixels: how they are scaled: 'signed', to [-1, 1], or 'imagenet', by that set's mean and
            deviation, as masked autoencoders' public weights want them.
    """

    heads: int
    patch: int
    stem: str = 'patch'
    stem_widths: tuple[int, ...] = ()
    positions: str = 'learned'
    block: str = 'sequential'
    class_token: str = 'none'
    activation: str = 'gelu'
    epsilon: float = 1e-6
    pixels: str = 'signed'


def sincos_positions(
    rows: int,
    columns: int,
    width: int,
    wavelengths: tuple[float, float] = (2 * math.pi, 200 * math.pi),
) -> jax.Array:
    """Fixed 2-D sine and cosine positions; half of the features tell the row and half the column.

    Args:
        rows: of image tokens.
        columns: likewise.
        width: D.
        wavelengths: the shortest and the longest, in tokens.

    Returns:
        float32 [rows * columns, D].

    Raises:
        ValueError: the width is not divisible by 4.
    """
    if width % 4:
        raise ValueError(f'sin-cos positions need a width divisible by 4, not {width}')
    rates = 2 * math.pi / jnp.geomspace(*wavelengths, width // 4)
    row, column = jnp.meshgrid(jnp.arange(rows), jnp.arange(columns), indexing='ij')
    angles = jnp.concatenate([row.reshape(-1, 1) * rates, column.reshape(-1, 1) * rates], axis=1)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def with_places(tokens: jax.Array, sides: Sequence[int], patch: int, scale: float) -> jax.Array:
    """Adds fixed positions to a language model's image tokens.

    A tower that learnt names alone keeps little of where a thing is.

    Args:
        tokens: projected, [B, N, D].
        sides: height and width of a frame in pixels.
        patch: side of a patch in pixels.
        scale: factor on the positions; a trained tower's tokens are larger than 1 a feature.
    """
    rows, columns = grid(sides, patch)
    wavelengths = 2.5, 4 * max(rows, columns)
    positions = sincos_positions(rows, columns, tokens.shape[-1], wavelengths)
    return tokens + scale * positions.astype(tokens.dtype)


def grid(sides: Sequence[int], patch: int) -> tuple[int, int]:
    """Rows and columns of the image tokens of a frame whose height and width are `sides`."""
    height, width = sides
    return height // patch, width // patch


class PatchStem(nn.Module):
    """Patches -> tokens by one matrix product, the stem of ViT.

    Attributes:
        patch: side in pixels.
        width: D.
        dtype: of the product.
    """

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
    alone, which a CPU does three times as fast. The first level merges 4 x 4 pixels, each further one
    3 x 3 windows of the last at every second place.

    Attributes:
        widths: of the levels.
        width: D.
        dtype: of the products.
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


class Block(nn.Module):
    """One pre-norm transformer block."""

    config: ViTConfig

    @nn.compact
    def __call__(self, x: jax.Array, scanned: None) -> tuple[jax.Array, None]:
        """Maps [B, N, D] to [B, N, D]."""
        config = self.config
        attention = _attention(config, bias=True)
        y = layers.LayerNorm(config.dtype, config.epsilon, name='attention_norm')(x)
        x += attention(y, attention.keys_values(y))
        y = layers.LayerNorm(config.dtype, config.epsilon, name='mlp_norm')(x)
        x += layers.MLP(config.mlp, config.dtype, config.activation, name='mlp')(y)
        return layers.constrain(x, 'batch', 'length', 'width'), scanned


class ParallelBlock(nn.Module):
    """Attention and hidden layer side by side on one norm, as in ViT-22B (arXiv 2302.05442, 2).

    Queries and keys are normed, norms have neither mean nor bias, and only the hidden layer's
    products have biases.
    """

    config: ViTConfig

    @nn.compact
    def __call__(self, x: jax.Array, scanned: None) -> tuple[jax.Array, None]:
        """Maps [B, N, D] to [B, N, D]."""
        config = self.config
        attention = _attention(config, qk_norm=True)
        y = layers.RMSNorm(config.dtype, config.epsilon, name='norm')(x)
        mlp = layers.MLP(config.mlp, config.dtype, config.activation, name='mlp')
        x += attention(y, attention.keys_values(y)) + mlp(y)
        return layers.constrain(x, 'batch', 'length', 'width'), scanned


def _attention(config: ViTConfig, bias: bool = False, qk_norm: bool = False) -> layers.Attention:
    head_dim = config.width // config.heads
    return layers.Attention(
        config.width,
        config.heads,
        head_dim,
        config.dtype,
        scale=1 / math.sqrt(head_dim),
        bias=bias,
        qk_norm=qk_norm,
        name='attention',
    )


_BLOCKS: dict[str, type[nn.Module]] = {'sequential': Block, 'parallel': ParallelBlock}


class ViT(nn.Module):
    """The tower."""

    config: ViTConfig

    @nn.compact
    def __call__(self, images: jax.Array, kept: jax.Array | None = None) -> jax.Array:
        """Image tokens.

        Args:
            images: uint8 [B, H, W, 3].
            kept: int32 [B, K], numbers of the only tokens that go into the blocks; None for all.

        Returns:
            [B, N, D], in rows from the top left; or [B, K, D].

        Raises:
            ValueError: the image is not a whole number of patches, or an unknown stem, positions,
                block, class token or scale of pixels.
        """
        config = self.config
        check('vision.stem', config.stem, ('patch', 'pyramid'))
        check('vision.positions', config.positions, ('sincos', 'learned'))
        check('vision.block', config.block, _BLOCKS)
        check('vision.class_token', config.class_token, ('none', 'plain', 'placed'))
        if images.shape[1] % config.patch or images.shape[2] % config.patch:
            raise ValueError(
                f'Images of {images.shape[1]} x {images.shape[2]} pixels are no whole '
                f'number of patches of {config.patch}'
            )
        x = self._tokens(images)
        if kept is not None:
            x = jnp.take_along_axis(x, kept[..., None], axis=1)
        if config.class_token != 'none':
            first = self._learned('class_token', 1)
            if config.class_token == 'placed':
                first += self._learned('class_position', 1)
            x = jnp.concatenate([jnp.broadcast_to(first, (x.shape[0], 1, config.width)), x], axis=1)
        blocks = stacks.stack(
            _BLOCKS[config.block], config, broadcast={'__call__': 0}, name='blocks'
        )
        x, _ = blocks(layers.constrain(x, 'batch', 'length', 'width'), None)
        norm = layers.LayerNorm if config.block == 'sequential' else layers.RMSNorm
        x = norm(config.dtype, config.epsilon, name='norm')(x)
        return x if config.class_token == 'none' else x[:, 1:]

    @nn.nowrap
    def _tokens(self, images: jax.Array) -> jax.Array:
        """Frames as tokens with positions, [B, N, D]."""
        config = self.config
        scale = pixels.SCALES[check('vision.pixels', config.pixels, pixels.SCALES)]
        x = scale(images).astype(config.dtype)
        if config.stem == 'pyramid':
            x = PyramidStem(config.stem_widths, config.width, config.dtype, name='stem')(x)
        else:
            x = PatchStem(config.patch, config.width, config.dtype, name='stem')(x)
        b, rows, columns, width = x.shape
        x = x.reshape(b, rows * columns, width)
        if config.positions == 'learned':
            return x + self._learned('positions', rows * columns)
        # Normalised first: else the positions drown, and places are never learnt.
        x = layers.LayerNorm(config.dtype, name='stem_norm')(x)
        return x + sincos_positions(rows, columns, width).astype(config.dtype)

    @nn.nowrap
    def _learned(self, name: str, count: int) -> jax.Array:
        """Learned vectors [count, D], added to tokens."""
        config = self.config
        init = nn.initializers.normal(config.width**-0.5)
        init = layers.with_axes(init, ('positions', 'embed'))
        vectors = self.param(name, init, (count, config.width), jnp.float32)
        return vectors.astype(config.dtype)
