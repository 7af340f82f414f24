"""RT-1's numbers are those of open_x_embodiment's own modules, with weights that are random everywhere.

git clone https://github.com/google-deepmind/open_x_embodiment
OPEN_X_EMBODIMENT=open_x_embodiment/models python -m pytest --noconftest -s tests/weights/test_rt1_parity.py
"""

import os
import sys
import types

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_jax.checkpoints import param_shapes
from rt2_jax.models import backbone
from rt2_jax.weights import rt1_layouts, rules, tensors

PLACE = os.environ.get('OPEN_X_EMBODIMENT', '')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PLACE, reason='set OPEN_X_EMBODIMENT, as this file says'),
]
SIDE, SENTENCE = 300, 512
# Sizes of their class: RT-1-X, and RT-1 in JAX.
SIZES = {
    'rt1x': dict(layer_size=256, vocab_size=512, num_image_tokens=81),
    'rt1': dict(layer_size=128, vocab_size=256, num_image_tokens=8),
}
FRAMES = {'rt1x': 15, 'rt1': 6}


@pytest.fixture(scope='module')
def theirs():
    """Their modules, rt1 and efficientnet."""
    sys.path.insert(0, PLACE)
    import efficientnet
    import rt1

    return rt1, efficientnet


def observed(frames, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (1, frames, SIDE, SIDE, 3), np.uint8)
    sentence = rng.normal(size=(1, SENTENCE)).astype(np.float32) / np.sqrt(SENTENCE)
    return images, sentence


def their_logits(model, variables, images, sentence):
    """Of the slots of all frames, [1, F, S, C]."""
    frames = images.shape[1]
    observation = {
        'image': jnp.asarray(images, jnp.float32) / 255,
        'natural_language_embedding': jnp.repeat(jnp.asarray(sentence)[:, None], frames, axis=1),
    }
    logits = jax.jit(
        lambda variables, observation: model.apply(
            variables,
            observation,
            act=None,
            act_tokens=jnp.zeros((1, frames, 11)),
            train=False,
            rngs={'random': jax.random.key(0)},
        )
    )(variables, observation)
    logits = logits.reshape(1, frames, -1, logits.shape[-1])
    return np.asarray(logits[:, :, -12:-1])


def random_variables(model, frames, modules):
    """Variables of their model, none of them zero or one; running statistics are near those of images."""
    images, sentence = observed(frames)
    observation = {
        'image': jnp.zeros(images.shape, jnp.float32),
        'natural_language_embedding': jnp.zeros((1, frames, SENTENCE)),
    }
    keys = {'params': jax.random.key(0), 'random': jax.random.key(1)}
    shapes = jax.eval_shape(
        lambda: model.init(
            keys, observation, act=None, act_tokens=jnp.zeros((1, frames, 11)), train=False
        )
    )
    rng = np.random.default_rng(3)

    def draw(path, x):
        name = jax.tree_util.keystr(path)
        noise = rng.normal(size=x.shape).astype(np.float32)
        if 'var' in name or 'scale' in name:
            return np.exp(0.1 * noise)
        if 'kernel' not in name:
            return 0.1 * noise
        if 'Dense_1' in name and x.shape[0] == frames * (model.num_image_tokens + 11):
            return 0.5 * noise  # of positions
        size = np.prod(x.shape[:-1]) if 'out' in name or x.ndim == 4 else x.shape[0]
        # Small branches, so that features and logits keep their size.
        small = any(part in name for part in ('Film', "'out'", 'TransformerBlock'))
        return noise / np.sqrt(size) * (0.3 if small else 1.0)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    # Statistics of two frames: with others, features of random weights grow beyond all bounds.
    tower = modules[1].EfficientNetWithFilm(modules[1].MODEL_CONFIGS['efficientnet-b3'])
    pixels = (jnp.asarray(images[0, :2], jnp.float32) / 255 - 0.45) / 0.225
    name = 'EfficientNetWithFilm_0'
    inside = {part: tree['image_tokenizer'][name] for part, tree in variables.items()}
    tower.config.bn_momentum = tower.config.drop_connect_rate = 0.0
    call = lambda variables: tower.apply(
        variables,
        pixels,
        context_input=jnp.repeat(sentence, 2, axis=0),
        train=True,
        rngs={'random': jax.random.key(0)},
        mutable=['batch_stats'],
    )
    statistics = jax.jit(call)(inside)[1]['batch_stats']
    noisy = lambda x: x * np.exp(0.1 * rng.normal(size=x.shape)).astype(np.float32)
    variables['batch_stats']['image_tokenizer'][name] = jax.tree.map(noisy, statistics)
    return variables


