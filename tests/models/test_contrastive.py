"""SigLIP's and CLIP's losses against sums written out, and what a model that learns by them compares."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_jax.models import backbone, contrastive

CONFIG = dict(
    name='contrastive',
    dtype='float32',
    width=8,
    heads=2,
    vision=dict(width=16, depth=1, heads=2, mlp=16, patch=8),
    text=dict(width=16, depth=1, heads=2, head_dim=8, mlp=16),
)


@pytest.fixture(scope='module')
def logits():
    return np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32) * 3


def test_siglip_is_a_yes_or_no_for_each_pair(logits):
    total = 0.0
    for i in range(5):
        for j in range(5):
            yes = 1 / (1 + np.exp(-float(logits[i, j])))
            total -= np.log(yes if i == j else 1 - yes)
    np.testing.assert_allclose(contrastive.siglip_loss(logits).mean(), total / 5, rtol=1e-5)


def test_clip_is_which_text_and_which_picture(logits):
    share = np.exp(logits.astype(np.float64))
    of_pictures = -np.log(np.diag(share / share.sum(1, keepdims=True)))
    of_texts = -np.log(np.diag(share / share.sum(0, keepdims=True)))
    expected = (of_pictures.mean() + of_texts.mean()) / 2
    np.testing.assert_allclose(contrastive.clip_loss(logits).mean(), expected, rtol=1e-5)


@pytest.fixture(scope='module', params=['siglip', 'clip'])
def model(request):
    return backbone.build(CONFIG | {'objective': request.param}, 30)


@pytest.fixture(scope='module')
def batch():
    rng = np.random.default_rng(1)
    images = rng.integers(0, 255, (4, 1, 16, 16, 3)).astype(np.uint8)
    target = np.array([[5, 6, 1, 0], [7, 1, 0, 0], [8, 9, 10, 1], [11, 12, 1, 0]], np.int32)
    return images, np.full((4, 3), 2, np.int32), target


def test_pairs_are_those_of_a_row(model, batch):
    images, prompt, target = batch
    variables = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), *batch))
    apply = jax.jit(model.apply)
    logits = apply(variables, *batch)
    assert logits.shape == (4, 4)
    other = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(
        apply(variables, images[other], prompt, target), logits[other], rtol=2e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        apply(variables, images, prompt, target[other]), logits[:, other], rtol=2e-4, atol=1e-4
    )
    # Padding is no word, and neither is the question.
    padded = np.pad(target, ((0, 0), (0, 2)))
    np.testing.assert_allclose(apply(variables, images, prompt + 3, padded), logits, atol=1e-4)
    # Similarities of unit vectors, scaled as the papers begin.
    siglip = model.objective == 'siglip'
    factor, bias = (10, -10) if siglip else (1 / 0.07, 0)
    assert float(jnp.abs(logits - bias).max()) <= factor * 1.0001
    loss, hits, weights = model.apply(variables, *batch, method='losses')
    np.testing.assert_array_equal(hits, np.diag(logits) == logits.max(1))
    assert loss.shape == (4,) and np.all(weights == 1)


def test_both_sides_learn(model, batch):
    variables = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), *batch))
    loss = lambda variables: model.apply(variables, *batch, method='losses')[0].sum()
    gradients = jax.jit(jax.grad(loss))(variables)['params']
    assert set(gradients) == {
        'tower', 'pool', 'picture_projection', 'embedding', 'text', 'text_projection', 'temperature'
    } | ({'offset'} if model.objective == 'siglip' else set())  # fmt: skip
    for part, tree in gradients.items():
        assert any(float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(tree)), part


def test_unknown_settings_are_named(batch):
    with pytest.raises(ValueError, match="config.model.objective 'sigli'; did you mean 'siglip'"):
        backbone.build(CONFIG | {'objective': 'sigli'}, 30).init(jax.random.key(0), *batch)
    with pytest.raises(ValueError, match="config.model.tower 'efficientnet'"):
        vision = dict(width_factor=0.1, depth_factor=0.1)
        backbone.build(CONFIG | {'tower': 'efficientnet', 'vision': vision}, 30).init(
            jax.random.key(0), *batch
        )
    with pytest.raises(ValueError, match="model.tower 'vot'; did you mean 'vit'"):
        backbone.build(CONFIG | {'tower': 'vot'}, 30)
