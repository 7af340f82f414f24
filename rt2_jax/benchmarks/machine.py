"""What a machine can do: read memory, and multiply matrices."""

from __future__ import annotations

from collections.abc import Iterator
import concurrent.futures
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from rt2_jax.training import flops

READ_BYTES = 1 << 30  # more than caches hold
_QUEUED = 8  # sums of it on a device, so that starting one costs nothing


def read() -> Iterator[range]:
    """Reads memory on all threads, or a device's; yields a row for each 16 MiB."""
    rows = range(READ_BYTES >> 24)
    if jax.default_backend() != 'cpu':
        array, sums = jnp.ones(READ_BYTES // 4, jnp.float32), jax.jit(jnp.sum)
        while True:
            jax.block_until_ready([sums(array) for _ in range(_QUEUED)])
            yield range(_QUEUED * len(rows))
    threads = len(os.sched_getaffinity(0))
    parts = [np.ones(READ_BYTES // 8 // threads, np.int64) for _ in range(threads)]
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        while True:
            list(pool.map(np.bitwise_or.reduce, parts))
            yield rows


def multiply() -> Iterator[range]:
    """Multiplies bfloat16 matrices; yields a row for each GFLOP."""
    side, queued = flops.product_size(jax.default_backend())
    x = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    square = jax.jit(functools.partial(jnp.dot, preferred_element_type=jnp.float32))
    while True:
        jax.block_until_ready([square(x, x) for _ in range(queued)])
        yield range(round(queued * 2 * side**3 / 1e9))