def our_model(variables, changes):
    """Our model of their variables, and its parameters."""
    source = {
        name: tensors.of_array(name, x)
        for name, x in traverse_util.flatten_dict(variables, sep='/').items()
    }
    config = rt1_layouts.jax_model(source) | changes
    shapes = param_shapes.named_shapes(config, SIDE)
    read = rules.imported(rt1_layouts.jax_rules(config), source, shapes)
    params = {name: jnp.asarray(tensor.read()) for name, tensor in read.items()}
    model = backbone.build(config | {'dtype': 'float32'}, 8)
    return model, {'params': traverse_util.unflatten_dict(params, sep='/')}


def difference(ours, expected):
    """The largest difference of logits; they must be of some size, and of several."""
    assert 0.3 < expected.std() < 30
    print(f'largest difference {np.abs(ours - expected).max():.2e} of {np.abs(expected).max():.2f}')
    return np.abs(ours - expected).max()


@pytest.mark.parametrize('name, hidden', [('rt1x', 'swiglu'), ('rt1', 'linear')])
def test_full_and_unfilled_windows(theirs, name, hidden):
    rt1, _ = theirs
    options = rt1.FFNOptions.SWIGLU if hidden == 'swiglu' else rt1.FFNOptions.LINEAR
    frames = FRAMES[name]
    model = rt1.RT1(ffn_option=options, **SIZES[name])
    variables = random_variables(model, frames, theirs)
    ours, params = our_model(variables, {})
    images, sentence = observed(frames)
    window = jax.jit(lambda images: ours.apply(params, images, sentence, method='window'))
    expected = their_logits(model, variables, images, sentence)
    assert difference(window(images), expected) < 1e-5
    act = ours.apply(params, images, sentence, method='act')
    assert difference(act, expected[:, -1]) < 1e-5

    # Filled from the left and read at the last frame that is there, as TensorFlow's policy does.
    filled = 4
    empty = images.copy()
    empty[:, filled:] = 0
    expected = their_logits(model, variables, empty, sentence)[:, :filled]
    assert difference(window(images[:, :filled]), expected) < 1e-5

    # The first frame again and again, as users of JAX's policy do.
    repeated = np.concatenate(
        [np.repeat(images[:, :1], frames - filled, axis=1), images[:, :filled]], axis=1
    )
    expected = their_logits(model, variables, repeated, sentence)
    assert difference(window(repeated), expected) < 1e-5


def test_padding_and_mask_of_tensorflow(theirs, monkeypatch):
    """Their modules with what TensorFlow's do otherwise: 9 x 9 places, and slots seen by later frames."""
    rt1, efficientnet = theirs
    plain = efficientnet.DepthwiseConv

    def padded(features, kernel_size, strides, padding, **settings):
        assert padding == 'SAME'
        if strides == (2, 2):
            padding = [(size // 2 - 1, size // 2) for size in kernel_size]
        return plain(features, kernel_size, strides, padding, **settings)

    def mask(self, tokens):
        place = rt1.RT1._get_action_index_for_token
        settings = types.SimpleNamespace(
            num_image_tokens=self.num_image_tokens,
            num_action_tokens=self.num_action_tokens,
            include_prev_timesteps_actions=True,  # of the mask alone
        )
        settings._get_action_index_for_token = lambda k, n: place(settings, k, n)
        return construct(settings, tokens)

    construct = rt1.RT1._construct_attn_mask
    monkeypatch.setattr(efficientnet, 'DepthwiseConv', padded)
    monkeypatch.setattr(rt1.RT1, '_construct_attn_mask', mask)
    model = rt1.RT1(ffn_option=rt1.FFNOptions.LINEAR, **SIZES['rt1'])
    variables = random_variables(model, 6, theirs)
    ours, params = our_model(variables, dict(mask='images_and_slots', vision=dict(padding='even')))
    images, sentence = observed(6)
    expected = their_logits(model, variables, images, sentence)
    window = ours.apply(params, images, sentence, method='window')
    assert difference(window, expected) < 1e-5
    other, params = our_model(variables, {})
    assert difference(other.apply(params, images, sentence, method='window'), expected) > 1e-2
