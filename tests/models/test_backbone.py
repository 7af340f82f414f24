"""The model: what it attends to, what decoding one token at a time gives, what depth tricks change."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_jax.models import backbone, embedding, layers, stacks, vit

VOCAB = 50
PYRAMID = dict(
    width=16,
    depth=2,
    heads=2,
    mlp=32,
    patch=16,
    stem='pyramid',
    stem_widths=(8, 12),
    positions='sincos',
)


def config(tied=False, positions='none', **vision):
    language = dict(width=24, depth=2, heads=2, head_dim=8, mlp=40)
    return dict(
        name='pali',
        dtype='float32',
        tied=tied,
        positions=positions,
        encoder=language,
        decoder=language,
        vision=dict(width=16, depth=2, heads=2, mlp=32, patch=16, **vision),
    )


@pytest.fixture(scope='module')
def batch():
    rng = np.random.default_rng(0)
    return (
        rng.integers(0, 255, (2, 1, 32, 48, 3)).astype(np.uint8),
        np.array([[5, 6, 7, 0], [8, 9, 0, 0]], np.int32),
        np.array([[0, 4, 9], [0, 7, 3]], np.int32),
    )


@pytest.fixture(scope='module', params=[False, True], ids=['untied', 'tied'])
def apply_and_params(batch, request):
    positions = 'sincos' if request.param else 'none'
    options = config(tied=request.param, positions=positions) | {'number_line': request.param}
    options['prompt_positions'] = 1.5 * request.param
    model = backbone.build(options, VOCAB, integers=range(10, 40))
    # One function for all tests, so that it compiles once.
    apply = jax.jit(model.apply, static_argnames=('method', 'max_length'))
    return apply, nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), *batch))


def test_step_by_step_gives_the_logits_of_teacher_forcing(apply_and_params, batch):
    apply, params = apply_and_params
    images, prompt, target = batch
    whole = apply(params, *batch)
    cache = apply(params, images, prompt, max_length=5, method='prefill')
    for place in range(target.shape[1]):
        logits, cache = apply(params, cache, target[:, place], method='step')
        np.testing.assert_allclose(logits, whole[:, place], atol=1e-5)


def test_columns_are_columns_of_all_logits(apply_and_params, batch):
    apply, params = apply_and_params
    cache = apply(params, *batch[:2], max_length=5, method='prefill')
    token, columns = jnp.zeros(2, jnp.int32), jnp.array([3, 17, 40])
    whole, _ = apply(params, cache, token, method='step')
    some, _ = apply(params, cache, token, columns, method='step')
    np.testing.assert_allclose(some, whole[:, columns], atol=1e-6)


@pytest.mark.parametrize(
    'options, message',
    [
        (config(positions='sincoss'), "positions 'sincoss'; did you mean 'sincos'"),
        (config(stem='pyramids'), "vision.stem 'pyramids'; did you mean 'pyramid'"),
        (config() | {'name': 'pally'}, "backbone 'pally'; did you mean 'pali'"),
    ],
)
def test_unknown_parts_are_named(options, message, batch):
    with pytest.raises(ValueError, match=message):
        backbone.build(options, VOCAB).init(jax.random.key(0), *batch)


GROUPED = dict(width=24, depth=2, mlp=40, attention=dict(heads=4, kv_heads=2, head_dim=8))


@pytest.mark.parametrize(
    'options, message',
    [
        (config(heds=2), "field of config.model.vision: 'heds'; did you mean 'heads'"),
        (config() | {'encoder': dict(width=24)}, 'config.model.encoder has no depth'),
        (
            dict(name='decoder_only', dtype='float32', vision=PYRAMID, text=GROUPED),
            'config.model.text.attention has no scale',
        ),
        (
            dict(name='decoder_only', dtype='float32', vision=PYRAMID)
            | {'text': GROUPED | {'attention': GROUPED['attention'] | {'scal': 1.0}}},
            "field of config.model.text.attention: 'scal'; did you mean 'scale'",
        ),
    ],
)
def test_fields_at_any_depth_are_checked(options, message, batch):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(backbone.build(options, VOCAB).init, jax.random.key(0), *batch)


def test_a_prompts_words_have_places_where_asked_for(batch):
    """Without attention to places at all, two words change places unnoticed; not so with them."""
    images, _, target = batch
    ways = np.array([[5, 6, 7, 6], [7, 6, 5, 6]], np.int32)

    def difference(prompt_positions):
        model = backbone.build(config() | {'prompt_positions': prompt_positions}, VOCAB)
        params = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), *batch))
        bias = params['params']['text_encoder']['relative_bias']
        bias['table'] = jnp.zeros_like(bias['table'])
        same_image = np.repeat(images[:1], 2, axis=0)
        one, other = jax.jit(model.apply)(
            params, same_image, ways, np.repeat(target[:1], 2, axis=0)
        )
        return float(jnp.abs(one - other).max())

    assert difference(0.0) < 1e-5
    assert difference(1.5) > 1e-2


def test_a_small_decoder_has_places_and_a_number_line(batch):
    """With the same parameters; each changes what it says, and steps say what teacher forcing does."""
    text = GROUPED | {'attention': GROUPED['attention'] | {'scale': 0.4}, 'block': 'parallel'}
    fields = dict(name='decoder_only', dtype='float32', vision=PYRAMID, text=text)
    fields |= dict(bos=-1, separator=-1)
    options = dict(positions='sincos', prompt_positions=1.5, number_line=True)
    build = lambda fields: backbone.build(fields, VOCAB, integers=range(3, 33))
    model = build(fields | options)
    params = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), *batch))
    whole = jax.jit(model.apply)(params, *batch)
    step = jax.jit(model.apply, static_argnames=('method', 'max_length'))
    state = step(params, *batch[:2], max_length=3, method='prefill')
    for place, token in enumerate(batch[2].T):
        logits, state = step(params, state, token, method='step')
        np.testing.assert_allclose(logits, whole[:, place], atol=1e-5)
    for left_out in options:
        rest = {name: value for name, value in options.items() if name != left_out}
        other = jax.jit(build(fields | rest).apply)(params, *batch)
        assert float(jnp.abs(other - whole).max()) > 1e-2, left_out
    with pytest.raises(ValueError, match="positions 'sincoss'; did you mean 'sincos'"):
        jax.eval_shape(build(fields | {'positions': 'sincoss'}).init, jax.random.key(0), *batch)


def test_near_numbers_have_near_vectors():
    line = embedding.number_line(1001, 128)
    np.testing.assert_allclose(np.linalg.norm(line, axis=1), 1, atol=1e-5)
    likeness = line @ line[500]
    assert likeness.argmax() == 500
    assert np.all(np.diff(likeness[500:506]) < 0) and likeness[501] > 0.9 and likeness[900] < 0.3
    model = backbone.build(config() | {'number_line': True}, VOCAB, integers=range(10, 40))
    plain = backbone.build(config(), VOCAB)
    ids = jnp.array([4, 10, 39])
    params = {'params': {'embedding': {'embedding': jnp.zeros((VOCAB, 24))}}}
    vectors = model.apply(params, ids, method=lambda m, ids: m.embedding(ids))
    np.testing.assert_allclose(vectors[1:], embedding.number_line(30, 24)[[0, 29]], atol=1e-6)
    assert not vectors[0].any()
    assert not plain.apply(params, ids, method=lambda m, ids: m.embedding(ids)).any()
    with pytest.raises(ValueError, match='number_line needs the token ids'):
        backbone.build(config() | {'number_line': True}, VOCAB)


def test_padding_of_the_prompt_changes_nothing(apply_and_params, batch):
    apply, params = apply_and_params
    images, prompt, target = batch
    longer = np.pad(prompt, ((0, 0), (0, 5)))
    np.testing.assert_allclose(
        apply(params, images, longer, target), apply(params, *batch), atol=1e-5
    )


def test_targets_see_no_later_targets(apply_and_params, batch):
    apply, params = apply_and_params
    images, prompt, target = batch
    other = target.copy()
    other[:, 2] = 30
    a, b = (apply(params, images, prompt, t) for t in (target, other))
    np.testing.assert_allclose(a[:, :2], b[:, :2], atol=1e-6)
    assert float(jnp.abs(a[:, 2] - b[:, 2]).max()) > 1e-3


def test_frames_come_one_after_the_other(apply_and_params, batch):
    apply, params = apply_and_params
    images, prompt, target = batch
    two = np.concatenate([images, images[:, :, ::-1]], axis=1)
    swapped = two[:, ::-1]
    a, b = (apply(params, x, prompt, target) for x in (two, swapped))
    assert a.shape == (2, 3, VOCAB)
    assert float(jnp.abs(a - b).max()) > 1e-4


def gradient(model, params, batch):
    return jax.jit(jax.grad(lambda p: jnp.sum(model.apply(p, *batch) ** 2)))(params)


@pytest.fixture(scope='module')
def plain_gradient(batch):
    """Parameters of the plain model, and their gradient."""
    model = backbone.build(config(), VOCAB)
    params = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), *batch))
    return params, gradient(model, params, batch)


@pytest.mark.parametrize(
    'change', [dict(remat='full'), dict(remat='dots_saveable'), dict(unroll=2)]
)
def test_remat_and_unroll_change_neither_values_nor_gradients(batch, plain_gradient, change):
    params, expected = plain_gradient
    changed = config()
    changed = {k: v | change if isinstance(v, dict) else v for k, v in changed.items()}
    found = gradient(backbone.build(changed, VOCAB), params, batch)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected
    )


def test_every_parameter_matters(batch):
    model = backbone.build(config() | {'vision': PYRAMID}, VOCAB)
    params = nn.meta.unbox(jax.jit(model.init)(jax.random.key(1), *batch))
    still = [
        jax.tree_util.keystr(path)
        for path, g in jax.tree_util.tree_leaves_with_path(gradient(model, params, batch))
        if not np.any(g)
    ]
    # A bias of keys moves all logits of a query alike, and softmax forgets it.
    assert all("'key']['bias" in name for name in still), still


def test_windows_are_those_of_a_convolution():
    x = np.random.default_rng(2).normal(size=(2, 6, 8, 3)).astype(np.float32)
    kernel = np.random.default_rng(3).normal(size=(3, 3, 3, 5)).astype(np.float32)
    ours = vit.windows(x) @ kernel.reshape(27, 5)
    theirs = jax.lax.conv_general_dilated(
        x, kernel, (2, 2), ((1, 0), (1, 0)), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_relative_buckets_are_those_of_t5():
    # By hand from arXiv 1910.10683's rule: 32 buckets, distances up to 128.
    bias = layers.RelativeBias(heads=1, bidirectional=False)
    buckets = bias._bucket(jnp.array([0, -1, -15, -16, -20, -127, -1000, 3]))
    np.testing.assert_array_equal(buckets, [0, 1, 15, 16, 17, 31, 31, 0])
    both = layers.RelativeBias(heads=1, bidirectional=True)
    np.testing.assert_array_equal(
        both._bucket(jnp.array([0, -3, 3, 7, 8, 500])), [0, 3, 19, 23, 24, 31]
    )


def test_a_classifiers_tower_fits_pali(batch):
    images, prompt, _ = batch
    target = np.zeros((2, 7), np.int32)  # 2 x 3 image tokens and the end
    classifier = backbone.build(
        dict(name='classifier', dtype='float32', width=24, vision=PYRAMID), VOCAB
    )
    params = nn.meta.unbox(jax.jit(classifier.init)(jax.random.key(0), images, prompt, target))[
        'params'
    ]
    pali = backbone.build(config() | {'vision': PYRAMID}, VOCAB)
    whole = nn.meta.unbox(jax.eval_shape(pali.init, jax.random.key(0), *batch))
    for part in ('tower', 'projection', 'embedding'):
        shapes = [jax.tree.map(lambda x: x.shape, tree[part]) for tree in (params, whole['params'])]
        assert shapes[0] == shapes[1]
    logits = jax.jit(classifier.apply)({'params': params}, images, prompt, target)
    assert logits.shape == (2, 7, VOCAB)
    with pytest.raises(ValueError, match='6 image tokens and the end are 7 tokens'):
        classifier.apply({'params': params}, *batch)


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="did you mean 'pali'"):
        backbone.build(config() | {'name': 'pal'}, VOCAB)
    with pytest.raises(ValueError, match='whole number of patches of 16'):
        backbone.build(config(), VOCAB).init(
            jax.random.key(0),
            np.zeros((1, 1, 30, 32, 3), np.uint8),
            np.ones((1, 2), np.int32),
            np.ones((1, 2), np.int32),
        )
    with pytest.raises(ValueError, match="did you mean 'dots_saveable'"):
        stacks.remat_policy('dot_saveable')
