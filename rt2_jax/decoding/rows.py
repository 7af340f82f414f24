"""Kernels as decoding reads them: a row for each output, in bfloat16 or in int8 with a scale.

One token multiplies every weight once, so its time is that of reading them; whatever a product does to
a weight before it multiplies must not touch memory. On a CPU, XLA's own products with a vector do: they
write a float32 copy of the kernel, at a tenth of the memory's speed. Its library for products reads
bfloat16 and int8 as they are, from rows that lie one after the other, as the left side of a product
with two columns or more. So a product of few inputs is made of that. A product of many inputs, as in
encoding an image, is bound by arithmetic, which is fastest in bfloat16 with the rows on the right. On
other devices XLA converts within the product.

Few inputs of an int8 kernel are rounded to 15 bits: they go in as two columns of int8, a high and a low
part, and the sums are exact. Nothing is lost that bfloat16 would have kept.

Axes: M inputs at once, N outputs, K numbers of an input.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import flax.linen as nn
import jax
from jax.experimental.layout import Layout, with_layout_constraint
import jax.numpy as jnp

VALUES, SCALE = 'rows', 'scale'  # names of a parameter's two arrays
FEW = 64  # inputs at once, up to which reading a kernel takes longer than multiplying by it
_LOW = 128  # the low part of an input is less than half of this, in units of the last bit
_TOP = 127 * _LOW  # the largest input, in the same units


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """A kernel.

    Attributes:
        values: bfloat16 or int8 [*outputs, *inputs].
        scale: float32 [*outputs], the factor of each row of int8; None for other types.
    """

    values: jax.Array
    scale: jax.Array | None = None

    def whole(self) -> jax.Array:
        """The kernel in float32, [*outputs, *inputs]."""
        values = self.values.astype(jnp.float32)
        if self.scale is None:
            return values
        return values * self.scale.reshape(
            *self.scale.shape, *[1] * (values.ndim - self.scale.ndim)
        )

    def at(self, ids: jax.Array) -> Rows:
        """The rows of ids int32 [C], of a kernel with one output axis."""
        scale = None if self.scale is None else jnp.take(self.scale, ids, axis=0)
        return Rows(jnp.take(self.values, ids, axis=0), scale)

    def product(
        self, x: jax.Array, contract: int, dtype: jnp.dtype, out: jnp.dtype = jnp.float32
    ) -> jax.Array:
        """Multiplies inputs by the kernel.

        Args:
            x: [..., *inputs].
            contract: number of input axes.
            dtype: that the product is computed in, on devices where that is fastest.
            out: type of the result.

        Returns:
            [..., *outputs].
        """
        plain = functools.partial(_plain, contract=contract, dtype=dtype, out=out)
        if nn.get_logical_axis_rules():
            return plain(x, self)  # on a mesh, the partitioner has to see the axes
        return jax.lax.platform_dependent(
            x,
            self.values,
            self.scale,
            cpu=lambda x, *kernel: _streamed(x, Rows(*kernel), contract).astype(out),
            default=lambda x, *kernel: plain(x, Rows(*kernel)),
        )


def of(module: nn.Module) -> Rows | None:
    """The rows that a module has in place of its kernel; None where it has the kernel itself."""
    if not module.has_variable('params', VALUES):
        return None
    scale = module.get_variable('params', SCALE) if module.has_variable('params', SCALE) else None
    return Rows(module.get_variable('params', VALUES), scale)


def quantize(values: jax.Array, inputs: int) -> Rows:
    """Rounds to int8 rows whose largest number, by absolute value, is 127 scales.

    Args:
        values: [*outputs, *inputs].
        inputs: number of trailing axes that share a scale.
    """
    values = values.astype(jnp.float32)
    axes = tuple(range(values.ndim - inputs, values.ndim))
    largest = jnp.max(jnp.abs(values), axis=axes, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1.0) / 127
    return Rows(jnp.round(values / scale).astype(jnp.int8), jnp.squeeze(scale, axes))


def _plain(x: jax.Array, rows: Rows, contract: int, dtype: jnp.dtype, out: jnp.dtype) -> jax.Array:
    """The product as XLA computes it; devices that share it sum up arrays of type `out`."""
    left, right = (tuple(range(a.ndim - contract, a.ndim)) for a in (x, rows.values))
    values = rows.values.astype(dtype)
    y = jax.lax.dot_general(
        x.astype(dtype), values, ((left, right), ((), ())), preferred_element_type=out
    )
    return y if rows.scale is None else y * rows.scale.astype(out)


def _streamed(x: jax.Array, rows: Rows, contract: int) -> jax.Array:
    """The product as a CPU does it fastest, float32; see the file's head."""
    lead, outputs = x.shape[: x.ndim - contract], rows.values.shape[: rows.values.ndim - contract]
    x = x.reshape(math.prod(lead), -1)
    values = rows.values.reshape(-1, x.shape[1])
    if len(x) > FEW:
        flat = Rows(values, None if rows.scale is None else rows.scale.reshape(-1))
        y = _plain(x, flat, 1, jnp.bfloat16, jnp.float32)
    elif rows.scale is None:
        y = _columns(values, x.astype(values.dtype), jnp.float32)
    else:
        high, low, unit = _parts(x.astype(jnp.float32))
        parts = _columns(values, jnp.concatenate([high, low]), jnp.int32).astype(jnp.float32)
        y = (_LOW * parts[: len(x)] + parts[len(x) :]) * unit * rows.scale.reshape(-1)
    return y.reshape(*lead, *outputs)


@functools.partial(jax.jit, static_argnames='dtype')
def _columns(values: jax.Array, x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """[N, K] rows times [M, K] inputs: [M, N]."""
    count = len(x)
    if count == 1:  # XLA does not call the library for products with vectors
        x = jnp.concatenate([x, jnp.zeros_like(x)])
    # The layouts are fixed, or the transpositions move into the product and it takes the slow way.
    fix = lambda a: with_layout_constraint(a, Layout((0, 1)))
    y = fix(jnp.dot(values, fix(x.T), preferred_element_type=dtype))
    return y.T[:count]


def _parts(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Inputs [M, K] in 15 bits: int8 high and low parts, and the unit of each row, float32 [M, 1]."""
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    unit = jnp.where(largest > 0, largest, 1.0) / _TOP
    number = jnp.round(x / unit)
    high = jnp.round(number / _LOW)
    return high.astype(jnp.int8), (number - _LOW * high).astype(jnp.int8), unit
