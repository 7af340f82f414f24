"""Compact weights: what int8 loses, and that nothing else changes."""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_jax.decoding import compact, rows
from rt2_jax.decoding.grammar import Grammar, Kind
from rt2_jax.decoding.sampler import Sampler
from rt2_jax.models import backbone, stacks
from rt2_jax.parallel.sharding import named_leaves

VOCAB = 50
_VISION = dict(width=16, depth=2, heads=2, mlp=32, patch=16)
_GROUPED = dict(heads=4, kv_heads=2, head_dim=8, scale=0.35)
_GEMMA = dict(width=24, depth=2, mlp=40)
MODELS = {
    'pali': dict(
        encoder=dict(width=24, depth=2, heads=2, head_dim=8, mlp=40),
        decoder=dict(width=24, depth=3, heads=2, head_dim=8, mlp=40),
    ),
    'decoder_only': dict(text=_GEMMA | dict(attention=_GROUPED), separator=3),
    't5gemma2': dict(
        encoder=_GEMMA | dict(attention=_GROUPED),
        decoder=_GEMMA | dict(attention=_GROUPED),
        image_tokens=4,
        before_image=(2, 8),
        after_image=(9, 8),
        end_of_image=9,
    ),
}
# Of the backbones the first always, the others with -m slow.
ONE_QUICK = [pytest.param(name, marks=[pytest.mark.slow] * (name != 'pali')) for name in MODELS]  # fmt: skip


@pytest.fixture(scope='module')
def batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 1, 32, 32, 3)).astype(np.uint8)
    prompt = np.array([[5, 6, 7, 0], [10, 11, 0, 0]], np.int32)
    return images, prompt, np.array([[0, 4, 12], [0, 7, 3]], np.int32)


def test_int8_is_within_half_a_unit_and_its_products_are_exact():
    rng = np.random.default_rng(0)
    weights = (
        rng.standard_normal((96, 3, 70), np.float32) * np.geomspace(1e-3, 10, 96)[:, None, None]
    )
    found = rows.quantize(jnp.asarray(weights), 2)
    assert found.values.dtype == jnp.int8 and found.scale.shape == (96,)
    error = np.abs(found.whole() - weights) / np.asarray(found.scale)[:, None, None]
    assert 0.49 < error.max() <= 0.5001 and abs(np.asarray(found.values)).max() == 127
    for count in (1, 2, 5):
        x = rng.standard_normal((1, count, 3, 70), np.float32)
        exact = np.einsum('abij,nij->abn', x, np.asarray(found.whole(), np.float64))
        y = jax.jit(lambda x: found.product(x, 2, jnp.float32))(x)
        # Inputs are rounded to a 16,256th of the largest.
        atol = 2 * abs(x).max() / 16_256 * np.linalg.norm(found.whole(), axis=(1, 2))
        assert (abs(y - exact) < atol).all()


@pytest.mark.parametrize('count', [3, 100])
@pytest.mark.parametrize('kind', compact.TYPES)
def test_few_inputs_and_many_meet_the_same_weights(kind, count):
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.standard_normal((40, 2, 70), np.float32))
    found = (
        rows.quantize(weights, 1)
        if kind == 'int8'
        else rows.Rows(weights.astype(compact.TYPES[kind]))
    )
    x = rng.standard_normal((2, count, 70), np.float32)
    y = jax.jit(lambda x: found.product(x, 1, jnp.float32))(x)
    exact = np.einsum('abi,nmi->abnm', x, np.asarray(found.whole(), np.float64))
    assert y.dtype == jnp.float32 and y.shape == (2, count, 40, 2)
    # Many are rounded to bfloat16, each by at most 2^-9 of itself.
    bound = np.einsum('abi,nmi->abnm', abs(x), abs(np.asarray(found.whole(), np.float64))) / 2**9
    assert (abs(y - exact) <= bound + 1e-4).all()


@pytest.mark.parametrize('name', ONE_QUICK)
def test_a_large_picture_gives_nearly_the_same_logits(name):
    rng = np.random.default_rng(0)
    large = dict(name=name, dtype='float32', vision=_VISION | dict(patch=4)) | MODELS[name]
    large |= dict(image_tokens=144) if name == 't5gemma2' else {}
    model = backbone.build(large, VOCAB)
    inputs = (
        rng.integers(0, 255, (2, 1, 48, 48, 3)).astype(np.uint8),  # 144 image tokens
        np.array([[5, 6, 7, 0], [10, 11, 0, 0]], np.int32),
        np.array([[0, 4, 12], [0, 7, 3]], np.int32),
    )
    init = jax.jit(lambda key: nn.meta.unbox(model.init(key, *inputs)['params']))
    params = init(jax.random.key(0))
    small, rounded = compact.compact(model, params, 'bfloat16', inputs)
    logits = lambda model, params: jax.jit(model.apply)({'params': params}, *inputs)
    both = [logits(model, params), logits(small, rounded)]
    scale = np.std(both[0])
    changed = np.abs(both[0] - both[1]) / scale
    assert scale > 0.1 and 1e-4 < changed.max() < 0.25 and changed.mean() < 0.03


