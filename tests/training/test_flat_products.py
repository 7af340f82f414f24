"""A model whose layers multiply matrices computes what the plain one does, and compiles to less."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_jax.models import layers
from rt2_jax.training import flat_products

needs_bfloat16 = pytest.mark.skipif(
    not flat_products.multiplies_bfloat16(), reason='this CPU has no instructions for bfloat16'
)


@pytest.fixture(scope='module')
def inputs(tiny):
    images, prompt = tiny.inputs(seed=1, batch=3)
    return images, prompt, prompt[:, : tiny.target_length]


def gradient(model, inputs):
    return jax.grad(lambda params: jnp.square(model.apply({'params': params}, *inputs)).sum())


def test_logits_and_gradients_are_the_plain_ones(tiny, inputs):
    params = tiny.params(0)
    plain = jax.jit(gradient(tiny.model, inputs))(params)
    flat = jax.jit(gradient(flat_products.flat(tiny.model), inputs))(params)
    for ours, theirs in zip(jax.tree.leaves(flat), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5 * np.abs(theirs).max())


def test_no_activation_is_copied_out_transposed(full_compile):
    """Of the kernels' gradients: [mlp, B * T] is a transposed activation, [B * T, mlp] one as it lies."""
    mlp, x = layers.GatedMLP(64, jnp.float32), jnp.ones((3, 36, 32))
    params = nn.meta.unbox(mlp.init(jax.random.key(0), x)['params'])

    def transposed(model):
        compiled = jax.jit(gradient(model, [x])).lower(params).compile()
        return re.findall(r'= f32\[64,108\]\{1,0\} \w+\(', compiled.as_text())

    assert transposed(mlp) and not transposed(flat_products.flat(mlp))


@needs_bfloat16
def test_bfloat16_differs_by_rounding(tiny, inputs):
    params = tiny.params(0)
    flat = jax.tree.leaves(jax.jit(gradient(flat_products.flat(tiny.model), inputs))(params))
    rounded = flat_products.for_one_cpu(tiny.model, 'bfloat16')
    rounding = jax.jit(gradient(rounded, inputs))
    assert 'bf16' in rounding.lower(params).as_text()
    ours = jax.tree.leaves(rounding(params))
    # A key's bias has no gradient but for rounding.
    least = 1e-3 * max(map(np.linalg.norm, flat))
    for x, y in zip(ours, flat, strict=True):
        assert np.linalg.norm(x - y) < 0.1 * np.linalg.norm(y) + least


@needs_bfloat16
@pytest.mark.parametrize('shape', [(1, 1, 1), (7, 3, 1), (64, 432, 128), (3840, 128, 384)])
def test_bfloat16_takes_every_shape(shape):
    rows, inputs, outputs = shape
    x = jax.random.normal(jax.random.key(0), (rows, inputs))
    kernel = jax.random.normal(jax.random.key(1), (inputs, outputs))
    y, pullback = jax.vjp(flat_products.multiply_bfloat16, x, kernel)
    of_x, of_kernel = jax.jit(pullback)(y)
    for ours, theirs in (y, x @ kernel), (of_x, y @ kernel.T), (of_kernel, x.T @ y):
        assert np.linalg.norm(ours - theirs) <= 0.01 * np.linalg.norm(theirs)
