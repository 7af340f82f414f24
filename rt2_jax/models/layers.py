"""The layers that every backbone is made of.

Axes: B batch, T queries, S keys, D width, H heads, K width of a head, F width of the hidden layer.

Kernels carry logical axis names ('embed', 'heads', 'head_dim', 'mlp', 'vocab', ...), and so do a few
activations ('batch', 'length', 'width', ...); `rt2_jax.parallel.sharding` alone decides where an axis
lies on the mesh. Parameters are float32, matrix products run in `dtype`, norms, softmax and logits in
float32.
"""

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rt2_jax.nearest import check

Dtype = jnp.dtype
NEGATIVE = -1e9  # what a mask adds to an attention logit
# gelu by tanh, as in T5 1.1, mT5, big_vision and SigLIP; silu in UL2; by erf in Hugging Face's ViT
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    'gelu': nn.gelu,
    'silu': nn.silu,
    'gelu_exact': functools.partial(nn.gelu, approximate=False),
}


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Lays an activation on the mesh by the logical names of its axes.

    Does nothing where no sharding table is in force (`parallel.sharding.rules`).
    """
    return nn.with_logical_constraint(x, names)


def with_axes(init: nn.initializers.Initializer, axes: Sequence[str | None]) -> Callable[..., Any]:
    """An initializer of a parameter that carries logical names of its axes."""
    return nn.with_logical_partitioning(init, tuple(axes))


def gather_kernel(kernel: jax.Array, axes: Sequence[str]) -> jax.Array:
    """Gathers the `embed` axis of a kernel for the product that follows.

    The partitioner by itself would cut the product into windows of that axis, each of which reads and
    writes the whole output.
    """
    return constrain(kernel, *('width' if axis == 'embed' else axis for axis in axes))


class Linear(nn.Module):
    """A matrix product over the last axes of the input.

    Attributes:
        features: the output's axes in place of the last `contract` axes of the input.
        axes: logical names of the kernel's axes, inputs first.
        dtype: of the product.
        stddev: standard deviation of the initial kernel; None for 1 / sqrt(inputs).
        contract: number of trailing input axes that are summed over.
        bias: whether a bias is added.
    """

    features: Sequence[int]
    axes: Sequence[str]
    dtype: Dtype
    stddev: float | None = None
    contract: int = 1
    bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., *inputs] to [..., *features]."""
        inputs = x.shape[-self.contract :]
        stddev = self.stddev if self.stddev is not None else float(np.prod(inputs)) ** -0.5
        kernel = self.param(
            'kernel',
            with_axes(nn.initializers.normal(stddev), self.axes),
            (*inputs, *self.features),
            jnp.float32,
        )
        kernel = gather_kernel(kernel.astype(self.dtype), self.axes)
        y = self.product(x.astype(self.dtype), kernel)
        if not self.bias:
            return y
        # A bias along the width is small: whole on every device, it needs no gathering.
        axes = ('vector' if axis == 'embed' else axis for axis in self.axes[self.contract :])
        bias = self.param(
            'bias', with_axes(nn.initializers.zeros, list(axes)), tuple(self.features), jnp.float32
        )
        return y + bias.astype(self.dtype)

    def product(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """X [..., *inputs] times a kernel [*inputs, *features]; `training.flat_products` replaces it."""
        dims = tuple(range(x.ndim - self.contract, x.ndim)), tuple(range(self.contract))
        return jax.lax.dot_general(x, kernel, (dims, ((), ())))


class RMSNorm(nn.Module):
    """Root-mean-square norm without a mean or a bias, as in T5 (arXiv 1910.10683, section 2.1).

    Attributes:
        dtype: of the output.
        epsilon: added to the mean square.
        offset: added to the scale: 1 in Gemma, whose scales begin at 0.
    """

    dtype: Dtype
    epsilon: float = 1e-6
    offset: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., D] to [..., D]."""
        scale = self.param(
            'scale',
            with_axes(nn.initializers.constant(1.0 - self.offset), ('vector',)),
            (x.shape[-1],),
            jnp.float32,
        )
        x = x.astype(jnp.float32)
        x *= jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
        return (x * (scale + self.offset if self.offset else scale)).astype(self.dtype)


class LayerNorm(nn.Module):
    """Norm with mean, scale and bias, as in ViT.

    Attributes:
        dtype: of the output.
        epsilon: added to the variance.
    """

    dtype: Dtype
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., D] to [..., D]."""
        axes = ('vector',)
        y = nn.LayerNorm(
            epsilon=self.epsilon,
            dtype=jnp.float32,
            name='norm',
            scale_init=with_axes(nn.initializers.ones, axes),
            bias_init=with_axes(nn.initializers.zeros, axes),
        )(x)
        return y.astype(self.dtype)


