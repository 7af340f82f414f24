"""T5X checkpoints: what they give is what the same model gives as transformers writes it, bit for bit."""

import shutil

from flax import serialization, traverse_util
import numpy as np
import pytest
import tensorstore as ts

from rt2_jax import convert
from rt2_jax.checkpoints import param_shapes
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.weights import formats, rules, t5x_checkpoint, tensors

torch = pytest.importorskip('torch', reason="parity needs pip install 'rt2_jax[parity]'")
transformers = pytest.importorskip('transformers')

HEADS, HEAD_DIM = 3, 10
DEPTH = {'encoder': 3, 'decoder': 2}
# Blocks' layers in transformers' order: theirs, T5X's, its norm.
BLOCKS = {
    'encoder': [
        ('SelfAttention', 'attention', 'pre_attention_layer_norm'),
        ('DenseReluDense', 'mlp', 'pre_mlp_layer_norm'),
    ],
    'decoder': [
        ('SelfAttention', 'self_attention', 'pre_self_attention_layer_norm'),
        ('EncDecAttention', 'encoder_decoder_attention', 'pre_cross_attention_layer_norm'),
        ('DenseReluDense', 'mlp', 'pre_mlp_layer_norm'),
    ],
}
PRODUCTS = {'q': 'query', 'k': 'key', 'v': 'value', 'o': 'out'}


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    """A T5 v1.1 as transformers writes it."""
    torch.manual_seed(0)
    config = transformers.T5Config(
        d_model=24, d_ff=44, vocab_size=71, num_layers=DEPTH['encoder'],
        num_decoder_layers=DEPTH['decoder'], num_heads=HEADS, d_kv=HEAD_DIM,
        feed_forward_proj='gated-gelu', tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(71, 24))
    for name, x in model.named_parameters():
        if name.endswith('norm.weight'):
            x.data = torch.rand_like(x)
    model.shared.weight.data[:, :12] = 0  # one chunk of it, below
    model.config.tie_word_embeddings = False
    folder = tmp_path_factory.mktemp('t5')
    model.save_pretrained(folder)
    return folder


def read(opened):
    """All parameters by name, read."""
    shapes = param_shapes.named_shapes(opened.model, None)
    found = rules.imported(opened.rules, opened.tensors, shapes)
    return {name: tensor.read() for name, tensor in found.items()}


def as_t5x(directory, scanned=False, split=False):
    """The parameters of the model under the names and in the layouts of T5X.

    The mapping is that of transformers' convert_t5x_checkpoint_to_pytorch.py, and with scanned layers
    of convert_umt5_checkpoint_to_pytorch.py, the other way around.
    """
    theirs = {name: tensor.read() for name, tensor in tensors.open_tensors(directory).items()}
    found = {
        'token_embedder/embedding': theirs['shared.weight'],
        'decoder/logits_dense/kernel': theirs['lm_head.weight'].T,
    }
    for stack, blocks in BLOCKS.items():
        found[f'{stack}/{stack}_norm/scale'] = theirs[f'{stack}.final_layer_norm.weight']
        first = f'{stack}.block.0.layer.0.SelfAttention'
        table = theirs[f'{first}.relative_attention_bias.weight'].T
        layers = []
        for i in range(DEPTH[stack]):
            layer = {'relpos_bias/rel_embedding': table} if scanned else {}
            for number, (their, part, norm) in enumerate(blocks):
                prefix = f'{stack}.block.{i}.layer.{number}'
                layer[f'{norm}/scale'] = theirs[f'{prefix}.layer_norm.weight']
                for name in ('wi_0', 'wi_1', 'wo') if part == 'mlp' else PRODUCTS:
                    kernel = theirs[f'{prefix}.{their}.{name}.weight'].T
                    if split and part != 'mlp':
                        heads = (HEADS, HEAD_DIM, 24) if name == 'o' else (24, HEADS, HEAD_DIM)
                        kernel = kernel.reshape(heads)
                    layer[f'{part}/{PRODUCTS.get(name, name)}/kernel'] = kernel
            layers.append(layer)
        if scanned:
            for name in layers[0]:
                found[f'{stack}/{stack}/{name}'] = np.stack([layer[name] for layer in layers], 1)
        else:
            found[f'{stack}/relpos_bias/rel_embedding'] = table
            for i, layer in enumerate(layers):
                found |= {f'{stack}/layers_{i}/{name}': x for name, x in layer.items()}
    return found


