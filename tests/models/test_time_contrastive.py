"""R3M's losses: against the public trainer's sums written out, and what each of them wants."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_jax.models import backbone, time_contrastive
from rt2_jax.parallel.sharding import named_leaves

CONFIG = dict(
    name='time_contrastive',
    dtype='float32',
    words=8,
    reward=16,
    vision=dict(stages=(1,), width=4, bottleneck=False, strides=(1,)),
)


def test_time_contrast_is_the_public_one():
    rng = np.random.default_rng(0)
    early, middle, late = rng.normal(size=(3, 6, 4))
    others = (np.arange(6) + rng.integers(1, 6, (3, 1))) % 6
    exp = lambda a, b: np.exp(-np.linalg.norm(a - b, axis=-1))
    to_late, to_early = (sum(exp(x, x[other]) for other in others) for x in (late, early))
    first = exp(late, middle) / (exp(late, early) + exp(late, middle) + to_late)
    second = exp(middle, early) / (exp(middle, early) + exp(late, early) + to_early)
    expected = -(np.log(first) + np.log(second)) / 2
    ours = time_contrastive.time_loss(early, middle, late, others)
    np.testing.assert_allclose(ours, expected, rtol=1e-4)


def test_near_frames_are_to_be_alike():
    loss = lambda middle: float(
        time_contrastive.time_loss(
            jnp.array([[0.0], [50.0]]),
            jnp.array([[middle], [51.0]]),
            jnp.array([[4.0], [54.0]]),
            jnp.array([[1, 0]]),
        )[0]
    )
    # Between the two is better than beyond either, and at an end than outside.
    assert loss(2.0) < loss(-1.0) and loss(2.0) < loss(5.0)
    descent = jax.grad(
        lambda x: time_contrastive.time_loss(
            jnp.zeros((2, 1)), x, jnp.full((2, 1), 4.0), jnp.array([[1, 0]])
        ).sum()
    )
    assert float(descent(jnp.full((2, 1), -1.0))[0, 0]) < 0
    assert np.isfinite(descent(jnp.zeros((2, 1)))).all()


@pytest.fixture(scope='module')
def batch():
    rng = np.random.default_rng(1)
    images = rng.integers(0, 255, (4, 5, 16, 16, 3)).astype(np.uint8)
    return images, rng.integers(2, 30, (4, 3)).astype(np.int32), np.zeros((4, 2), np.int32)


@pytest.fixture(scope='module')
def started(batch):
    model = backbone.build(CONFIG, 30)
    return model, nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), *batch))


def test_the_loss_is_the_sum_of_its_parts(batch, started):
    model, variables = started
    parts = []
    for weights in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 3, 5)):
        names = ('time_weight', 'language_weight', 'norm_weight')
        changed = backbone.build(CONFIG | dict(zip(names, map(float, weights))), 30)
        parts.append(np.asarray(changed.apply(variables, *batch, method='losses')[0]))
    in_time, language, norms, everything = parts
    np.testing.assert_allclose(everything, 2 * in_time + 3 * language + 5 * norms, rtol=1e-4)
    # Untrained, a score is as good as any of the four others.
    assert np.all((0.5 < language) & (language < 3))
    # No word matters but to the language part, whose sentence is in order.
    images, prompt, target = batch
    for weight, same in (('time_weight', False), ('language_weight', True)):
        less = backbone.build(CONFIG | {weight: 0.0}, 30)
        plain, swapped = (
            less.apply(variables, images, p, target, method='losses')[0]
            for p in (prompt, prompt[:, ::-1])
        )
        assert np.allclose(plain, swapped, rtol=1e-6) == same


def test_right_is_an_episode_in_order(batch, started):
    model, variables = started
    greys = np.array([[0, 250, 40, 120, 200]] * 4)
    greys[0, 3:] = 250, 60
    images = np.zeros_like(batch[0]) + greys[..., None, None, None].astype(np.uint8)
    _, right, weights = model.apply(variables, images, *batch[1:], method='losses')
    np.testing.assert_array_equal(right, [0, 1, 1, 1])
    assert np.all(weights == 1)


def test_all_but_words_and_statistics_learn(batch, started):
    model, variables = started
    loss = lambda v: model.apply(v, *batch, method='losses', mutable=['statistics'])[0][0].sum()
    gradient = named_leaves(jax.jit(jax.grad(loss))(variables)['params'])
    still = {name for name, g in gradient.items() if not np.any(g)}
    assert all(np.isfinite(g).all() for g in gradient.values())
    # A bias of the score moves all scores alike: its gradient is 0, or nearly.
    assert still - {'reward/score/bias'} == {'embedding/embedding'} | {
        name for name in gradient if 'running' in name
    }


def test_another_number_of_frames_is_refused(batch):
    images, prompt, target = batch
    with pytest.raises(ValueError, match='4 frames an example; time contrast needs 5'):
        backbone.build(CONFIG, 30).init(jax.random.key(0), images[:, :4], prompt, target)