class GatedMLP(nn.Module):
    """Gated hidden layer (arXiv 2002.05202): (act(x wi_0) * x wi_1) wo.

    Attributes:
        hidden: F.
        dtype: of the products.
        activation: of `ACTIVATIONS`.
    """

    hidden: int
    dtype: Dtype
    activation: str = 'gelu'

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, T, D] to [B, T, D]."""
        width = x.shape[-1]
        act = ACTIVATIONS[check('activation', self.activation, ACTIVATIONS)]
        gate = Linear((self.hidden,), ('embed', 'mlp'), self.dtype, name='wi_0')(x)
        up = Linear((self.hidden,), ('embed', 'mlp'), self.dtype, name='wi_1')(x)
        hidden = constrain(act(gate) * up, 'batch', 'length', 'mlp')
        return Linear((width,), ('mlp', 'embed'), self.dtype, name='wo')(hidden)


class MLP(nn.Module):
    """Hidden layer with biases, as in ViT.

    Attributes:
        hidden: F.
        dtype: of the products.
        activation: of `ACTIVATIONS`.
    """

    hidden: int
    dtype: Dtype
    activation: str = 'gelu'

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, T, D] to [B, T, D]."""
        width = x.shape[-1]
        act = ACTIVATIONS[check('activation', self.activation, ACTIVATIONS)]
        x = Linear((self.hidden,), ('embed', 'mlp'), self.dtype, bias=True, name='wi')(x)
        hidden = constrain(act(x), 'batch', 'length', 'mlp')
        return Linear((width,), ('mlp', 'embed'), self.dtype, bias=True, name='wo')(hidden)


class Attention(nn.Module):
    """Multi-head attention whose keys and values can be computed apart, for caching.

    Attributes:
        width: D.
        heads: H.
        head_dim: K.
        dtype: of the products.
        scale: factor on the logits. T5 has none (1.0) and starts with a smaller query kernel instead.
        bias: whether the four products have biases, as in ViT.
        qk_norm: whether each head's queries and keys are normed, as in ViT-22B (arXiv 2302.05442).
        dropout: share of the attention that is left out where the call has an rng of this name.
    """

    width: int
    heads: int
    head_dim: int
    dtype: Dtype
    scale: float = 1.0
    bias: bool = False
    qk_norm: bool = False
    dropout: float = 0.0

    def setup(self) -> None:
        """Makes the four products, and two norms with `qk_norm`."""
        split, axes = (self.heads, self.head_dim), ('embed', 'heads', 'head_dim')
        # Whatever the scale, logits start at unit size.
        stddev = (self.width * self.head_dim) ** -0.5 / self.scale
        self.query = Linear(split, axes, self.dtype, stddev=stddev, bias=self.bias)
        self.key = Linear(split, axes, self.dtype, bias=self.bias)
        self.value = Linear(split, axes, self.dtype, bias=self.bias)
        self.out = Linear(
            (self.width,), ('heads', 'head_dim', 'embed'), self.dtype, contract=2, bias=self.bias
        )
        if self.qk_norm:
            self.query_norm, self.key_norm = RMSNorm(self.dtype), RMSNorm(self.dtype)
        if self.dropout:
            self.attention_dropout = nn.Dropout(self.dropout)

    def keys_values(self, source: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns keys and values, each [B, S, H, K], of a source [B, S, D]."""
        keys = self.key(source)
        return self._heads(self.key_norm(keys) if self.qk_norm else keys), self._heads(
            self.value(source)
        )

    def __call__(
        self,
        x: jax.Array,
        keys_values: tuple[jax.Array, jax.Array],
        *biases: jax.Array,
        layouts: tuple[str, str] = ('bshk', 'bshk'),
    ) -> jax.Array:
        """Attends from x [B, T, D] to keys and values [B, S, H, K].

        Args:
            x: the states that the queries are made of.
            keys_values: as `keys_values` returns them.
            *biases: float32, each broadcastable to [B, H, T, S], added to the logits; masks are
                `NEGATIVE`. Several, because a sum of [1, H, T, S] and [B, 1, 1, S] would be B times
                as large.
            layouts: order of the axes of the keys and of the values.

        Returns:
            [B, T, D].
        """
        keys, values = keys_values
        query = self.query(x)
        if self.qk_norm:
            query = self.query_norm(query)
        query = self._heads(query * jnp.asarray(self.scale, self.dtype))
        logits = self.einsum(f'bthk,{layouts[0]}->bhts', query, keys, jnp.float32)
        for bias in biases:
            logits += bias
        weights = jax.nn.softmax(logits, axis=-1)
        self.sow('intermediates', 'weights', weights)
        weights = weights.astype(self.dtype)
        if self.dropout:
            weights = self.attention_dropout(weights, deterministic=not self.has_rng('dropout'))
        mixed = self.einsum(f'bhts,{layouts[1]}->bthk', weights, values, self.dtype)
        return self.out(self._heads(mixed))

    def einsum(self, spec: str, x: jax.Array, y: jax.Array, dtype: Dtype) -> jax.Array:
        """A product of two activations, of type `dtype`."""
        return jnp.einsum(spec, x, y, preferred_element_type=dtype)

    def _heads(self, x: jax.Array) -> jax.Array:
        return constrain(x, 'batch', 'length', 'heads', 'head_dim')


class RelativeBias(nn.Module):
    """T5's relative position bias: one number a head and bucket of distances (arXiv 1910.10683).

    Small distances have a bucket each, larger ones share buckets on a logarithmic scale.

    Attributes:
        heads: H.
        bidirectional: whether half of the buckets are for keys behind the query.
        buckets: how many.
        max_distance: from which on all distances share the last bucket.
    """

    heads: int
    bidirectional: bool
    buckets: int = 32
    max_distance: int = 128

    @nn.compact
    def __call__(self, queries: jax.Array, keys: jax.Array) -> jax.Array:
        """Returns float32 [1, H, T, S] for positions int32 [T] and [S]."""
        table = self.param(
            'table',
            with_axes(nn.initializers.normal(0.1), ('buckets', 'heads')),
            (self.buckets, self.heads),
            jnp.float32,
        )
        later = keys[None, :] - queries[:, None]
        return jnp.transpose(table[self._bucket(later)], (2, 0, 1))[None]

    def _bucket(self, later: jax.Array) -> jax.Array:
        buckets, start = self.buckets, jnp.zeros_like(later)
        if self.bidirectional:
            buckets //= 2
            start = jnp.where(later > 0, buckets, 0)
            distance = jnp.abs(later)
        else:
            distance = jnp.maximum(-later, 0)
        exact = buckets // 2
        ratio = jnp.maximum(distance, 1).astype(jnp.float32) / exact
        shared = exact + (
            jnp.log(ratio) / math.log(self.max_distance / exact) * (buckets - exact)
        ).astype(jnp.int32)
        return start + jnp.where(distance < exact, distance, jnp.minimum(shared, buckets - 1))
