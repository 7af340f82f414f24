"""RT-1: who sees whom, that all slots come out at once, and what a sentence is."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_jax.models import backbone, rt1
from rt2_jax.models.towers import ALONE
from rt2_jax.parallel.sharding import named_leaves

FRAMES, SLOTS, BINS, VOCAB, TOKENS = 3, 4, 6, 40, 2
TOWERS = {
    'efficientnet': dict(width_factor=0.1, depth_factor=0.1, strides=(1, 2, 1)),
    'vit': dict(width=8, depth=1, heads=2, mlp=8, patch=4),
    'resnet': dict(stages=(1,), width=8, bottleneck=False, strides=(1,)),
}


def config(**changes):
    decoder = dict(width=16, depth=2, heads=2, head_dim=8, mlp=24)
    small = dict(
        name='rt1',
        dtype='float32',
        frames=FRAMES,
        slots=SLOTS,
        bins=BINS,
        image_tokens=TOKENS,
        learner=8,
        words=12,
        tower='vit',
        vision=TOWERS['vit'],
        decoder=decoder | changes.pop('decoder', {}),
    )
    return small | changes


@pytest.fixture(scope='module')
def batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, FRAMES, 16, 16, 3)).astype(np.uint8)
    prompt = np.array([[5, 6, 7, 0], [8, 9, 0, 0]], np.int32)
    return images, prompt, np.zeros((2, FRAMES * SLOTS + 1), np.int32)


def started(model, batch, seed=0):
    """Parameters drawn on the host, none of which changes nothing as FiLM's do at first."""
    boxed = jax.eval_shape(model.init, jax.random.key(seed), *batch)['params']
    rng = np.random.default_rng(seed)

    def draw(path, x):
        name = jax.tree_util.keystr(path)
        if 'variance' in name or 'scale' in name:
            return np.ones(x.shape, np.float32)
        inputs = np.prod(x.shape[:-1]) if x.ndim > 1 else 100
        gain = 1.9 if 'tower' in name and 'kernel' in name else 1  # else features die away
        return (gain * rng.normal(size=x.shape) / np.sqrt(inputs)).astype(np.float32)

    return {'params': jax.tree_util.tree_map_with_path(draw, nn.meta.unbox(boxed))}


_COMPILED = {}


def call(model, params, *inputs, method='__call__'):
    """A method, compiled once for all tests."""
    key = id(model), method
    if key not in _COMPILED:
        apply = functools.partial(model.apply, method=method)
        _COMPILED[key] = model, jax.jit(apply)
    return _COMPILED[key][1](params, *inputs)


@pytest.fixture(scope='module')
def model_and_params(batch):
    model = backbone.build(config(), VOCAB, integers=range(10, 40))
    return model, started(model, batch)


def published_mask(frames, images, slots, hides_slots_from_images):
    """The public rule, one pair of places at a time."""
    size, count = images + slots, frames * (images + slots)
    action = lambda k: k // size if k % size >= images else -1
    seen = np.zeros((count, count), bool)
    for i in range(count):
        for j in range(i + 1):
            seen[i, j] = True
            if action(i) != -1 and action(j) != -1:
                seen[i, j] = not (action(j) < action(i) or action(j) == action(i))
            elif action(j) != -1 and hides_slots_from_images:
                seen[i, j] = not j < i
    return seen


@pytest.mark.parametrize('sees', rt1.MASKS)
def test_masks_are_the_published_ones(sees):
    ours = rt1.attention_mask(3, 4, 2, sees)
    np.testing.assert_array_equal(ours, published_mask(3, 4, 2, sees == 'images'))
    assert ours.any(1).all()


def test_later_frames_change_nothing_before(model_and_params, batch):
    model, params = model_and_params
    images, prompt, _ = batch
    window = lambda images: call(model, params, images, prompt, method='window')
    plain, other = window(images), images.copy()
    assert plain.shape == (2, FRAMES, SLOTS, BINS)
    other[:, 2] = 255 - other[:, 2]
    changed = window(other)
    np.testing.assert_allclose(changed[:, :2], plain[:, :2], atol=1e-5)
    assert float(jnp.abs(changed[:, 2] - plain[:, 2]).max()) > 1e-4
    # A window that is not full is the beginning of one that is.
    np.testing.assert_allclose(window(images[:, :2]), plain[:, :2], atol=1e-5)
    with pytest.raises(ValueError, match='4 frames; config.model.frames is 3'):
        window(np.repeat(images[:, :1], 4, axis=1))


