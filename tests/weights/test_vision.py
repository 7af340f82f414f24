"""Vision towers: SigLIP's and ViT's image tokens are transformers'; big_vision's files give the same."""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import parity
import pytest

from rt2_jax.models import vit
from rt2_jax.weights import big_vision, formats, rules, tensors

torch = pytest.importorskip('torch', reason="parity needs pip install 'rt2_jax[parity]'")
transformers = pytest.importorskip('transformers')


PATCH, SIZE = 6, 30


class Tower(nn.Module):
    config: flax.core.FrozenDict

    def setup(self):
        self.tower = vit.ViT(vit.ViTConfig(dtype=jnp.float32, **self.config['vision']))

    def __call__(self, images):
        return self.tower(images)


def shapes_of(config, size):
    image = jax.ShapeDtypeStruct((1, size, size, 3), 'uint8')
    model = Tower(flax.core.freeze(config))
    return model, parity.shapes_of(model, image)


def read(found):
    return parity.variables(parity.read(found))


SIZES = dict(
    hidden_size=36, intermediate_size=50, num_hidden_layers=3, num_attention_heads=3, image_size=SIZE,
    patch_size=PATCH, num_channels=3,
)  # fmt: skip
FAMILIES = {
    'siglip': ('siglip', 'SiglipVision', {}),
    'siglip, other': ('siglip', 'SiglipVision', dict(hidden_act='gelu', layer_norm_eps=1e-2)),
    'vit': ('vit', 'ViT', dict(layer_norm_eps=1e-2)),
    'vit, tanh': ('vit', 'ViT', dict(hidden_act='gelu_pytorch_tanh', layer_norm_eps=1e-6)),
}


@pytest.fixture(scope='module', params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope='module')
def theirs(family):
    torch.manual_seed(0)
    _, name, settings = family
    config = getattr(transformers, f'{name}Config')(**SIZES, **settings)
    model = getattr(transformers, f'{name}Model')(config).eval()
    for parameter in model.parameters():  # biases and norms begin as nothing
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture(scope='module')
def opened(theirs, family, tmp_path_factory):
    folder = tmp_path_factory.mktemp('tower')
    theirs.save_pretrained(folder)
    return formats.open_source(folder, family[0])


@pytest.fixture(scope='module')
def ours(opened):
    model, shapes = shapes_of(opened.model, SIZE)
    return model, read(rules.imported(opened.rules, opened.tensors, shapes)), opened.model, shapes


def pictures(size=SIZE):
    return np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)


def test_image_tokens(theirs, ours):
    model, params, *_ = ours
    pixels = torch.tensor(pictures() / 127.5 - 1, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = theirs(pixel_values=pixels).last_hidden_state.numpy()
    found = jax.jit(model.apply)(params, pictures())
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected[:, -25:], atol=1e-4)


@pytest.mark.parametrize('layout', big_vision.LAYOUTS)
def test_big_vision_files_say_the_same(ours, layout, tmp_path):
    model, params, config, shapes = ours
    mine = flax.traverse_util.flatten_dict(params['params'], sep='/')
    kind = config['vision'].get('class_token', 'none')
    vision = dict(config['vision'])
    if kind == 'placed' and layout != 'older':  # there it has no position
        mine['tower/class_token'] += mine.pop('tower/class_position')
        vision['class_token'] = 'plain'
    config = dict(vision=vision)
    table = big_vision.rules(config, layout)
    written = rules.exported(table, {n: tensors.of_array(n, x) for n, x in mine.items()})
    arrays = {f'params/img/{name}': tensor.read() for name, tensor in written.items()}
    arrays['params/img/MAPHead_0/probe'] = arrays['params/t'] = np.zeros((1, 1, 36), np.float32)
    np.savez(tmp_path / 'whole.npz', **arrays)
    source = tensors.open_tensors(f'{tmp_path}/whole.npz:img')
    assert big_vision.layout(source) == layout
    told = big_vision.model(source)['vision']
    # Shapes tell all but the activation and the norms' epsilon, which are always the same there.
    assert told == {name: x for name, x in vision.items() if name not in ('activation', 'epsilon')}
    model, shapes = shapes_of(config, SIZE)
    again = read(rules.imported(table, source, shapes))
    jax.tree.map(np.testing.assert_array_equal, again['params'], parity.variables(mine)['params'])
    logits = [jax.jit(m.apply)(p, pictures()) for m, p in ((model, again), (ours[0], params))]
    np.testing.assert_allclose(*logits, atol=1e-5)


def test_bfloat16_of_an_npz(tmp_path):
    value = np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3)
    np.savez(tmp_path / 'x.npz', a=value)
    tensor = tensors.open_tensors(tmp_path / 'x.npz')['a']
    assert tensor.dtype == ml_dtypes.bfloat16 and tensor.shape == (2, 3)
    np.testing.assert_array_equal(tensor.read(), value)


def test_positions_are_resized_for_other_images(opened, ours):
    model, shapes = shapes_of(opened.model, 2 * SIZE)
    params = read(rules.imported(opened.rules, opened.tensors, shapes))
    old = ours[1]['params']['tower']['positions'].reshape(5, 5, -1)
    new = params['params']['tower']['positions'].reshape(10, 10, -1)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        np.testing.assert_allclose(new[corner], old[corner], atol=1e-6)
    assert jax.eval_shape(model.apply, params, pictures(2 * SIZE)).shape == (2, 100, 36)
