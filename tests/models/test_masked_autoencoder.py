"""Masked autoencoding: what the tower doesn't see, and what the loss is of."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_jax.models import backbone

PATCH, SIDE = 8, 32
CONFIG = dict(
    name='masked_autoencoder',
    dtype='float32',
    vision=dict(width=16, depth=1, heads=2, mlp=16, patch=PATCH),
    decoder=dict(width=12, depth=1, heads=2, mlp=16),
)


@pytest.fixture(scope='module')
def batch():
    images = np.random.default_rng(0).integers(0, 255, (2, 1, SIDE, SIDE, 3)).astype(np.uint8)
    return images, np.zeros((2, 3), np.int32), np.zeros((2, 4), np.int32)


@pytest.fixture(scope='module')
def started(batch):
    model = backbone.build(CONFIG, 30)
    return model, nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), *batch))


def patch(images, row, number):
    """A view of one patch."""
    i, j = divmod(number, SIDE // PATCH)
    return images[row, i * PATCH : (i + 1) * PATCH, j * PATCH : (j + 1) * PATCH]


def test_hidden_patches_are_not_seen_and_shown_ones_are(started, batch):
    model, variables = started
    predict = jax.jit(lambda *inputs: model.apply(variables, *inputs, method='predict'))
    picture = batch[0][:, 0]
    order = np.stack([np.random.default_rng(i).permutation(16) for i in range(2)])
    plain = predict(picture, order)
    assert plain.shape == (2, 16, 3 * PATCH**2)
    hidden, shown = picture.copy(), picture.copy()
    for row in range(2):
        for number in order[row, 4:]:
            patch(hidden, row, number)[:] = 0
    patch(shown, 0, order[0, 3])[:] = 0
    np.testing.assert_array_equal(predict(hidden, order), plain)
    changed = jnp.abs(predict(shown, order) - plain).max((1, 2))
    assert float(changed[0]) > 1e-3 and float(changed[1]) == 0
    # In what order patches are shown, or hidden ones are named, says nothing.
    other = order.copy()
    other[:, :4], other[:, 4:] = order[:, 3::-1], order[:, :3:-1]
    np.testing.assert_allclose(predict(picture, other), plain, atol=1e-5)


@pytest.mark.parametrize('normed', [True, False])
def test_the_loss_is_of_hidden_patches_alone(started, batch, normed):
    _, variables = started
    model = backbone.build(CONFIG | {'normed': normed}, 30)
    loss, _, weights = model.apply(variables, *batch, method='losses')
    order = np.asarray(model.apply(variables, batch[0], method='_order'))
    picture = batch[0][:, 0]
    predicted = np.asarray(model.apply(variables, picture, order, method='predict'))
    assert np.all(weights == 1)
    for row in range(2):
        assert sorted(order[row]) == list(range(16))
        errors = []
        for number in order[row, 4:]:  # three quarters are hidden
            truth = patch(picture, row, number).astype(np.float64) / 127.5 - 1
            truth = truth.reshape(-1)
            if normed:
                truth = (truth - truth.mean()) / np.sqrt(truth.var(ddof=1) + 1e-6)
            errors.append(np.mean((predicted[row, number] - truth) ** 2))
        np.testing.assert_allclose(loss[row], np.mean(errors), rtol=1e-4)


def test_each_row_and_step_hides_others(started, batch):
    model, variables = started
    draw = lambda seed: model.apply(
        variables, batch[0], method='_order', rngs={'dropout': jax.random.key(seed)}
    )
    first, second = np.asarray(draw(0)), np.asarray(draw(1))
    assert (first[0] != first[1]).any() and (first != second).any()


def test_what_cannot_be_is_refused(batch):
    pyramid = dict(stem='pyramid', stem_widths=(4,))
    for changes, message in (
        (dict(vision=CONFIG['vision'] | pyramid), "need the stem 'patch'"),
        (dict(masked=0.99), 'of 16 patches 0 would be shown'),
    ):
        with pytest.raises(ValueError, match=message):
            backbone.build(CONFIG | changes, 30).init(jax.random.key(0), *batch)
    with pytest.raises(ValueError, match="config.model.decoder: 'head'; did you mean 'heads'"):
        backbone.build(CONFIG | dict(decoder=dict(width=8, depth=1, head=2, mlp=8)), 30)