def test_every_slot_has_a_say_of_its_own(model_and_params, batch):
    model, params = model_and_params
    logits = call(model, params, *batch[:2], method='act')
    assert logits.shape == (2, SLOTS, BINS)
    assert all(float(jnp.abs(logits[:, 0] - logits[:, i]).max()) > 1e-4 for i in range(1, SLOTS))


def test_steps_read_what_one_pass_decided(model_and_params, batch):
    model, params = model_and_params
    images, prompt, _ = batch
    act = call(model, params, images, prompt, method='act')
    prefill = functools.partial(model.apply, method='prefill')
    state = jax.jit(prefill, static_argnums=3)(params, images, prompt, SLOTS)
    columns = jnp.array([12, 10, 3, 15])  # tokens of the values 2, 0, none and 5
    for place in range(SLOTS):
        some, _ = model.apply(params, state, jnp.array([place, 7]), columns, method='step')
        np.testing.assert_array_equal(some[:, (0, 1, 3)], act[:, place][:, (2, 0, 5)])
        assert float(some[:, 2].max()) < -1e8
        all_of_them, state = model.apply(params, state, jnp.array([place, 7]), method='step')
        assert all_of_them.shape == (2, VOCAB)
        np.testing.assert_array_equal(all_of_them[:, 10 : 10 + BINS], act[:, place])
        assert float(jnp.delete(all_of_them, jnp.arange(10, 10 + BINS), axis=1).max()) < -1e8


def test_a_target_is_one_action_or_one_a_frame(model_and_params, batch):
    model, params = model_and_params
    images, prompt, target = batch
    window = call(model, params, images, prompt, method='window')
    whole = call(model, params, images, prompt, target, method='values')
    assert whole.shape == (2, FRAMES * SLOTS + 1, BINS)
    np.testing.assert_array_equal(whole[:, :-1].reshape(window.shape), window)
    last = call(model, params, images, prompt, target[:, : SLOTS + 1], method='values')
    np.testing.assert_array_equal(last[:, :-1], window[:, -1])
    assert not last[:, -1].any()
    tokens = call(model, params, images, prompt, target)
    assert tokens.shape == (2, FRAMES * SLOTS + 1, VOCAB)
    np.testing.assert_array_equal(tokens[..., 10 : 10 + BINS], whole)
    assert float(tokens[..., :10].max()) < -1e8


def test_a_sentence_is_the_mean_of_its_words(model_and_params, batch):
    model, params = model_and_params
    images, prompt, _ = batch
    act = lambda prompt: call(model, params, images, prompt, method='act')
    swapped, padded = prompt[:, [1, 0, 2, 3]], np.pad(prompt, ((0, 0), (0, 3)))
    np.testing.assert_allclose(act(swapped)[0], act(prompt)[0], atol=1e-5)
    np.testing.assert_allclose(act(padded), act(prompt), atol=1e-5)
    words = params['params']['embedding']['embedding'][prompt[0, :3]].mean(0)
    sentence = words / np.sqrt(np.mean(words**2))
    vectors = np.stack([sentence, sentence])
    np.testing.assert_allclose(act(vectors)[0], act(prompt)[0], atol=1e-5)
    assert float(jnp.abs(act(prompt[::-1]) - act(prompt)).max()) > 1e-4


def test_in_an_ordered_sentence_words_have_places(batch):
    images, prompt, _ = batch
    model = backbone.build(config(ordered=True), VOCAB)
    params = started(model, batch)
    act = lambda prompt: call(model, params, images, prompt, method='act')
    assert float(jnp.abs(act(prompt[:, [1, 0, 2, 3]]) - act(prompt))[0].max()) > 1e-4
    longer = np.pad(prompt, ((0, 0), (0, 3)))
    np.testing.assert_allclose(act(longer), act(prompt), atol=1e-5)


def test_all_but_words_and_statistics_learn(batch):
    images, prompt, target = batch
    batch = images[:, :2], prompt, target[:, : 2 * SLOTS + 1]
    tower = dict(tower='efficientnet', vision=TOWERS['efficientnet'])
    model = backbone.build(config(**tower, frames=2), VOCAB)
    params = started(model, batch)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(model.apply(p, *batch) ** 2)))(params)
    still = {name for name, g in named_leaves(gradient['params']).items() if not np.any(g)}
    frozen = {name for name in still if 'running' in name or name.startswith('embedding')}
    # A bias of keys moves all logits of a query alike, and softmax forgets it.
    assert still - frozen <= {'layers/attention/key/bias'}
    assert frozen == {
        name for name in named_leaves(params['params']) if 'running' in name or 'embedding/' in name
    }


