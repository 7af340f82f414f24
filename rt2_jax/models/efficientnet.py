"""EfficientNet with FiLM: frames and a sentence's vector -> a map of features, RT-1's eyes.

EfficientNet: arXiv 1905.11946, FiLM: 1709.07871; as RT-1 has them: 2212.06817, section 5.1. Its two public
versions pad differently where a side is odd, and the weights of one are off by a pixel in the other: 300
pixels become 10 x 10 places in JAX (`padding='same'`), 9 x 9 in TensorFlow ('even').

Axes: B images, H and W pixels or places, C channels, D width of the sentence's vector, K side of a kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import math
from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import layers, pixels, stacks
from rt2_jax.nearest import check

# A call that may write this collection normalises by the statistics of its own batch, and leaves the moved
# averages there under their parameters' names. They are parameters that no gradient changes.
STATISTICS = 'statistics'
RUNNING = ('running_mean', 'running_variance')
_DIVISOR, _STEM, _HEAD, _SQUEEZE = 8, 32, 1280, 0.25
_ROWS = 32  # of the tallest map whose kernel's gradient is added up row by row
# Of EfficientNet-B0: channels in and out, repeats, expansion, side of the kernel.
_STAGES = (
    (32, 16, 1, 1, 3),
    (16, 24, 2, 6, 3),
    (24, 40, 2, 6, 5),
    (40, 80, 3, 6, 3),
    (80, 112, 3, 6, 5),
    (112, 192, 4, 6, 5),
    (192, 320, 1, 6, 3),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EfficientNetConfig(stacks.Config):
    """A tower, as `config.model.vision` has it; the defaults are B3's.

    Attributes:
        width_factor: of the channels of B0.
        depth_factor: of the repeats of B0.
        strides: of each stage; the stem's is 2. Fewer than seven are the first stages alone.
        padding: 'same', or 'even', which pads every strided layer as if sides were even.
        drop: share of the images for which the last block's branch is left out in training; in
            earlier blocks it is proportionally smaller.
        momentum: of the running statistics.
        epsilon: added to the variance in norms.
        dtype: of matrix products.
    """

    width_factor: float = 1.2
    depth_factor: float = 1.4
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    padding: str = 'same'
    drop: float = 0.2
    momentum: float = 0.99
    epsilon: float = 1e-3
    dtype: jnp.dtype

    def channels(self, base: int) -> int:
        """B0's channels times the width factor, a multiple of 8 that is not a tenth below."""
        wanted = base * self.width_factor
        rounded = max(_DIVISOR, int(wanted + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
        return rounded if rounded >= 0.9 * wanted else rounded + _DIVISOR

    def blocks(self) -> Iterator[Block]:
        """The blocks, from the stem on.

        Raises:
            ValueError: there are no strides, or more than stages.
        """
        if not 1 <= len(self.strides) <= len(_STAGES):
            raise ValueError(
                f'config.model.vision.strides has one for each stage, 1 to {len(_STAGES)}; '
                f'got {self.strides}'
            )
        for (inputs, outputs, repeats, expand, kernel), stride in zip(
            _STAGES, self.strides, strict=False
        ):
            first, width = self.channels(inputs), self.channels(outputs)
            for repeat in range(math.ceil(repeats * self.depth_factor)):
                yield Block(
                    inputs=width if repeat else first,
                    outputs=width,
                    kernel=kernel,
                    stride=1 if repeat else stride,
                    expand=expand,
                )


@dataclasses.dataclass(frozen=True)
class Block:
    """Sizes of an inverted bottleneck.

    Attributes:
        inputs: channels.
        outputs: channels.
        kernel: K.
        stride: of the depthwise convolution.
        expand: hidden channels an input.
    """

    inputs: int
    outputs: int
    kernel: int
    stride: int
    expand: int

    @property
    def hidden(self) -> int:
        """Channels between the two products."""
        return self.inputs * self.expand

    @property
    def squeezed(self) -> int:
        """Channels of the squeeze."""
        return max(1, int(self.inputs * _SQUEEZE))

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.inputs == self.outputs


def pads(side: int, kernel: int, stride: int, padding: str) -> tuple[int, int]:
    """Zeros before and behind a side of a map, for a convolution.

    Args:
        side: places.
        kernel: K.
        stride: of the convolution.
        padding: see `EfficientNetConfig`.
    """
    if check('vision.padding', padding, ('same', 'even')) == 'even' and stride > 1:
        return kernel // 2 - 1, kernel // 2
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


class NormSettings(Protocol):
    """What a norm reads of its tower's config: fields as in `EfficientNetConfig`."""

    @property
    def momentum(self) -> float:
        """Of the running statistics."""

    @property
    def epsilon(self) -> float:
        """Added to the variance."""

    @property
    def dtype(self) -> jnp.dtype:
        """Of the output."""


class BatchNorm(nn.Module):
    """Norm by the statistics of a batch in training, else by running ones (arXiv 1502.03167).

    Attributes:
        config: of the tower.
    """

    config: NormSettings

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, C]."""
        vector = lambda name, init: self.param(
            name, layers.with_axes(init, ('vector',)), (x.shape[-1],), jnp.float32
        )
        scale, bias = vector('scale', nn.initializers.ones), vector('bias', nn.initializers.zeros)
        running = (
            vector(RUNNING[0], nn.initializers.zeros),
            vector(RUNNING[1], nn.initializers.ones),
        )
        mean, variance = map(jax.lax.stop_gradient, running)
        x = x.astype(jnp.float32)
        if self.is_mutable_collection(STATISTICS) and not self.is_initializing():
            mean = x.mean((0, 1, 2))
            variance = jnp.maximum(jnp.square(x).mean((0, 1, 2)) - jnp.square(mean), 0)
            for name, old, new in zip(RUNNING, running, (mean, variance)):
                moved = old + (1 - self.config.momentum) * (jax.lax.stop_gradient(new) - old)
                self.put_variable(STATISTICS, name, moved)
        factor = jax.lax.rsqrt(variance + self.config.epsilon) * scale
        return ((x - mean) * factor + bias).astype(self.config.dtype)


class Depthwise(nn.Module):
    """A convolution of each channel by itself.

    Attributes:
        config: of the tower.
        kernel: K.
        stride: from one output to the next.
    """

    config: EfficientNetConfig
    kernel: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, C]."""
        size, stride = self.kernel, self.stride
        # As if its outputs were K * K * C: small, as in the public versions.
        init = nn.initializers.normal(math.sqrt(2 / (size * size)))
        kernel = self.param(
            'kernel',
            layers.with_axes(init, ('patch', None, 'vision', 'vector')),
            (size, size, x.shape[-1], 1),
            jnp.float32,
        )
        sides = [pads(side, size, stride, self.config.padding) for side in x.shape[1:3]]
        return depthwise(x, kernel[..., 0].astype(self.config.dtype), stride, sides)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise(
    x: jax.Array, kernel: jax.Array, stride: int, sides: Sequence[tuple[int, int]]
) -> jax.Array:
    """A convolution of each channel, as a sum of products with shifted maps.

    XLA's own takes 20 times as long on a CPU, and a TPU has no matrix product for either.

    Args:
        x: [B, H, W, C].
        kernel: [K, K, C].
        stride: from one output to the next.
        sides: zeros before and behind the rows, and the columns.
    """
    return _sum_of_products(x, kernel, stride, sides)


def _sum_of_products(
    x: jax.Array, kernel: jax.Array, stride: int, sides: Sequence[tuple[int, int]]
) -> jax.Array:
    size = kernel.shape[0]
    x = jnp.pad(x, ((0, 0), *sides, (0, 0)))
    rows, columns = ((side - size) // stride * stride + 1 for side in x.shape[1:3])
    shifted = lambda i, j: x[:, i : i + rows : stride, j : j + columns : stride]
    return sum(
        (shifted(i, j) * kernel[i, j] for i in range(size) for j in range(size)),
        jnp.zeros((), x.dtype),
    )


def _depthwise_forward(
    x: jax.Array, kernel: jax.Array, stride: int, sides: Sequence[tuple[int, int]]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _sum_of_products(x, kernel, stride, sides), (x, kernel)


def _depthwise_backward(
    stride: int,
    sides: Sequence[tuple[int, int]],
    inputs: tuple[jax.Array, jax.Array],
    grads: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Gradients of the map and of the kernel.

    A kernel's gradient is a sum of products over all places. On a CPU, XLA takes 2 to 5 times as long to
    reduce them as to add up the rows of an image one by one; but each row is an operation of its own to
    compile, so tall maps are reduced.
    """
    x, kernel = inputs
    apply = lambda x, kernel: _sum_of_products(x, kernel, stride, sides)
    if grads.shape[1] > _ROWS:
        return jax.vjp(apply, x, kernel)[1](grads)
    size, (height, width) = kernel.shape[0], grads.shape[1:3]
    padded = jnp.pad(x, ((0, 0), *sides, (0, 0)))
    columns = lambda j: slice(j, j + (width - 1) * stride + 1, stride)
    row = lambda i, j, y: padded[:, i + y * stride, columns(j)] * grads[:, y]
    added = [
        sum((row(i, j, y) for y in range(1, height)), row(i, j, 0))
        for i in range(size)
        for j in range(size)
    ]
    of_kernel = jnp.stack(added).sum((1, 2)).reshape(kernel.shape)
    return jax.vjp(lambda x: apply(x, kernel), x)[1](grads)[0], of_kernel


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


class FiLM(nn.Module):
    """Scales and shifts each channel by what the sentence says; at first it changes nothing."""

    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: jax.Array, sentence: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] and [B, D] to [B, H, W, C]."""
        add, multiply = (
            layers.Linear(
                (x.shape[-1],), ('embed', 'vision'), self.dtype, stddev=0.0, bias=True, name=name
            )(sentence)[:, None, None]
            for name in ('add', 'multiply')
        )
        return (1 + multiply) * x + add


def _product(outputs: int, config: EfficientNetConfig, name: str, bias: bool = False) -> nn.Module:
    """A convolution of one place; its initial scale is that of its outputs, as in the public versions."""
    deviation = math.sqrt(2 / outputs)
    axes = 'vision', 'vector'
    return layers.Linear((outputs,), axes, config.dtype, stddev=deviation, bias=bias, name=name)


class MBConv(nn.Module):
    """An inverted bottleneck with squeeze and excitation.

    Attributes:
        config: of the tower.
        block: its sizes.
        drop: share of the images for which the branch is left out in training.
    """

    config: EfficientNetConfig
    block: Block
    drop: float

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [B, H, W, inputs] to [B, H / stride, W / stride, outputs]."""
        config, block, x = self.config, self.block, inputs
        norm = lambda name: BatchNorm(config, name=name)
        if block.expand > 1:
            x = nn.silu(norm('expand_norm')(_product(block.hidden, config, 'expand')(x)))
        x = Depthwise(config, block.kernel, block.stride, name='depthwise')(x)
        x = nn.silu(norm('depthwise_norm')(x))
        squeezed = x.mean((1, 2), keepdims=True)
        squeezed = nn.silu(_product(block.squeezed, config, 'squeeze', bias=True)(squeezed))
        x *= nn.sigmoid(_product(block.hidden, config, 'excite', bias=True)(squeezed))
        x = norm('project_norm')(_product(block.outputs, config, 'project')(x))
        if not block.residual:
            return x
        if self.drop and self.has_rng('dropout'):
            keep = jax.random.bernoulli(
                self.make_rng('dropout'), 1 - self.drop, (x.shape[0], 1, 1, 1)
            )
            x = jnp.where(keep, x / (1 - self.drop), 0)
        return x + inputs


class EfficientNet(nn.Module):
    """The tower, with FiLM behind each block."""

    config: EfficientNetConfig

    @nn.compact
    def __call__(self, images: jax.Array, sentence: jax.Array) -> jax.Array:
        """Maps uint8 [B, H, W, 3 or more] and a vector an image [B, D] to [B, H / 32, W / 32, C].

        With B0's strides, C is 1280 times the width factor.
        """
        config = self.config
        x = pixels.imagenet(images).astype(config.dtype)
        x = nn.silu(BatchNorm(config, name='stem_norm')(self._stem(x)))
        blocks = list(config.blocks())
        for i, block in enumerate(blocks):
            x = MBConv(config, block, config.drop * i / len(blocks), name=f'block_{i}')(x)
            x = FiLM(config.dtype, name=f'film_{i}')(x, sentence)
            x = layers.constrain(x, 'batch', 'length', None, 'width')
        x = _product(config.channels(_HEAD), config, 'head')(x)
        return nn.silu(BatchNorm(config, name='head_norm')(x))

    @nn.nowrap
    def _stem(self, x: jax.Array) -> jax.Array:
        """A convolution of 3 x 3 pixels at every second."""
        config, width = self.config, self.config.channels(_STEM)
        init = nn.initializers.normal(math.sqrt(2 / (9 * width)))
        init = layers.with_axes(init, ('patch', None, 'channels', 'vector'))
        kernel = self.param('stem', init, (3, 3, x.shape[-1], width), jnp.float32)
        return jax.lax.conv_general_dilated(
            x,
            kernel.astype(config.dtype),
            (2, 2),
            [pads(side, 3, 2, config.padding) for side in x.shape[1:3]],
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )
