"""The layers every backbone is made of.

Axes: B batch, T queries, S keys, D width, H heads, K width of a head, F width of the hidden layer.

Kernels carry logical axis names ('embed', 'heads', 'head_dim', 'mlp', 'vocab', ...), and what flows
between layers does at a few boundaries ('batch', 'length', 'width', ...); where an axis lives on the
mesh is decided in `rt2_jax.parallel.sharding` and nowhere else. Parameters are float32, matrix
products run in `dtype`, norms, softmax and logits in float32.
"""

from collections.abc import Sequence
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rt2_jax.models import heads, rows
from rt2_jax.nearest import check

Dtype = jnp.dtype
NEGATIVE = -1e9  # what a masked attention logit is set to
# gelu by tanh, as in T5 1.1, mT5, big_vision and SigLIP; silu in UL2; by erf in Hugging Face's ViT
ACTIVATIONS = {
    'gelu': nn.gelu,
    'silu': nn.silu,
    'gelu_exact': functools.partial(nn.gelu, approximate=False),
}


def boundary(x: jax.Array, *names: str | None) -> jax.Array:
    """Names the axes of an activation, so that it lies on the mesh as the table says.

    Does nothing where no table is in force (`parallel.sharding.rules`).
    """
    return nn.with_logical_constraint(x, names)


def gathered(kernel: jax.Array, axes: Sequence[str]) -> jax.Array:
    """A kernel with its `embed` axis whole, for the product that follows.

    Said, not left to the partitioner: it would cut the product into windows of the axis instead, each
    of which reads and writes all of the output.
    """
    return boundary(kernel, *('width' if axis == 'embed' else axis for axis in axes))


class Linear(nn.Module):
    """A matrix product without a bias over the last axes of the input.

    Attributes:
      features: the output's shape in place of the `contract` last axes of the input.
      axes: logical names of the kernel's axes, inputs first.
      stddev: standard deviation of the initial kernel; 1 / sqrt(inputs) if None.
      contract: number of trailing input axes that are summed over.
    """

    features: Sequence[int]
    axes: Sequence[str]
    dtype: Dtype
    stddev: float | None = None
    contract: int = 1
    bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        stored = rows.of(self)
        if stored is None:
            y = self._product(x)
        else:
            y = stored.product(x, self.contract, self.dtype, self.dtype)
        if self.bias:
            # A bias along the width is small: whole on every device, it needs no gathering.
            axes = ('vector' if axis == 'embed' else axis for axis in self.axes[self.contract :])
            bias = self.param(
                'bias',
                nn.with_logical_partitioning(nn.initializers.zeros, tuple(axes)),
                tuple(self.features),
                jnp.float32,
            )
            y += bias.astype(self.dtype)
        return y

    @nn.nowrap
    def _product(self, x: jax.Array) -> jax.Array:
        inputs = x.shape[-self.contract :]
        stddev = self.stddev if self.stddev is not None else float(np.prod(inputs)) ** -0.5
        kernel = self.param(
            'kernel',
            nn.with_logical_partitioning(nn.initializers.normal(stddev), tuple(self.axes)),
            (*inputs, *self.features),
            jnp.float32,
        )
        dims = tuple(range(x.ndim - self.contract, x.ndim)), tuple(range(self.contract))
        kernel = gathered(kernel.astype(self.dtype), self.axes)
        return jax.lax.dot_general(x.astype(self.dtype), kernel, (dims, ((), ())))


class WordVectors(nn.Module):
    """Token ids -> vectors, and states -> logits by the same vectors.

    Attributes:
      vocab, width: V and D.
      numbers: the token id of each integer 0, 1, ...; a fixed `number_line` is added to their vectors.
        empty if integers are words like any other.
    """

    vocab: int
    width: int
    dtype: Dtype
    numbers: tuple[int, ...] = ()

    def setup(self):
        init = nn.initializers.normal(self.width**-0.5)
        self.stored = rows.of(self)
        if self.stored is None:
            embedding = self.param(
                'embedding',
                nn.with_logical_partitioning(init, ('vocab', 'embed')),
                (self.vocab, self.width),
                jnp.float32,
            )
            self.stored = rows.Rows(embedding)
        self.fixed = 0.0
        if self.numbers:
            fixed = np.zeros((self.vocab, self.width), np.float32)
            fixed[list(self.numbers)] = number_line(len(self.numbers), self.width)
            self.fixed = jnp.asarray(fixed)

    def table(self) -> jax.Array:
        """All vectors, [V, D]."""
        return (self.stored.whole() + self.fixed).astype(self.dtype)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Maps int32 [...] to [..., D]."""
        # Taken before they are added: a decoding step shall not make the whole table.
        vectors = self.stored.at(ids).whole()
        if self.numbers:
            vectors += jnp.take(self.fixed, ids, axis=0)
        return vectors.astype(self.dtype)

    def looked_up(self, ids: jax.Array) -> jax.Array:
        """Maps int32 [B, T] to [B, T, D], looked up where the table lies.

        Each device takes its part of the width for the rows of all that share the table, and then
        gives columns for rows. Neither the table is gathered, nor what flows back into it.
        """
        vectors = self(boundary(ids, 'rows', 'length'))
        vectors = boundary(vectors, 'rows', 'length', 'embed')
        return boundary(vectors, 'batch', 'length', 'width')

    def attend(self, x: jax.Array, columns: jax.Array | None = None) -> jax.Array:
        """Maps states [..., D] to float32 logits [..., V], or [..., C] of the ids int32 [C]."""
        table = self.table() if columns is None else self(columns)
        return jnp.einsum('...d,vd->...v', x, table, preferred_element_type=jnp.float32)


def number_line(
    count: int, width: int, wavelengths: tuple[float, float] | None = None
) -> np.ndarray:
    """Unit vectors of the integers below `count` as sines and cosines, float32 [count, width].

    Near numbers have near vectors, at every scale from a few up to `count`; so a place or an
    action that is nearly right is nearly learnt, where words would all be equally wrong.

    Args:
      count: how many.
      width: of a vector.
      wavelengths: the shortest and the longest; 16 and four times `count` by default.

    Raises:
      ValueError: the width is odd.
    """
    if width % 2:
        raise ValueError(f'a number line needs an even width, not {width}')
    wavelengths = wavelengths or (16, 4 * count)
    angles = np.arange(count)[:, None] * 2 * np.pi / np.geomspace(*wavelengths, width // 2)
    line = np.concatenate([np.sin(angles), np.cos(angles)], axis=1) / math.sqrt(width / 2)
    return line.astype(np.float32)


class RMSNorm(nn.Module):
    """Root-mean-square norm without a mean or a bias, as in T5 (arXiv 1910.10683, section 2.1).

    `offset` is added to the scale: 1 in Gemma, whose scales begin at 0.
    """

    dtype: Dtype
    epsilon: float = 1e-6
    offset: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param(
            'scale',
            nn.with_logical_partitioning(nn.initializers.constant(1.0 - self.offset), ('vector',)),
            (x.shape[-1],),
            jnp.float32,
        )
        x = x.astype(jnp.float32)
        x *= jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
        return (x * (scale + self.offset if self.offset else scale)).astype(self.dtype)


class LayerNorm(nn.Module):
    """Norm with mean, scale and bias, as in ViT."""

    dtype: Dtype
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        axes = ('vector',)
        y = nn.LayerNorm(
            epsilon=self.epsilon,
            dtype=jnp.float32,
            name='norm',
            scale_init=nn.with_logical_partitioning(nn.initializers.ones, axes),
            bias_init=nn.with_logical_partitioning(nn.initializers.zeros, axes),
        )(x)
        return y.astype(self.dtype)


class GatedMLP(nn.Module):
    """Gated hidden layer (arXiv 2002.05202): (act(x wi_0) * x wi_1) wo."""

    hidden: int
    dtype: Dtype
    activation: str = 'gelu'

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        act = ACTIVATIONS[check('activation', self.activation, ACTIVATIONS)]
        gate = Linear((self.hidden,), ('embed', 'mlp'), self.dtype, name='wi_0')(x)
        up = Linear((self.hidden,), ('embed', 'mlp'), self.dtype, name='wi_1')(x)
        hidden = boundary(act(gate) * up, 'batch', 'length', 'mlp')
        return Linear((width,), ('mlp', 'embed'), self.dtype, name='wo')(hidden)


class MLP(nn.Module):
    """Plain hidden layer with biases, as in ViT."""

    hidden: int
    dtype: Dtype
    activation: str = 'gelu'

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        act = ACTIVATIONS[check('activation', self.activation, ACTIVATIONS)]
        x = Linear((self.hidden,), ('embed', 'mlp'), self.dtype, bias=True, name='wi')(x)
        hidden = boundary(act(x), 'batch', 'length', 'mlp')
        return Linear((width,), ('mlp', 'embed'), self.dtype, bias=True, name='wo')(hidden)


class Attention(nn.Module):
    """Multi-head attention whose keys and values can be computed apart, for caching.

    Attributes:
      width: D.
      heads: number of heads H.
      head_dim: width K of a head.
      scale: factor on the logits. T5 has none (1.0) and starts with a smaller query kernel instead.
      bias: whether the four products have biases, as in ViT.
      qk_norm: whether each head's queries and keys are normed, as in ViT-22B (arXiv 2302.05442).
    """

    width: int
    heads: int
    head_dim: int
    dtype: Dtype
    scale: float = 1.0
    bias: bool = False
    qk_norm: bool = False

    def setup(self):
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
        form: str = 'bshk bshk',
    ) -> jax.Array:
        """Attends from x [B, T, D] to keys and values [B, S, H, K].

        Args:
          x: what asks.
          keys_values: what `keys_values` returned for what is attended to.
          form: how the keys' and the values' axes lie, if not so.
          *biases: float32, each broadcastable to [B, H, T, S], added to the logits; masks are
            `NEGATIVE`. Apart, because a sum of [1, H, T, S] and [B, 1, 1, S] would be B times as large.

        Returns:
          [B, T, D].
        """
        keys, values = keys_values
        query = self.query(x)
        if self.qk_norm:
            query = self.query_norm(query)
        query = self._heads(query * jnp.asarray(self.scale, self.dtype))
        of_keys, of_values = form.split()
        product = functools.partial(heads.einsum, self.query)
        logits = product(f'bthk,{of_keys}->bhts', query, keys, jnp.float32)
        for bias in biases:
            logits += bias
        weights = jax.nn.softmax(logits, axis=-1)
        self.sow('intermediates', 'weights', weights)
        weights = weights.astype(self.dtype)
        mixed = product(f'bhts,{of_values}->bthk', weights, values, self.dtype)
        return self.out(self._heads(mixed))

    def _heads(self, x: jax.Array) -> jax.Array:
        return boundary(x, 'batch', 'length', 'heads', 'head_dim')


class RelativeBias(nn.Module):
    """T5's relative position bias: one number a head and bucket of distances (arXiv 1910.10683).

    Small distances have a bucket each, larger ones share buckets on a logarithmic scale up to
    `max_distance`. `bidirectional` keeps half of the buckets for positions that come later.
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
            nn.with_logical_partitioning(nn.initializers.normal(0.1), ('buckets', 'heads')),
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
