"""RT-1's public layouts: every name and shape of a list of their own, and files that are read."""

import flax
from flax import serialization
import numpy as np
import orbax.checkpoint as ocp
import pytest

from rt2_jax import convert
from rt2_jax.checkpoints import param_shapes
from rt2_jax.weights import formats, rt1_layouts, rules, tensors

# EfficientNet-B3's blocks: how many, inputs, outputs, kernel, hidden, squeezed.
BLOCKS = (
    (1, 40, 24, 3, 40, 10),
    (1, 24, 24, 3, 24, 6),
    (1, 24, 32, 3, 144, 6),
    (2, 32, 32, 3, 192, 8),
    (1, 32, 48, 5, 192, 8),
    (2, 48, 48, 5, 288, 12),
    (1, 48, 96, 3, 288, 12),
    (4, 96, 96, 3, 576, 24),
    (1, 96, 136, 5, 576, 24),
    (4, 136, 136, 5, 816, 34),
    (1, 136, 232, 5, 816, 34),
    (5, 232, 232, 5, 1392, 58),
    (1, 232, 384, 3, 1392, 58),
    (1, 384, 384, 3, 2304, 96),
)
BLOCKS = [sizes for count, *sizes in BLOCKS for _ in range(count)]
RT1X = dict(places=15 * 92, tokens=81, head_dim=256, bins=512)
RT1 = dict(places=6 * 19, tokens=8, head_dim=128, bins=256)


def dense(name, inputs, outputs):
    return {f'{name}/kernel': (*inputs, *outputs), f'{name}/bias': outputs}


def jax_tree(places, tokens, head_dim, bins):
    """Shapes by name: parameters, and statistics."""
    tower = 'image_tokenizer/EfficientNetWithFilm_0'
    shapes, statistics = {}, {}

    def norm(name, width):
        shapes.update({f'{name}/{part}': (width,) for part in ('scale', 'bias')})
        statistics.update({f'{name}/{part}': (width,) for part in ('mean', 'var')})

    shapes[f'{tower}/Stem_0/conv2d/kernel'] = (3, 3, 3, 40)
    norm(f'{tower}/Stem_0/batch_normalization', 40)
    for i, (inputs, outputs, kernel, hidden, squeezed) in enumerate(BLOCKS):
        name = f'{tower}/MBConvBlock_{i}'
        widths = [hidden, outputs]
        if hidden != inputs:
            shapes[f'{name}/expand_conv2d_0/kernel'] = (1, 1, inputs, hidden)
            widths.insert(0, hidden)
        for number, width in enumerate(widths):
            norm(f'{name}/batch_normalization_{number}', width)
        shapes[f'{name}/depthwise_conv2d/depthwise_kernel'] = (kernel, kernel, hidden, 1)
        for part, sizes in (('reduce', (hidden, squeezed)), ('expand', (squeezed, hidden))):
            conv = f'{name}/SqueezeExcite_0/{part}_conv2d_0'
            shapes |= {f'{conv}/kernel': (1, 1, *sizes), f'{conv}/bias': sizes[1:]}
        shapes[f'{name}/project_conv2d_0/kernel'] = (1, 1, hidden, outputs)
        for number in range(2):
            shapes |= dense(f'{tower}/FilmConditioning_{i}/Dense_{number}', (512,), (outputs,))
    shapes[f'{tower}/Head_0/conv2d/kernel'] = (1, 1, 384, 1536)
    norm(f'{tower}/Head_0/batch_normalization', 1536)
    shapes['image_tokenizer/Conv_0/kernel'] = (1, 1, 1536, 512)
    for number in range(2):
        shapes |= dense(f'image_tokenizer/FilmConditioning_0/Dense_{number}', (512,), (512,))
    learner = 'image_tokenizer/TokenLearnerModuleV11_0'
    shapes |= {f'{learner}/LayerNorm_0/{part}': (512,) for part in ('scale', 'bias')}
    shapes |= dense(f'{learner}/token_masking/Dense_0', (512,), (64,))
    shapes |= dense(f'{learner}/token_masking/Dense_1', (64,), (tokens,))
    for number, (inputs, outputs) in enumerate([(512, 512), (places, 512), (512, bins)]):
        shapes |= dense(f'Transformer_0/Dense_{number}', (inputs,), (outputs,))
    for i in range(8):
        block = f'Transformer_0/TransformerBlock_{i}'
        for number in range(2):
            shapes |= {f'{block}/LayerNorm_{number}/{x}': (512,) for x in ('scale', 'bias')}
        attention = f'{block}/MultiHeadDotProductAttention_0'
        for name in ('query', 'key', 'value'):
            shapes |= dense(f'{attention}/{name}', (512,), (8, head_dim))
        shapes |= dense(f'{attention}/out', (8, head_dim), (512,))
        shapes |= {f'{block}/Dense_{number}/kernel': (512, 512) for number in range(3)}
    return shapes, statistics


