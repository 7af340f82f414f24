"""The tower: its sizes, its two paddings, and the statistics that it is normed by."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_jax.models import efficientnet

TINY = dict(width_factor=0.25, depth_factor=0.2, dtype=jnp.dtype('float32'))


def config(**changes):
    return efficientnet.EfficientNetConfig.parse(
        changes, 'config.model.vision', **({} if 'dtype' in changes else {'dtype': jnp.float32})
    )


def test_sizes_are_those_of_b3():
    sizes = [
        (b.inputs, b.outputs, b.kernel, b.stride, b.hidden, b.squeezed) for b in config().blocks()
    ]
    assert len(sizes) == 26
    # The first of each stage, and the last, from the published table.
    assert sizes[0] == (40, 24, 3, 1, 40, 10)
    assert sizes[2] == (24, 32, 3, 2, 144, 6)
    assert sizes[5] == (32, 48, 5, 2, 192, 8)
    assert sizes[8] == (48, 96, 3, 2, 288, 12)
    assert sizes[13] == (96, 136, 5, 1, 576, 24)
    assert sizes[18] == (136, 232, 5, 2, 816, 34)
    assert sizes[25] == (384, 384, 3, 1, 2304, 96)


def test_fewer_strides_are_the_first_stages_alone():
    blocks = list(config().blocks())
    assert list(config(strides=(1, 2)).blocks()) == blocks[:5]
    for strides in ((), (1,) * 8):
        with pytest.raises(ValueError, match='vision.strides has one for each stage, 1 to 7'):
            list(config(strides=strides).blocks())


@pytest.mark.parametrize('padding, side', [('same', 10), ('even', 9)])
def test_the_two_paddings_of_300_pixels(padding, side):
    tower = efficientnet.EfficientNet(config(padding=padding))
    images = jax.ShapeDtypeStruct((1, 300, 300, 3), jnp.uint8)
    sentence = jax.ShapeDtypeStruct((1, 512), jnp.float32)
    features, variables = jax.eval_shape(
        lambda *inputs: tower.init_with_output(jax.random.key(0), *inputs), images, sentence
    )
    assert features.shape == (1, side, side, 1536)
    sizes = {
        running: sum(
            x.size
            for path, x in jax.tree_util.tree_leaves_with_path(nn.meta.unbox(variables['params']))
            if ('running' in jax.tree_util.keystr(path)) == running
        )
        for running in (False, True)
    }
    assert sizes == {False: 14_398_040, True: 87_296}


@pytest.mark.parametrize(
    'kernel, stride, side', [(3, 1, 7), (3, 2, 7), (5, 2, 8), (5, 1, 4), (3, 1, 40)]
)
def test_depthwise_is_a_convolution_of_each_channel(kernel, stride, side):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, side, side + 1, 6)).astype(np.float32)
    weights = rng.normal(size=(kernel, kernel, 6)).astype(np.float32)
    sides = [efficientnet.pads(length, kernel, stride, 'same') for length in x.shape[1:3]]

    def ours(x: jax.Array, weights: jax.Array) -> jax.Array:
        return efficientnet.depthwise(x, weights, stride, sides)

    def expected(x: jax.Array, weights: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x,
            weights[:, :, None],
            (stride, stride),
            'SAME',
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
            feature_group_count=6,
        )

    outputs, gradients = jax.vjp(ours, jnp.asarray(x), jnp.asarray(weights))
    outputs_expected, gradients_expected = jax.vjp(expected, x, weights)
    np.testing.assert_allclose(outputs, outputs_expected, atol=1e-5)
    above = rng.normal(size=outputs.shape).astype(np.float32)
    for got, right in zip(gradients(above), gradients_expected(above), strict=True):
        np.testing.assert_allclose(got, right, atol=1e-4)


def test_film_changes_nothing_at_first():
    x, sentence = jnp.ones((2, 3, 3, 4)), jnp.arange(10.0).reshape(2, 5)
    film = efficientnet.FiLM(jnp.float32)
    variables = nn.meta.unbox(film.init(jax.random.key(0), x, sentence))
    np.testing.assert_array_equal(film.apply(variables, x, sentence), x)
    variables['params']['multiply']['kernel'] += 1
    changed = film.apply(variables, x, sentence)
    np.testing.assert_allclose(changed[:, 0, 0, 0], 1 + sentence.sum(1))


def test_unknown_padding_is_named():
    with pytest.raises(ValueError, match="vision.padding 'evn'; did you mean 'even'"):
        efficientnet.pads(7, 3, 2, 'evn')


def test_statistics_are_the_batchs_only_where_they_may_be_written():
    norm = efficientnet.BatchNorm(config(momentum=0.9))
    x = jnp.asarray(np.random.default_rng(1).normal(3, 2, (8, 4, 4, 5)), jnp.float32)
    variables = {'params': nn.meta.unbox(norm.init(jax.random.key(0), x))['params']}
    # As they are at first: mean 0, variance 1.
    np.testing.assert_allclose(norm.apply(variables, x), x / np.sqrt(1.001), rtol=1e-5)
    y, changes = norm.apply(variables, x, mutable=[efficientnet.STATISTICS])
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), 1, atol=1e-3)
    moved = changes[efficientnet.STATISTICS]
    np.testing.assert_allclose(moved['running_mean'], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    expected = 0.9 + 0.1 * x.var((0, 1, 2))
    np.testing.assert_allclose(moved['running_variance'], expected, rtol=1e-4)


def test_branches_are_left_out_only_with_an_rng():
    block = efficientnet.Block(8, 8, 3, 1, 1)
    layer = efficientnet.MBConv(config(), block, 0.5)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(64, 2, 2, 8)), jnp.float32)
    variables = {'params': nn.meta.unbox(layer.init(jax.random.key(0), x))['params']}
    plain = layer.apply(variables, x)
    drawn = layer.apply(variables, x, rngs={'dropout': jax.random.key(1)})
    left_out = np.asarray((drawn == x).all((1, 2, 3)))
    assert 16 < left_out.sum() < 48
    np.testing.assert_allclose((drawn - x)[~left_out], 2 * (plain - x)[~left_out], atol=1e-5)
