"""What a plain matmul reaches, by which the use of an accelerator that no table knows is measured."""

import jax.numpy as jnp
import pytest

from rt2_jax.training import flops


def test_products_are_large_where_small_ones_would_not_fill_the_device():
    work = {}
    for platform in ('cpu', 'gpu', 'tpu'):
        size, queued = flops.product_size(platform)
        work[platform] = queued * 2 * size**3
    # At 1e15 FLOP/s, the fastest cards of today, a measurement takes milliseconds; a start takes 0.1.
    assert work['gpu'] == work['tpu'] and work['gpu'] / 1e15 > 5e-3
    assert work['cpu'] / 1e11 < 0.1  # and on two slow cores no more than that


def test_peak_here_is_of_the_order_that_a_core_has():
    assert 1e8 < flops.matmul_peak(jnp.float32, seconds=0.05) < 1e13


@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
def test_a_measurement_is_made_however_short_the_time(dtype):
    assert flops.matmul_peak(jnp.dtype(dtype), seconds=0.0) > 0