def tf_tree(places, tokens, head_dim, bins):
    """Shapes of the variables of the model by name."""
    shapes, number = {'_image_tokenizer/_tokenizer/conv1x1/kernel': (1, 1, 1536, 512)}, 0

    def layer(**parts):
        nonlocal number
        name = f'_image_tokenizer/_tokenizer/net/layer_with_weights-{number}'
        shapes.update({f'{name}/{part}': shape for part, shape in parts.items()})
        number += 1

    def norm(width):
        layer(**dict.fromkeys(('gamma', 'beta', 'moving_mean', 'moving_variance'), (width,)))

    def film(width):
        return dense('_projection_add', (512,), (width,)) | dense(
            '_projection_mult', (512,), (width,)
        )

    layer(mean=(3,), variance=(3,), count=())
    layer(kernel=(3, 3, 3, 40))
    norm(40)
    for inputs, outputs, kernel, hidden, squeezed in BLOCKS:
        if hidden != inputs:
            layer(kernel=(1, 1, inputs, hidden))
            norm(hidden)
        layer(depthwise_kernel=(kernel, kernel, hidden, 1))
        norm(hidden)
        layer(kernel=(1, 1, hidden, squeezed), bias=(squeezed,))
        layer(kernel=(1, 1, squeezed, hidden), bias=(hidden,))
        layer(kernel=(1, 1, hidden, outputs))
        norm(outputs)
        layer(**film(outputs))
    layer(kernel=(1, 1, 384, 1536))
    norm(1536)
    assert number == 235
    shapes |= {f'_image_tokenizer/_tokenizer/film_layer/{n}': s for n, s in film(512).items()}
    learner = '_image_tokenizer/_token_learner'
    shapes |= {f'{learner}/layernorm/{part}': (512,) for part in ('gamma', 'beta')}
    shapes |= dense(f'{learner}/mlp/_hidden_layer', (512,), (64,))
    shapes |= dense(f'{learner}/mlp/_output_layer', (64,), (tokens,))
    shapes |= dense('_action_token_emb', (bins,), (512,))
    shapes |= dense('_transformer/_token_emb', (512,), (512,))
    shapes |= dense('_transformer/_position_emb', (places,), (512,))
    shapes |= dense('_transformer/_output_tokens', (512,), (bins,))
    for i in range(8):
        block = f'_transformer/_layers/{i}'
        for norm_name in ('layernorm1', 'layernorm2'):
            shapes |= {f'{block}/{norm_name}/{part}': (512,) for part in ('gamma', 'beta')}
        shapes |= dense(f'{block}/ff', (512,), (512,))
        for name in ('query', 'key', 'value'):
            shapes |= dense(f'{block}/mha1/_{name}_dense', (512,), (8, head_dim))
        shapes |= dense(f'{block}/mha1/_output_dense', (8, head_dim), (512,))
    return shapes


def unread(shapes):
    """Tensors of these shapes, which take no memory."""
    zero = np.zeros((), np.float32)
    return {
        name: tensors.of_array(name, np.broadcast_to(zero, shape)) for name, shape in shapes.items()
    }


def size(shapes):
    return sum(int(np.prod(shape)) for shape in shapes.values())


def read(table, model, source):
    return rules.imported(table, source, param_shapes.named_shapes(model, None))


