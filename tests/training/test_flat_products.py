"""A model whose layers multiply matrices computes what the plain one does, and compiles to less."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_jax.training.flat_products import FlatProducts


@pytest.fixture(scope='module')
def inputs(tiny):
    images, prompt = tiny.inputs(seed=1, batch=3)
    return images, prompt, prompt[:, : tiny.target_length]


def gradient(model, inputs):
    return jax.grad(lambda params: jnp.square(model.apply({'params': params}, *inputs)).sum())


def test_logits_and_gradients_are_the_plain_ones(tiny, inputs):
    params = tiny.params(0)
    plain = jax.jit(gradient(tiny.model, inputs))(params)
    flat = jax.jit(gradient(FlatProducts(tiny.model), inputs))(params)
    for ours, theirs in zip(jax.tree.leaves(flat), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5 * np.abs(theirs).max())


def test_no_activation_is_copied_out_transposed(tiny, inputs, full_compile):
    """Of the kernels' gradients: [mlp, B * T] is a transposed activation, [B * T, mlp] one as it lies."""
    rows = 3 * (2 * 2 + tiny.prompt_length)

    def transposed(model):
        compiled = jax.jit(gradient(model, inputs)).lower(tiny.params(0)).compile()
        return re.findall(rf'= f32\[64,{rows}\]\{{1,0\}} \w+\(', compiled.as_text())

    assert transposed(tiny.model) and not transposed(FlatProducts(tiny.model))