@pytest.mark.usefixtures('full_compile')
@pytest.mark.parametrize('kind', compact.TYPES)
@pytest.mark.parametrize('count', [1, 8])
def test_a_product_does_not_write_the_weights_out_again(kind, count):
    if jax.default_backend() != 'cpu':
        pytest.skip('how other devices fuse is read from what `estimate` compiles')
    values = jax.ShapeDtypeStruct((1024, 512), compact.TYPES[kind])
    scale = jax.ShapeDtypeStruct((1024,), jnp.float32) if kind == 'int8' else None
    product = lambda x, *own: rows.Rows(*own).product(x, 1, jnp.float32)
    x = jax.ShapeDtypeStruct((count, 512), jnp.float32)
    memory = jax.jit(product).lower(x, values, scale).compile().memory_analysis()
    # In float32 they would be 2 MiB; the rest is what goes in and out, in two parts.
    assert memory.temp_size_in_bytes < 1 << 17


@pytest.mark.parametrize('name', ONE_QUICK)
def test_int8_logits_are_those_of_the_same_numbers_in_float32(name, batch):
    model = backbone.build(dict(name=name, dtype='float32', vision=_VISION) | MODELS[name], VOCAB)
    params = jax.jit(lambda key: nn.meta.unbox(model.init(key, *batch)['params']))(
        jax.random.key(0)
    )
    small, ints = compact.compact(model, params, 'int8', batch)
    rounded = back(ints, params)
    expected = jax.jit(model.apply)({'params': rounded}, *batch)
    found = jax.jit(small.apply)({'params': ints}, *batch)
    spread = np.std(expected)
    np.testing.assert_allclose(found, expected, atol=0.01 * spread)
    original = jax.jit(model.apply)({'params': params}, *batch)
    assert 1e-4 < np.std(found - original) / spread < 0.1
    run = jax.jit(small.apply, static_argnames=('method', 'max_length'))
    cache = run({'params': ints}, *batch[:2], max_length=4, method='prefill')
    columns = jnp.array([3, 17, 40])
    for place, token in enumerate(batch[2].T):
        logits, cache = run({'params': ints}, cache, token, columns, method='step')
        np.testing.assert_allclose(logits, found[:, place, columns], atol=0.02 * spread)


def back(ints, params):
    """Compact parameters as the checkpoint has them, rounded as they are."""
    named, found = named_leaves(stacks.stack_trees(ints)), {}
    for name, x in named_leaves(params).items():
        module, _, own = name.rpartition('/')
        if own != 'kernel':
            found[name] = named[name].astype(jnp.float32)
            continue
        whole = rows.Rows(named[f'{module}/rows'], named.get(f'{module}/scale')).whole()
        first = int(bool({'layers', 'blocks'} & set(name.split('/'))))
        inputs = 2 if module.endswith('/out') else 1
        whole = jnp.moveaxis(whole, range(-inputs, 0), range(first, first + inputs))
        assert whole.shape == x.shape, name
        found[name] = whole
    return flax.traverse_util.unflatten_dict(found, sep='/')


def test_actions_of_int8_are_those_of_bfloat16_but_for_a_few(tiny, tokenizer, action_tokenizer):
    """Random weights decide by a hair, so this is far below what trained ones do (BUILD_NOTES)."""
    grammar = Grammar.create(tokenizer, action_tokenizer)
    images, prompt = tiny.inputs(0, 40)
    found = {}
    for kind in compact.TYPES:
        inputs = images[:1], prompt[:1], prompt[:1]
        model, params = compact.compact(tiny.model, tiny.params(0), kind, inputs)
        samples = Sampler(model, grammar)(params, images, prompt, Kind.ACTION)
        assert np.isfinite(samples.log_probs).all()
        found[kind] = np.asarray(samples.tokens[:, 0]), np.asarray(samples.log_probs[:, 0])
    same = (found['int8'][0] == found['bfloat16'][0]).mean()
    assert same > 0.7, same
    first = [log_probs[:, 0] for _, log_probs in found.values()]
    np.testing.assert_allclose(*first, atol=0.1)


def test_only_kernels_are_int8_and_the_sharding_follows_them(tiny):
    model = compact.compact_model(tiny.model, 'tpu')
    images, prompt = tiny.inputs(0, 1)
    mesh = jax.make_mesh((1, 1, 1), ('data', 'fsdp', 'tensor'))
    shapes = named_leaves(compact.shapes(model, 'int8', (images, prompt, prompt), mesh))
    of = lambda name: (
        shapes[name].shape,
        shapes[name].dtype.name,
        tuple(shapes[name].sharding.spec),
    )
    part = 'text_decoder/layers/self_attention'
    assert of(f'{part}/query/rows') == (
        (2, 2, 16, 32), 'int8', (None, 'tensor', None, 'fsdp')
    )  # fmt: skip
    assert of(f'{part}/query/scale') == ((2, 2, 16), 'float32', (None, 'tensor', None))
    assert of(f'{part}/out/rows') == (
        (2, 32, 2, 16), 'int8', (None, 'fsdp', 'tensor', None)
    )  # fmt: skip
    assert of('head/rows')[1:] == ('bfloat16', ('tensor', 'fsdp'))
    assert 'head/scale' not in shapes and 'embedding/scale' not in shapes
    assert {x.dtype for name, x in shapes.items() if 'norm' in name} == {jnp.dtype('float32')}


def test_an_unknown_type_is_named_with_the_nearest(tiny):
    with pytest.raises(ValueError, match="weights 'int88'; did you mean 'int8'"):
        compact.compact(tiny.model, {}, 'int88', ())
