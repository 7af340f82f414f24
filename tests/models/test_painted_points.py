"""MOO's channel: which pixel, of what grey, and that a policy reads nothing else of a point."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_jax.models import backbone, painted_points

INTEGERS = tuple(range(100, 1101))  # the token of 0 is 100
PUSH, TO, PICK = 5, 6, 7


def point(u, v):
    return [100 + u, 100 + v]


def row(*tokens):
    return [*tokens, *[0] * (8 - len(tokens))]


PROMPTS = np.array(
    [
        row(PUSH, *point(990, 10), TO, *point(130, 510)),
        row(PICK, *point(510, 250)),
        row(PICK, *point(0, 0)),
        row(PUSH, *point(0, 0), TO, *point(130, 510)),
        row(PUSH, *point(10, 990), TO, *point(10, 990)),
    ],
    np.int32,
)


def test_numbers_are_told_from_words():
    values = painted_points.numbers(jnp.array([[5, 100, 1100, 1101, 5000, 0]]), INTEGERS)
    np.testing.assert_array_equal(values, [[-1, 0, 1000, -1, -1, -1]])


def test_one_pixel_for_each_point():
    images = np.full((5, 2, 10, 20, 3), 7, np.uint8)
    values = painted_points.numbers(jnp.asarray(PROMPTS), INTEGERS)
    painted = np.asarray(painted_points.paint(images, values))
    assert painted.shape == (5, 2, 10, 20, 4) and painted.dtype == np.uint8
    np.testing.assert_array_equal(painted[..., :3], images)
    expected = np.zeros((5, 10, 20), np.uint8)
    expected[0, 0, 19], expected[0, 5, 2] = 255, 128  # row by v, column by u
    expected[1, 2, 10] = 255
    expected[3, 5, 2] = 128
    expected[4, 9, 0] = 255  # the thing itself lies on top
    for frame in range(2):
        np.testing.assert_array_equal(painted[:, frame, ..., 3], expected)


@pytest.mark.parametrize('tower', ['efficientnet', 'resnet', 'vit'])
def test_a_policy_sees_points_and_does_not_read_them(tower):
    vision = dict(
        efficientnet=dict(width_factor=0.25, depth_factor=0.2, strides=(1, 2, 1)),
        resnet=dict(stages=(1,), width=8, bottleneck=False, strides=(1,)),
        vit=dict(width=8, depth=1, heads=2, mlp=8, patch=4),
    )[tower]
    decoder = dict(width=16, depth=1, heads=2, head_dim=8, mlp=16)
    sizes = dict(frames=1, slots=2, bins=3, image_tokens=2, learner=8, words=12)
    config = dict(
        name='rt1', dtype='float32', tower=tower, vision=vision, decoder=decoder, points=True
    )
    model = backbone.build(config | sizes, 1200, integers=INTEGERS)
    images = np.random.default_rng(0).integers(0, 255, (2, 1, 16, 16, 3)).astype(np.uint8)
    inputs = images, PROMPTS[:2], np.zeros((2, 3), np.int32)
    variables = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), *inputs))
    act = jax.jit(functools.partial(model.apply, method='act'))
    plain = act(variables, *inputs[:2])
    other = inputs[1].copy()
    other[:, 1] = 100 + 10
    moved = act(variables, images, other)
    assert float(jnp.abs(moved - plain).max()) > 1e-6
    # Where the channel is blind, points are nothing.
    params = variables['params']
    stem = {
        'efficientnet': ('stem',), 'resnet': ('stem', 'kernel'), 'vit': ('stem', 'embedding', 'kernel')
    }[tower]  # fmt: skip
    part = params['tower']
    for name in stem[:-1]:
        part = part[name]
    kernel = part[stem[-1]]
    if tower == 'vit':  # each pixel's four channels lie together
        part[stem[-1]] = kernel.reshape(-1, 4, 8).at[:, 3].set(0).reshape(kernel.shape)
    else:
        part[stem[-1]] = kernel.at[:, :, 3].set(0)
    blind = [act(variables, images, prompt) for prompt in (inputs[1], other)]
    np.testing.assert_allclose(*blind, atol=1e-6)