def test_jax_has_a_place_for_every_leaf_and_takes_no_other():
    shapes, statistics = jax_tree(**RT1X)
    assert (len(shapes), len(statistics)) == (579, 156)
    assert (size(shapes), size(statistics)) == (56_896_809, 87_296)
    source = unread({f'params/{name}': shape for name, shape in shapes.items()})
    source |= unread({f'batch_stats/{name}': shape for name, shape in statistics.items()})
    model = rt1_layouts.jax_model(source)
    assert (model['frames'], model['image_tokens'], model['bins']) == (15, 81, 512)
    params = read(rt1_layouts.jax_rules(model), model, source)
    running = {name for name in params if 'running' in name}
    assert len(running) == 156
    assert sum(x.count for name, x in params.items() if name not in running) == 56_896_809
    written = rules.exported(rt1_layouts.jax_rules(model), params)
    assert {n: x.shape for n, x in written.items()} == {n: x.shape for n, x in source.items()}
    with pytest.raises(tensors.SourceError, match='nothing here takes it'):
        read(rt1_layouts.jax_rules(model), model, source | unread({'params/Dense_0/kernel': (3,)}))


def test_tensorflow_has_a_place_for_every_variable():
    source = unread(tf_tree(**RT1))
    assert len(source) == 732
    model = rt1_layouts.tf_model(source)
    assert (model['frames'], model['image_tokens'], model['bins']) == (6, 8, 256)
    assert model['vision']['padding'] == 'even' and model['mask'] == 'images_and_slots'
    params = read(rt1_layouts.tf_rules(model), model, source)
    trained = [x.count for name, x in params.items() if 'running' not in name]
    assert sum(trained) == 35_252_128
    assert sum(x.count for x in source.values()) == 35_252_128 + 87_296 + 7


@pytest.fixture(scope='module')
def arrays():
    """Leaves of RT-1-X that only a few megabytes of a repeated number are needed for."""
    shapes, statistics = jax_tree(**RT1)
    make = lambda sizes: {
        name: np.full(shape, (number % 97) / 97, np.float16)
        for number, (name, shape) in enumerate(sizes.items())
    }
    parts = {'params': make(shapes), 'batch_stats': make(statistics)}
    return {part: flax.traverse_util.unflatten_dict(x, sep='/') for part, x in parts.items()}


@pytest.mark.parametrize('kind', ['msgpack', 'orbax'])
def test_a_checkpoint_of_flax_is_read_from_either_kind(arrays, kind, tmp_path):
    path = tmp_path / 'b321733791_75882326_000900000'
    if kind == 'msgpack':
        path.write_bytes(serialization.msgpack_serialize(arrays | {'step': 900_000}))
    else:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            checkpointer.save(path, arrays | {'step': 900_000})
    opened = formats.open_source(path, 'rt1_jax')
    params = read(opened.rules, opened.model, opened.tensors)
    kernel = arrays['params']['Transformer_0']['TransformerBlock_3']['Dense_1']['kernel']
    np.testing.assert_array_equal(params['layers/mlp/wi_1/kernel'].read()[3], kernel)
    inside = 'image_tokenizer', 'EfficientNetWithFilm_0', 'MBConvBlock_1', 'batch_normalization_1'
    variance = arrays['batch_stats']
    for part in inside:
        variance = variance[part]
    ours = params['tower/block_1/project_norm/running_variance'].read()
    np.testing.assert_array_equal(ours, variance['var'])
    if kind == 'msgpack':
        assert convert.import_(path, 'rt1_jax', tmp_path / 'ours', None) == 39_310_752 + 87_296
        path.write_bytes(path.read_bytes()[:1000])
    else:
        (path / '_METADATA').unlink()
    with pytest.raises(tensors.SourceError, match='no msgpack of flax and no Orbax checkpoint'):
        formats.open_source(path, 'rt1_jax')


def test_variables_are_read_under_the_names_that_tensorflow_saves(tmp_path):
    names = ('_image_tokenizer/_tokenizer/conv1x1/kernel', '_transformer/_token_emb/bias')
    stored = {
        f'agent/_actor_network/{name}/.ATTRIBUTES/VARIABLE_VALUE': np.ones(3) for name in names
    }
    slot = f'agent/_actor_network/{names[0]}/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/VARIABLE_VALUE'
    np.savez(tmp_path / 'rt1main.npz', **stored, **{slot: np.ones(3)}, save_counter=np.ones(()))
    assert set(rt1_layouts.open_tf(tmp_path / 'rt1main.npz')) == set(names)
