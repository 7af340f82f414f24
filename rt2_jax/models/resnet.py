"""ResNet: frames -> a map of features (arXiv 1512.03385), the eyes of R3M (2203.12601).

As torchvision has it: a block's stride is that of its 3 x 3 convolution, and padding is the same on both
sides. The defaults are ResNet-50's; ResNet-18 has `stages=(2, 2, 2, 2)` and no bottleneck.

Axes: B images, H and W pixels or places, C channels, K side of a kernel.
"""

from __future__ import annotations

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import efficientnet, layers, pixels, stacks

_EXPANSION = 4  # outputs of a bottleneck for each of its inner channels
_STEM_KERNEL, _POOL_KERNEL = 7, 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig(stacks.Config):
    """A tower, as `config.model.vision` has it.

    Attributes:
        stages: blocks of each stage.
        width: inner channels of the first stage's blocks; each further stage has twice as many.
        bottleneck: whether a block is a 3 x 3 convolution between two of one place, else it is two of
            3 x 3.
        strides: of each stage; stem and pooling before them have 2 each.
        momentum: of the running statistics.
        epsilon: added to the variance in norms.
        dtype: of matrix products.
    """

    stages: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    bottleneck: bool = True
    strides: tuple[int, ...] = (1, 2, 2, 2)
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: jnp.dtype


class Convolution(nn.Module):
    """A convolution without a bias.

    Attributes:
        outputs: channels.
        kernel: K, odd.
        stride: from one output to the next.
        dtype: of the product.
    """

    outputs: int
    kernel: int
    stride: int
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, outputs], rounded up."""
        size, stride = self.kernel, self.stride
        deviation = math.sqrt(2 / (size * size * self.outputs))
        if size == 1:  # a product, and so a matrix to the optimizer
            axes = 'vision', 'vector'
            product = layers.Linear(
                (self.outputs,), axes, self.dtype, stddev=deviation, name='product'
            )
            return product(x[:, ::stride, ::stride])
        kernel = self.param(
            'kernel',
            layers.with_axes(
                nn.initializers.normal(deviation), ('patch', None, 'vision', 'vector')
            ),
            (size, size, x.shape[-1], self.outputs),
            jnp.float32,
        )
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (stride, stride),
            [(size // 2, size // 2)] * 2,
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )


class Block(nn.Module):
    """Two or three convolutions, added to what came in.

    Attributes:
        config: of the tower.
        width: inner channels.
        stride: of the block.
    """

    config: ResNetConfig
    width: int
    stride: int

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, outputs]."""
        config, width, stride, x = self.config, self.width, self.stride, inputs
        convolutions = [(width, 3, stride), (width, 3, 1)]
        if config.bottleneck:
            convolutions = [(width, 1, 1), (width, 3, stride), (_EXPANSION * width, 1, 1)]
        for i, sizes in enumerate(convolutions):
            x = Convolution(*sizes, config.dtype, name=f'convolution_{i}')(nn.relu(x) if i else x)
            x = efficientnet.BatchNorm(config, name=f'norm_{i}')(x)
        if inputs.shape != x.shape:
            inputs = Convolution(x.shape[-1], 1, stride, config.dtype, name='shortcut')(inputs)
            inputs = efficientnet.BatchNorm(config, name='shortcut_norm')(inputs)
        return nn.relu(x + inputs)


class ResNet(nn.Module):
    """The tower."""

    config: ResNetConfig

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps uint8 [B, H, W, 3 or more] to features [B, H / 32, W / 32, C], with the default strides.

        C is 8 times the width, of bottlenecks 32 times.
        """
        config = self.config
        x = pixels.imagenet(images).astype(config.dtype)
        x = Convolution(config.width, _STEM_KERNEL, 2, config.dtype, name='stem')(x)
        x = nn.relu(efficientnet.BatchNorm(config, name='stem_norm')(x))
        # Features are positive here, so that zeros at the edges change no maximum.
        side = _POOL_KERNEL // 2
        x = nn.max_pool(x, (_POOL_KERNEL,) * 2, (2, 2), [(side, side)] * 2)
        for i, (blocks, stride) in enumerate(zip(config.stages, config.strides, strict=True)):
            for j in range(blocks):
                x = Block(
                    config, config.width << i, 1 if j else stride, name=f'stage_{i}_block_{j}'
                )(x)
                x = layers.constrain(x, 'batch', 'length', None, 'width')
        return x
