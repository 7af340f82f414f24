"""Schedules, frozen parts, learning rates by part, weight decay, patterns that match nothing."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from rt2_jax.training import optimizer as optimizer_lib

BASE = dict(
    name='adamw',
    lr=0.1,
    schedule='constant',
    warmup=1,
    end_fraction=0.1,
    clip=0.0,
    weight_decay=0.0,
    b1=0.9,
    b2=0.99,
    eps=1e-8,
    decay_rate=0.8,
    scale_by_parameter=True,
    frozen=(),
    part_lr={},
)
PARAMS = {
    'tower': {'kernel': jnp.ones((4, 4)), 'bias': jnp.ones(4)},
    'layers': {'norm': {'scale': jnp.ones((3, 4))}},
    'head': {'kernel': jnp.ones((4, 8))},
}


def config(**changes):
    return ml_collections.ConfigDict({**BASE, **changes})


def update(settings, gradient=1.0, params=PARAMS):
    optimizer = optimizer_lib.make_optimizer(settings, 100, params)
    grads = jax.tree.map(lambda x: gradient * jnp.ones_like(x), params)
    return optimizer.update(grads, optimizer.init(params), params)


@pytest.mark.parametrize(
    'name, expected',
    [
        ('constant', [0.01, 0.05, 0.1, 0.1, 0.1]),
        ('cosine', [0.01, 0.05, 0.1, 0.055, 0.01]),
        ('rsqrt', [0.01, 0.05, 0.1, 0.1 * (10 / 55) ** 0.5, 0.1 * 0.1**0.5]),
    ],
)
def test_schedules(name, expected):
    schedule = optimizer_lib.make_schedule(config(schedule=name, warmup=10), 100)
    np.testing.assert_allclose(
        [schedule(step) for step in (0, 4, 10, 55, 100)], expected, rtol=1e-5
    )


def test_frozen_parts_stand_still_and_have_no_state():
    updates, state = update(config(frozen=('^tower/',)))
    np.testing.assert_array_equal(updates['tower']['kernel'], 0)
    assert np.all(np.asarray(updates['head']['kernel']) < 0)
    trained = sum(x.size for x in jax.tree.leaves((PARAMS['layers'], PARAMS['head'])))
    assert sum(x.size for x in jax.tree.leaves(state)) < 2 * trained + 10


def test_learning_rates_by_part():
    updates, _ = update(config(part_lr={'^head': 0.25}))
    np.testing.assert_allclose(updates['head']['kernel'], -0.025, rtol=1e-4)
    np.testing.assert_allclose(updates['tower']['bias'], -0.1, rtol=1e-4)


def test_weight_decay_leaves_norms_and_biases_alone():
    updates, _ = update(config(weight_decay=0.5), gradient=0.0)
    np.testing.assert_allclose(updates['head']['kernel'], -0.05, rtol=1e-5)
    np.testing.assert_array_equal(updates['tower']['bias'], 0)
    np.testing.assert_array_equal(updates['layers']['norm']['scale'], 0)


def test_clipping_is_by_the_global_norm():
    size = sum(x.size for x in jax.tree.leaves(PARAMS))
    settings = config(name='adafactor', clip=1.0, scale_by_parameter=False)
    updates, _ = update(settings, gradient=1e6)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(updates))
    optimizer = optimizer_lib.make_optimizer(config(clip=1.0), 100, PARAMS)
    _, state = optimizer.update(
        jax.tree.map(lambda x: 100 * jnp.ones_like(x), PARAMS), optimizer.init(PARAMS), PARAMS
    )
    moments = np.concatenate([np.ravel(x) for x in jax.tree.leaves(state[1].mu)])
    np.testing.assert_allclose(moments, 0.1 / np.sqrt(size), rtol=1e-4)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(name='adam'), "did you mean 'adamw'"),
        (dict(schedule='cosin'), "did you mean 'cosine'"),
        (dict(frozen=('decoder',)), "frozen: the pattern 'decoder' matches no parameter"),
        (dict(part_lr={'haed': 2.0}), 'part_lr: the pattern'),
    ],
)
def test_what_does_not_exist_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        update(config(**changes))


def test_muon_moves_matrices_alike_in_all_directions():
    kernels = {
        'layers': {
            'query': {'kernel': jnp.zeros((2, 8, 2, 3))},
            'out': {'kernel': jnp.zeros((2, 2, 3, 8))},
            'wi': {'kernel': jnp.zeros((2, 8, 12))},
        },
        'stem': {'kernel': jnp.zeros((6, 4))},
    }
    rng = np.random.default_rng(0)
    grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), kernels)
    optimizer = optimizer_lib.make_optimizer(config(name='muon'), 100, kernels)
    updates, _ = optimizer.update(grads, optimizer.init(kernels), kernels)
    matrices = {
        'query': updates['layers']['query']['kernel'][0].reshape(8, 6),
        'out': updates['layers']['out']['kernel'][1].reshape(6, 8),
        'wi': updates['layers']['wi']['kernel'][1],
        'stem': updates['stem']['kernel'],
    }
    for name, matrix in matrices.items():
        # Newton-Schulz leaves singular values in 0.7 to 1.2; the update's root mean square is AdamW's.
        lengths = np.linalg.svd(matrix, compute_uv=False) / (0.1 * 0.2 * max(matrix.shape) ** 0.5)
        assert 0.5 < lengths.min() and lengths.max() < 1.3, name


def test_muon_leaves_the_rest_to_adam():
    params = {
        'head': {'kernel': jnp.ones((4, 8))},
        'embedding': {'embedding': jnp.ones((8, 4))},
        'conv': {'kernel': jnp.ones((3, 3, 4, 8))},
        'layers': {'norm': {'scale': jnp.ones((3, 4))}},
    }
    muon, _ = update(config(name='muon'), params=params)
    adam, _ = update(config(name='adamw'), params=params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), muon, adam)