def write(folder, params, dtype='float32'):
    """A checkpoint as T5X's checkpoints.py writes it: vectors in the msgpack, the others beside it."""
    folder.mkdir(parents=True)
    target = {}
    for name, x in params.items():
        x = np.ascontiguousarray(x).astype(dtype)
        target[name] = x
        if x.ndim > 1:
            path = f'target/{name}'.replace('/', '.')
            metadata = {'compressor': {'id': 'gzip'}, 'shape': x.shape}
            # Halves of what can be halved, as of an array on several devices.
            metadata['chunks'] = [n // 2 if n % 2 == 0 else n for n in x.shape]
            kvstore = {'driver': 'file', 'path': path}
            spec = {'driver': 'zarr', 'dtype': dtype, 'metadata': metadata}
            here = {'driver': 'file', 'path': str(folder / path)}
            ts.open(spec | {'kvstore': here}, create=True, open=True).result().write(x).result()
            told = ts.Spec(spec | {'kvstore': kvstore}).to_json()
            if 'decoder' in name:  # as written with TensorStore before 0.1.14 on Google's disks
                told |= {'kvstore': {'driver': 'gfile'}, 'path': path}
            target[name] = told
    unread = {
        'v': {'driver': 'zarr', 'kvstore': {'driver': 'file', 'path': 'state.param_states.v/'}}
    }
    contents = {
        'target': traverse_util.unflatten_dict(target, sep='/'),
        'state': {'step': np.int32(1_000_000), 'param_states': unread},
    }
    contents = {'version': 3, 'optimizer': contents}
    (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize(contents))
    return folder


@pytest.fixture
def checkpoint(directory, tmp_path):
    return write(tmp_path / 'checkpoint_1000000', as_t5x(directory))


@pytest.mark.parametrize(
    'layout, dtype',
    [
        (dict(), 'float32'),
        (dict(), 'bfloat16'),
        (dict(scanned=True, split=True), 'float32'),  # examples/scalable_t5
        (dict(scanned=True), 'float32'),  # flaxformer
    ],
    ids=str,
)
def test_parameters_are_those_of_the_other_format(directory, tmp_path, layout, dtype, caplog):
    theirs = formats.open_source(directory, 't5')
    expected = {name: x.astype(dtype) for name, x in read(theirs).items()}
    source = write(tmp_path / 'checkpoint_7', as_t5x(directory, **layout), dtype)
    opened = formats.open_source(source, 't5x')
    assert opened.model == theirs.model
    assert 'config.gin is not there or names no activation: gelu is taken' in caplog.text
    found = read(opened)
    assert set(found) == set(expected)
    for name, x in expected.items():
        assert found[name].dtype == x.dtype, name
        np.testing.assert_array_equal(found[name], x, err_msg=name)


def test_opening_reads_no_array(checkpoint):
    whole = t5x_checkpoint.open_tensors(checkpoint)
    name = 'target/encoder/layers_1/attention/query/kernel'
    before = whole[name].read()
    np.testing.assert_array_equal(whole[name][3:5, :7], before[3:5, :7])
    for path in checkpoint.glob('target.*/[0-9]*'):
        path.write_bytes(path.read_bytes()[:-99])
    opened = formats.open_source(checkpoint, 't5x')
    opened = rules.imported(
        opened.rules, opened.tensors, param_shapes.named_shapes(opened.model, None)
    )
    np.testing.assert_array_equal(
        opened['text_encoder/norm/scale'].read(), whole['target/encoder/encoder_norm/scale'].read()
    )
    with pytest.raises(
        tensors.SourceError, match=r'layers_0/\S+ in .* cannot be read: .*kernel/\d'
    ):
        opened['text_encoder/layers/attention/query/kernel'].read()
    for path in checkpoint.glob('target.token_embedder.embedding/[0-9]*'):
        path.unlink()
    with pytest.raises(tensors.SourceError, match=r'embedding/0.[01]" is missing'):
        opened['embedding/embedding'].read()


UL2 = """
from flaxformer.components import dense
HEAD_DIM = 256
# activations = ('gelu', 'linear')
dense.MlpBlock.activations = ('swish', 'linear')
"""


def test_ul2_says_its_activation_and_has_no_last_scale(directory, tmp_path):
    params = as_t5x(directory)
    del params['decoder/decoder_norm/scale']
    source = write(tmp_path / 'ul2' / 'checkpoint_2650000', params)
    with pytest.raises(tensors.SourceError, match='as in UL2, whose activation is not gelu'):
        formats.open_source(source, 't5x')
    (tmp_path / 'ul2' / 'config.gin').write_text(UL2)
    opened = formats.open_source(source, 't5x')
    assert {opened.model[stack]['activation'] for stack in DEPTH} == {'silu'}
    found = read(opened)
    np.testing.assert_array_equal(found['text_decoder/norm/scale'], np.ones(24, np.float32))
    t5x = "network.T5Config:\n  mlp_activations = ('geglu', 'linear')"
    (source / 'config.gin').write_text(t5x)
    with pytest.raises(tensors.SourceError, match=r"checkpoint_2650000/config.gin .*'geglu'"):
        formats.open_source(source, 't5x')
    (source / 'config.gin').write_text(UL2 + t5x)
    with pytest.raises(tensors.SourceError, match='several activations'):
        formats.open_source(source, 't5x')


@pytest.mark.parametrize(
    'line, message',
    [
        (
            'position_biases.RelativePositionBiases.num_buckets = 64',
            'num_buckets is 64; .* with 32',
        ),
        ('network.T5Config:\n  logits_via_embedding = True', 'logits_via_embedding is True'),
        ('layer_norm.T5LayerNorm.epsilon = 1e-5  # other', 'LayerNorm.epsilon is 1e-5'),
    ],
)
def test_what_config_gin_says_of_the_network_is_checked(directory, tmp_path, line, message):
    source = write(tmp_path / 'checkpoint_1', as_t5x(directory))
    (source / 'config.gin').write_text(
        UL2 + 'position_biases.num_buckets = 32\n# max_distance = 7\n'
    )
    formats.open_source(source, 't5x')
    (source / 'config.gin').write_text(UL2 + line)
    with pytest.raises(tensors.SourceError, match=message):
        formats.open_source(source, 't5x')


def test_convert_takes_the_words_along(checkpoint, tmp_path):
    (checkpoint / 'spiece.model').write_bytes(Tokenizer.load_default().model_bytes)
    count = convert.import_(checkpoint, 't5x', tmp_path / 'ours', None)
    written = tensors.open_tensors(tmp_path / 'ours')
    assert count == sum(tensor.read().size for tensor in written.values())
    assert len(Tokenizer.load(tmp_path / 'ours' / 'tokenizer.model').integer_ids) == 1001


KERNEL = 'target.decoder.layers_1.mlp.wo.kernel'


def damage(source, params, change):
    """Does something to a checkpoint; returns what to open."""
    if change == 'array':
        shutil.rmtree(source / KERNEL)
    elif change == 'chunk':
        (source / KERNEL / '1.0').unlink()
    elif change == 'shape':
        shutil.rmtree(source / KERNEL)
        shutil.copytree(source / KERNEL.replace('wo', 'wi_0'), source / KERNEL)
    elif change == 'state':
        (source / 'checkpoint').write_bytes((source / 'checkpoint').read_bytes()[:-20])
    elif change == 'driver':
        contents = serialization.msgpack_restore((source / 'checkpoint').read_bytes())
        contents['optimizer']['target']['token_embedder']['embedding']['driver'] = 'n5'
        (source / 'checkpoint').write_bytes(serialization.msgpack_serialize(contents))
    elif change == 'orbax':
        (source / 'checkpoint').write_bytes(
            serialization.msgpack_serialize({'target': 'PLACEHOLDER://'})
        )
    elif change == 'step':
        return source.parent
    elif change == 'missing':
        return source.parent / 'checkpoint_100000'
    else:
        shutil.rmtree(source)
        if change == 'v1.0':
            ungated = {n: x for n, x in params.items() if 'wi_1' not in n}
            params = {n.replace('wi_0', 'wi'): x for n, x in ungated.items()}
        elif change == 'tied':
            del params['decoder/logits_dense/kernel']
        elif change == 'lost':
            del params['encoder/layers_1/mlp/wo/kernel']
        elif change == 'tables':
            params['encoder/encoder/relpos_bias/rel_embedding'][0, 1, 0] += 1
        write(source, params)
    return source


@pytest.mark.parametrize(
    'change, message',
    [
        ('array', rf'{KERNEL}/.zarray is missing: .*target/decoder/layers_1/mlp/wo/kernel'),
        (
            'chunk',
            rf'{KERNEL}/1.0 is missing \(1 of the 4 chunks of target/decoder/layers_1/mlp/wo',
        ),
        ('shape', rf'{KERNEL} is not target/decoder/layers_1/mlp/wo/kernel as .*"shape"'),
        ('state', 'checkpoint is truncated or no msgpack of T5X'),
        ('driver', "target/token_embedder/embedding is kept as 'n5'"),
        ('orbax', "checkpoint has no 'version'"),
        ('step', 'take one of checkpoint_1000000'),
        ('missing', "did you mean 'checkpoint_1000000'"),
        ('v1.0', 'mlp/wi/kernel is of T5 v1.0, whose hidden layers have no gate'),
        ('tied', 'there is no target/decoder/logits_dense/kernel, so the head is the word table'),
        ('lost', 'has no target/encoder/layers_1/mlp/wo/kernel'),
        ('tables', r'has another table for each layer, as umT5 has'),
    ],
)
def test_what_is_wrong_is_named(directory, checkpoint, change, message):
    params = as_t5x(directory, scanned=change == 'tables')
    with pytest.raises(tensors.SourceError, match=message):
        read(formats.open_source(damage(checkpoint, params, change), 't5x'))
