"""FLOPs of a program, counted in its jaxpr, and the FLOP/s that a device reaches."""

from collections.abc import Iterator
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rt2_jax.parallel import jaxprs


def product_size(platform: str) -> tuple[int, int]:
    """Side of the square matrices that show a device's peak, and how many products to queue.

    A product of 1,024 takes microseconds on an accelerator, less than it takes to start it, and does
    not fill one; products of 8,192 do, queued so that starting them costs nothing.
    """
    return (1024, 1) if platform == 'cpu' else (8192, 8)


def matmul_peak(dtype: Any = jnp.float32, seconds: float = 0.4) -> float:
    """FLOP/s that a plain square matmul reaches on one device here, the best of many runs.

    The numbers are random: a GPU multiplies constant ones faster, since they take less power.
    """
    size, queued = product_size(jax.default_backend())
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    multiply = jax.jit(jnp.dot)
    multiply(x, x).block_until_ready()
    best, end = 0.0, time.perf_counter() + seconds
    while best == 0.0 or time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready([multiply(x, x) for _ in range(queued)])
        best = max(best, queued * 2 * size**3 / (time.perf_counter() - start))
    return best


def products(jaxpr: Any) -> Iterator[tuple[Any, int]]:
    """The matrix products and convolutions in a jaxpr, with how often each is run.

    Loops of known length are counted in full; of a conditional, the dearest branch counts.
    """
    jaxpr = getattr(jaxpr, 'jaxpr', jaxpr)
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name in ('dot_general', 'conv_general_dilated'):
            yield equation, 1
        elif name == 'cond':
            yield from products(max(params['branches'], key=count_flops))
        else:
            times = params['length'] if name == 'scan' else 1
            for inner in jaxprs.inner_jaxprs(equation):
                yield from ((product, times * count) for product, count in products(inner))


def count_flops(jaxpr: Any) -> float:
    """FLOPs of the `products` of a jaxpr; a multiplication and its addition count as two.

    XLA's own cost analysis counts the body of a scan once and leaves out products that a library
    runs.
    """
    return sum(times * _flops(equation) for equation, times in products(jaxpr))


def _flops(equation: Any) -> float:
    outputs = equation.outvars[0].aval.size
    if equation.primitive.name == 'dot_general':
        (contract, _), _ = equation.params['dimension_numbers']
        return (
            2.0
            * outputs
            * np.prod([equation.invars[0].aval.shape[axis] for axis in contract], initial=1.0)
        )
    kernel = equation.invars[1].aval
    features = kernel.shape[equation.params['dimension_numbers'].rhs_spec[0]]
    return 2.0 * outputs * kernel.size / features
