"""Attention's two products, head by head, as decoding with compact weights has them.

On a CPU with the instructions for it, XLA's library multiplies bfloat16 five times as fast as float32,
but only to float32, and only matrices that lie one behind the other; with axes in another order it
takes three times as long. So there the heads go in front. Elsewhere, and beside other weights, XLA
chooses.
"""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
from jax.experimental.layout import Layout, with_layout_constraint
import jax.numpy as jnp

from rt2_jax.models import rows


def einsum(beside: nn.Module, spec: str, x: jax.Array, y: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """An einsum of two activations.

    Args:
      beside: the module that made the queries; what its weights are decides.
      spec: as in 'bthk,bshk->bhts'.
      x, y: of one type.
      dtype: of what comes out.
    """
    plain = functools.partial(jnp.einsum, spec, preferred_element_type=dtype)
    of_x, of_y = spec.split('->')[0].split(',')
    count = math.prod(size for axis, size in zip(of_x, x.shape) if axis not in of_y)
    if rows.of(beside) is None or count <= rows.FEW or nn.get_logical_axis_rules():
        return plain(x, y)
    heads_first = lambda x, y: _heads_first(spec, x, y).astype(dtype)
    return jax.lax.platform_dependent(x, y, cpu=heads_first, default=plain)


def _heads_first(spec: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """The einsum of bfloat16 to float32, as many products of two matrices."""
    inputs, out = spec.split('->')
    of_x, of_y = inputs.split(',')
    sizes = dict(zip(of_x, x.shape)) | dict(zip(of_y, y.shape))
    heads = [axis for axis in out if axis in of_x and axis in of_y]
    summed = [axis for axis in of_x if axis in of_y and axis not in out]
    left, right = ([axis for axis in own if axis not in heads + summed] for own in (of_x, of_y))
    x = _matrices(x, of_x, heads, left, summed)
    if of_y.index(right[0]) < of_y.index(summed[0]):  # as they lie
        z, y = 'nmk,nck->nmc', _matrices(y, of_y, heads, right, summed)
    else:
        z, y = 'nmk,nkc->nmc', _matrices(y, of_y, heads, summed, right)
    # Where the next product takes bfloat16 again, the conversion would move into this one.
    y = _pinned(jnp.einsum(z, x, y, preferred_element_type=jnp.float32))
    axes = heads + left + right
    return jnp.einsum(f'{"".join(axes)}->{out}', y.reshape([sizes[axis] for axis in axes]))


def _matrices(x: jax.Array, axes: str, *groups: list[str]) -> jax.Array:
    """bfloat16 with an axis for each group of axes, in their order."""
    sizes = dict(zip(axes, x.shape))
    order = ''.join(axis for group in groups for axis in group)
    x = jnp.einsum(f'{axes}->{order}', x.astype(jnp.bfloat16))
    return _pinned(x.reshape([math.prod(sizes[axis] for axis in group) for group in groups]))


def _pinned(x: jax.Array) -> jax.Array:
    """An array of three axes that lies in their order, and is not merged with what is around it."""
    return with_layout_constraint(x, Layout((0, 1, 2)))
