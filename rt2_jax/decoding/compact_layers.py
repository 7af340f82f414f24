"""How the models' layers compute with compact weights: an interceptor of their methods.

On a CPU with the instructions for it, XLA's library multiplies bfloat16 five times as fast as float32,
but only to float32, and only matrices that lie one behind the other; with axes in another order it
takes three times as long. So there the products of attention put the heads in front. On other devices,
and beside other weights, XLA chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
import math
from typing import Any

import flax.linen as nn
import jax
from jax.experimental.layout import Layout, with_layout_constraint
import jax.numpy as jnp

from rt2_jax.decoding import rows
from rt2_jax.models import embedding, gemma, layers


def intercept(
    call: Callable[..., Any],
    args: Sequence[Any],
    settings: Mapping[str, Any],
    context: nn.module.InterceptorContext,
) -> Any:
    """Computes products with `rows` where a module has them; for `nn.intercept_methods`."""
    module, method = context.module, context.method_name
    if isinstance(module, layers.Linear) and method == '__call__':
        if (kernel := rows.of(module)) is not None:
            return _linear(module, kernel, *args)
    elif isinstance(module, embedding.Head) and method == '__call__':
        if (kernel := rows.of(module)) is not None:
            return _head(module, kernel, *args, **settings)
    elif isinstance(module, (layers.Attention, gemma.Attention)) and method == 'einsum':
        if rows.of(module.query) is not None:
            return einsum(*args)
    return call(*args, **settings)


def _linear(module: layers.Linear, kernel: rows.Rows, x: jax.Array) -> jax.Array:
    y = kernel.product(x, module.contract, module.dtype, module.dtype)
    if module.bias:
        y += module.get_variable('params', 'bias').astype(module.dtype)
    return y


def _head(
    module: embedding.Head, kernel: rows.Rows, x: jax.Array, columns: jax.Array | None = None
) -> jax.Array:
    kernel = kernel if columns is None else kernel.at(columns)
    return kernel.product(x, 1, module.dtype)


def einsum(spec: str, x: jax.Array, y: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """An einsum of two activations.

    Args:
        spec: as in 'bthk,bshk->bhts'.
        x: of the type of y.
        y: of the type of x.
        dtype: of the result.
    """
    plain = functools.partial(jnp.einsum, spec, preferred_element_type=dtype)
    of_x, of_y = spec.split('->')[0].split(',')
    count = math.prod(size for axis, size in zip(of_x, x.shape) if axis not in of_y)
    if count <= rows.FEW or nn.get_logical_axis_rules():
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
    left, right = ([axis for axis in axes if axis not in heads + summed] for axes in (of_x, of_y))
    x = _matrices(x, of_x, heads, left, summed)
    if of_y.index(right[0]) < of_y.index(summed[0]):  # as it lies
        z, y = 'nmk,nck->nmc', _matrices(y, of_y, heads, right, summed)
    else:
        z, y = 'nmk,nkc->nmc', _matrices(y, of_y, heads, summed, right)
    # Where the next product takes bfloat16 again, the conversion would move into this one.
    y = _fixed(jnp.einsum(z, x, y, preferred_element_type=jnp.float32))
    axes = heads + left + right
    return jnp.einsum(f'{"".join(axes)}->{out}', y.reshape([sizes[axis] for axis in axes]))


def _matrices(x: jax.Array, axes: str, *groups: list[str]) -> jax.Array:
    """bfloat16 with an axis for each group of axes, in their order."""
    sizes = dict(zip(axes, x.shape))
    order = ''.join(axis for group in groups for axis in group)
    x = jnp.einsum(f'{axes}->{order}', x.astype(jnp.bfloat16))
    return _fixed(x.reshape([math.prod(sizes[axis] for axis in group) for group in groups]))


def _fixed(x: jax.Array) -> jax.Array:
    """Fixes the layout of an array of three axes, which also keeps it from being fused."""
    return with_layout_constraint(x, Layout((0, 1, 2)))
