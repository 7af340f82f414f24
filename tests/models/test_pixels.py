"""Pixels are normalised in float32, whatever a tower multiplies in."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_jax.models import vit

GREYS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)


def normalised(dtype) -> np.ndarray:
    """What the stem of a tower gets of each grey level, float32 [256]."""
    tower = vit.ViT(
        vit.ViTConfig(width=8, depth=1, heads=2, mlp=8, patch=16, dtype=jnp.dtype(dtype))
    )
    seen = []

    def note(call, args, settings, context):
        if isinstance(context.module, vit.PatchStem) and context.method_name == '__call__':
            seen.append(args[0])
        return call(*args, **settings)

    with nn.intercept_methods(note):
        tower.init(jax.random.key(0), GREYS)
    return np.asarray(seen[0], np.float32)[0, :, :, 0].reshape(-1)


EXACT = np.arange(256) / 127.5 - 1


def test_bfloat16_is_rounded_once():
    rounded = np.asarray(EXACT, np.float32).astype(jnp.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(normalised('bfloat16'), rounded)
    # Half of a bfloat16's last place, of numbers up to 1: a quarter of a grey level at most.
    assert np.abs(normalised('bfloat16') - EXACT).max() <= 2.0**-9


@pytest.mark.parametrize('level', [0, 127, 255])
def test_float32_is_as_it_was(level):
    expected = (GREYS.astype(np.float32) / np.float32(127.5) - np.float32(1)).reshape(-1, 3)[:, 0]
    assert normalised('float32')[level] == expected[level]