def test_dropout_needs_an_rng_and_statistics_their_collection(batch):
    tower = dict(tower='efficientnet', vision=TOWERS['efficientnet'])
    model = backbone.build(config(**tower), VOCAB)
    params = started(model, batch)
    plain = call(model, params, *batch)
    train = functools.partial(model.apply, mutable=['statistics'])
    logits, changes = jax.jit(train)(params, *batch, rngs={'dropout': jax.random.key(0)})
    assert float(jnp.abs(logits - plain).max()) > 1e-3
    names = {name for name in named_leaves(params['params']) if 'running' in name}
    assert set(named_leaves(changes['statistics'])) == names


def test_attention_to_the_image_adds_up(model_and_params, batch):
    model, params = model_and_params
    images, prompt, target = batch
    look = functools.partial(model.apply, mutable=['intermediates'])
    _, sown = jax.jit(look)(params, images, prompt, target)
    seen = model.apply(params, sown['intermediates'], images, prompt, method='image_attention')
    assert seen.shape == (2, 2, SLOTS, FRAMES, 4, 4)
    # Slots see nothing but images.
    np.testing.assert_allclose(seen.sum((3, 4, 5)), 1, atol=1e-5)


@pytest.mark.parametrize(
    'tower, language', [('efficientnet', 'film'), *itertools.product(ALONE, rt1.LANGUAGES)]
)
def test_another_tower_sees_for_the_same_policy(batch, tower, language):
    model = backbone.build(config(tower=tower, vision=TOWERS[tower], language=language), VOCAB)
    params = started(model, batch)
    images, prompt, _ = batch
    run = jax.jit(functools.partial(model.apply, method='window'))
    window = run(params, images, prompt)
    assert window.shape == (2, FRAMES, SLOTS, BINS)
    # Both what is seen and what is said matter.
    assert float(jnp.abs(run(params, 255 - images, prompt) - window).max()) > 1e-4
    assert float(jnp.abs(run(params, images, prompt[::-1]) - window).max()) > 1e-4
    names = set(named_leaves(params['params']))
    assert {name.split('/')[0] for name in names} >= {'tower', 'embedding', 'projection'}
    running = any('running' in name for name in names)
    assert running == (tower != 'vit') == (len(model.untrained) == 2)
    look = functools.partial(model.apply, mutable=['intermediates'])
    _, sown = jax.jit(look)(params, *batch)
    seen = model.apply(params, sown['intermediates'], images, prompt, method='image_attention')
    assert seen.shape == (2, 2, SLOTS, FRAMES, 4, 4)
    total = seen.sum((3, 4, 5))
    if language == 'film':
        np.testing.assert_allclose(total, 1, atol=1e-5)
    else:  # some of it went to the sentence
        assert float(total.max()) < 0.9999 and float(total.min()) > 0


@pytest.mark.parametrize(
    'changes, count',
    [
        (
            dict(frames=15, bins=512, image_tokens=81, decoder=dict(head_dim=256, hidden='swiglu')),
            56_896_809,
        ),
        (dict(dead_embedding=True, decoder=dict(head_dim=128, hidden='linear')), 35_252_128),
    ],
    ids=['rt1x', 'rt1'],
)
def test_counts_are_the_published_ones(changes, count):
    decoder = dict(width=512, depth=8, heads=8, mlp=512) | changes.pop('decoder')
    model = backbone.build(
        dict(name='rt1', dtype='float32', vision={}, decoder=decoder, **changes), 8
    )
    inputs = (
        jax.ShapeDtypeStruct((1, 1, 300, 300, 3), jnp.uint8),
        jax.ShapeDtypeStruct((1, 512), jnp.float32),
        jax.ShapeDtypeStruct((1, 12), jnp.int32),
    )
    boxed = jax.eval_shape(model.init, jax.random.key(0), *inputs)['params']
    leaves = named_leaves(nn.meta.unbox(boxed))
    assert sum(x.size for name, x in leaves.items() if 'running' not in name) == count


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(mask='image'), "mask 'image'; did you mean 'images'"),
        (dict(decoder=dict(hidden='swigl')), "decoder.hidden 'swigl'; did you mean 'swiglu'"),
        (dict(vision=dict(pach=4)), "config.model.vision: 'pach'; did you mean 'patch'"),
    ],
)
def test_unknown_settings_are_named(changes, message, batch):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(backbone.build(config(**changes), VOCAB).init, jax.random.key(0), *batch)
