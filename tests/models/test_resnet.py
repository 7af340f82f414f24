"""ResNet: the published sizes, what a block computes, and the statistics that it is normed by."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_jax.models import resnet
from rt2_jax.parallel.sharding import named_leaves

IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.uint8)


def tower(**fields):
    config = resnet.ResNetConfig.parse(fields, 'config.model.vision', dtype=jnp.float32)
    return resnet.ResNet(config)


# torchvision's counts of 11,689,512, 21,797,672 and 25,557,032, without the classifier's.
@pytest.mark.parametrize(
    'fields, width, count',
    [
        (dict(stages=(2, 2, 2, 2), bottleneck=False), 512, 11_689_512 - 513_000),
        (dict(bottleneck=False), 512, 21_797_672 - 513_000),
        ({}, 2048, 25_557_032 - 2_049_000),
    ],
    ids=['18', '34', '50'],
)
def test_sizes_are_the_published_ones(fields, width, count):
    features, variables = jax.eval_shape(
        lambda image: tower(**fields).init_with_output(jax.random.key(0), image), IMAGE
    )
    assert features.shape == (1, 7, 7, width)
    leaves = named_leaves(nn.meta.unbox(variables['params']))
    assert sum(x.size for name, x in leaves.items() if 'running' not in name) == count


TINY = dict(stages=(1, 2), width=4, bottleneck=True, strides=(1, 2))


@pytest.fixture(scope='module')
def started():
    model = tower(**TINY)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (3, 20, 28, 3)).astype(np.uint8)
    boxed = jax.eval_shape(model.init, jax.random.key(0), images)['params']

    def draw(path, x):
        x = rng.normal(size=x.shape) / np.sqrt(max(1, np.prod(x.shape[:-1])))
        return np.abs(x) + 0.5 if 'variance' in jax.tree_util.keystr(path) else x

    params = jax.tree_util.tree_map_with_path(draw, nn.meta.unbox(boxed))
    return model, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params), images


def convolve(x, kernel, stride):
    """A convolution written out: padded by half the kernel's side all around."""
    size = kernel.shape[0]
    x = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    rows, columns = ((side - size) // stride + 1 for side in x.shape[1:3])
    out = np.zeros((x.shape[0], rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
            out[:, i, j] = np.einsum('bhwc,hwco->bo', window, kernel)
    return out


def norm(x, p):
    return (x - p['running_mean']) / np.sqrt(p['running_variance'] + 1e-5) * p['scale'] + p['bias']


def test_features_are_those_written_out(started):
    model, params, images = started
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = (images / 255 - mean) / deviation
    x = np.maximum(norm(convolve(x, p['stem']['kernel'], 2), p['stem_norm']), 0)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = np.stack(
        [
            padded[:, i : i + x.shape[1] : 2, j : j + x.shape[2] : 2]
            for i in range(3)
            for j in range(3)
        ]
    ).max(0)
    for name, stride in (('stage_0_block_0', 1), ('stage_1_block_0', 2), ('stage_1_block_1', 1)):
        block, y = p[name], x
        for i in range(3):
            part = block[f'convolution_{i}']
            kernel = part['kernel'] if i == 1 else part['product']['kernel'][None, None]
            y = norm(convolve(y, kernel, stride if i == 1 else 1), block[f'norm_{i}'])
            y = np.maximum(y, 0) if i < 2 else y
        if 'shortcut' in block:
            kernel = block['shortcut']['product']['kernel'][None, None]
            x = norm(convolve(x, kernel, stride), block['shortcut_norm'])
        x = np.maximum(x + y, 0)
    features = jax.jit(model.apply)({'params': params}, images)
    assert x.std() > 0.1
    np.testing.assert_allclose(features, x, atol=1e-3)


def test_a_batch_has_its_own_statistics(started):
    model, params, images = started
    plain = jax.jit(model.apply)({'params': params}, images)
    train = jax.jit(lambda params, images: model.apply(params, images, mutable=['statistics']))
    features, changes = train({'params': params}, images)
    assert float(jnp.abs(features - plain).max()) > 1e-2
    names = {name for name in named_leaves(params) if 'running' in name}
    assert set(named_leaves(changes['statistics'])) == names
    # Another mean of the batch changes nothing in training.
    shifted = jax.tree_util.tree_map_with_path(
        lambda path, x: x + 1 if 'running_mean' in jax.tree_util.keystr(path) else x, params
    )
    np.testing.assert_allclose(train({'params': shifted}, images)[0], features, atol=1e-4)
