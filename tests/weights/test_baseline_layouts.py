"""VC-1's and R3M's public layouts: every name and shape written out here, and files of them that are read."""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from rt2_jax import convert
from rt2_jax.checkpoints import param_shapes
from rt2_jax.models import resnet, vit
from rt2_jax.weights import formats, rules, tensors


def vc1_shapes(width, depth, patch=16, side=224):
    """Of facebookresearch/mae's MaskedAutoencoderViT without its decoder."""
    shapes = {
        'cls_token': (1, 1, width),
        'pos_embed': (1, (side // patch) ** 2 + 1, width),
        'patch_embed.proj.weight': (width, 3, patch, patch),
        'patch_embed.proj.bias': (width,),
    }
    linear = lambda name, inputs, outputs: {
        f'{name}.weight': (outputs, inputs), f'{name}.bias': (outputs,)
    }  # fmt: skip
    norm = lambda name: {f'{name}.{part}': (width,) for part in ('weight', 'bias')}
    for i in range(depth):
        block = f'blocks.{i}'
        shapes |= norm(f'{block}.norm1') | norm(f'{block}.norm2')
        shapes |= linear(f'{block}.attn.qkv', width, 3 * width)
        shapes |= linear(f'{block}.attn.proj', width, width)
        shapes |= linear(f'{block}.mlp.fc1', width, 4 * width)
        shapes |= linear(f'{block}.mlp.fc2', 4 * width, width)
    return shapes | norm('norm')


def resnet_shapes(stages, width, bottleneck, prefix='module.convnet.'):
    """Of torchvision's ResNet without its classifier."""
    shapes = {'conv1.weight': (width, 3, 7, 7)}

    def norm(name, channels):
        for part in ('weight', 'bias', 'running_mean', 'running_var'):
            shapes[f'{name}.{part}'] = (channels,)
        shapes[f'{name}.num_batches_tracked'] = ()

    norm('bn1', width)
    inputs = width
    for stage, blocks in enumerate(stages):
        inner = width * 2**stage
        outputs = inner * (4 if bottleneck else 1)
        for block in range(blocks):
            name = f'layer{stage + 1}.{block}'
            sizes = [(inputs, inner, 3), (inner, inner, 3)]
            if bottleneck:
                sizes = [(inputs, inner, 1), (inner, inner, 3), (inner, outputs, 1)]
            for i, (ins, outs, kernel) in enumerate(sizes):
                shapes[f'{name}.conv{i + 1}.weight'] = (outs, ins, kernel, kernel)
                norm(f'{name}.bn{i + 1}', outs)
            if inputs != outputs or (stage and not block):
                shapes[f'{name}.downsample.0.weight'] = (outputs, inputs, 1, 1)
                norm(f'{name}.downsample.1', outputs)
            inputs = outputs
    return {prefix + name: shape for name, shape in shapes.items()}


def unread(shapes):
    """Tensors of these shapes, which take no memory."""
    zero = np.zeros((), np.float32)
    return {
        name: tensors.of_array(name, np.broadcast_to(zero, shape)) for name, shape in shapes.items()
    }


def count(shapes):
    return sum(int(np.prod(shape)) for shape in shapes.values())


@pytest.mark.parametrize('width, depth', [(768, 12), (1024, 24)], ids=['vit_b', 'vit_l'])
def test_vc1_has_a_place_for_every_tensor(width, depth):
    shapes = vc1_shapes(width, depth)
    decoder = {'mask_token': (1, 1, 512), 'decoder_blocks.0.norm1.weight': (512,)}
    source = unread(shapes | decoder)
    form = formats.FORMATS['vc1']
    model = form.model({}, source)
    assert (model['vision']['width'], model['vision']['depth']) == (width, depth)
    table = form.rules(model, source)
    params = rules.imported(table, source, param_shapes.named_shapes(model, 224))
    assert sum(x.count for x in params.values()) == count(shapes)
    written = rules.exported(table, params)
    assert {name: x.shape for name, x in written.items()} == shapes
    with pytest.raises(tensors.SourceError, match='nothing here takes it'):
        more = source | unread({'blocks.0.attn.bias': (3,)})
        rules.imported(table, more, param_shapes.named_shapes(model, 224))


RESNETS = {
    18: ((2, 2, 2, 2), False, 11_689_512 - 513_000),
    34: ((3, 4, 6, 3), False, 21_797_672 - 513_000),
    50: ((3, 4, 6, 3), True, 25_557_032 - 2_049_000),
}


@pytest.mark.parametrize('size', RESNETS)
@pytest.mark.parametrize('prefix', ['module.convnet.', ''])
def test_r3m_has_a_place_for_every_tensor(size, prefix):
    stages, bottleneck, published = RESNETS[size]
    shapes = resnet_shapes(stages, 64, bottleneck, prefix)
    other = {'module.lang_rew.pred.0.weight': (8, 8)} if prefix else {'fc.weight': (1000, 512)}
    source = unread(shapes | other)
    form = formats.FORMATS['r3m']
    model = form.model({}, source)
    assert model['vision'] == dict(stages=stages, width=64, bottleneck=bottleneck)
    table = form.rules(model, source)
    params = rules.imported(table, source, param_shapes.named_shapes(model, None))
    running = {name for name in params if 'running' in name}
    assert sum(x.count for name, x in params.items() if name not in running) == published
    written = rules.exported(table, params)
    kept = {name: shape for name, shape in shapes.items() if 'num_batches' not in name}
    assert {name: x.shape for name, x in written.items()} == kept


def write(folder, shapes, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {name: rng.uniform(0.1, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    named = {name: tensors.of_array(name, array) for name, array in arrays.items()}
    tensors.write_safetensors(folder, named)
    return arrays


def test_r3ms_file_is_converted(tmp_path):
    shapes = resnet_shapes((1, 1, 1, 1), 8, True)
    arrays = write(tmp_path / 'theirs', shapes)
    total = convert.import_(tmp_path / 'theirs', 'r3m', tmp_path / 'ours', None)
    assert total == count({n: s for n, s in shapes.items() if 'num_batches' not in n})
    ours = tensors.open_tensors(tmp_path / 'ours')
    kernel = arrays['module.convnet.layer2.0.conv2.weight']
    stored = ours['tower/stage_1_block_0/convolution_1/kernel'].read()
    np.testing.assert_array_equal(stored, kernel.transpose(2, 3, 1, 0))
    point = arrays['module.convnet.layer2.0.downsample.0.weight'][:, :, 0, 0]
    stored = ours['tower/stage_1_block_0/shortcut/product/kernel'].read()
    np.testing.assert_array_equal(stored, point.T)


class Tower(nn.Module):
    kind: str
    config: flax.core.FrozenDict

    def setup(self):
        fields = dict(self.config['vision'], dtype=jnp.float32)
        if self.kind == 'vit':
            self.tower = vit.ViT(vit.ViTConfig(**fields))
        else:
            self.tower = resnet.ResNet(resnet.ResNetConfig(**fields))

    def __call__(self, images):
        return self.tower(images)


MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def ours_of(kind, opened, pictures):
    model = Tower(kind, flax.core.freeze(opened.model))
    shapes = parity.shapes_of(model, jax.ShapeDtypeStruct(pictures.shape, 'uint8'))
    params = rules.imported(opened.rules, opened.tensors, shapes)
    return jax.jit(model.apply)(parity.variables(parity.read(params)), pictures)


def timm_names(state, width):
    """A state of transformers' ViTMAE under the names of facebookresearch/mae."""
    take = lambda name: state[f'embeddings.{name}'].numpy()
    named = {
        'cls_token': take('cls_token'),
        'pos_embed': take('position_embeddings'),
        'patch_embed.proj.weight': take('patch_embeddings.projection.weight'),
        'patch_embed.proj.bias': take('patch_embeddings.projection.bias'),
    }
    depth = len({name.split('.')[1] for name in state if name.startswith('layers.')})
    for part in ('weight', 'bias'):
        named[f'norm.{part}'] = state[f'layernorm.{part}'].numpy()
        for i in range(depth):
            theirs = lambda name: state[f'layers.{i}.{name}.{part}'].numpy()
            qkv = [theirs(f'attention.{name}_proj') for name in 'qkv']
            named |= {
                f'blocks.{i}.attn.qkv.{part}': np.concatenate(qkv),
                f'blocks.{i}.attn.proj.{part}': theirs('attention.o_proj'),
                f'blocks.{i}.mlp.fc1.{part}': theirs('mlp.fc1'),
                f'blocks.{i}.mlp.fc2.{part}': theirs('mlp.fc2'),
                f'blocks.{i}.norm1.{part}': theirs('layernorm_before'),
                f'blocks.{i}.norm2.{part}': theirs('layernorm_after'),
            }
    assert named['cls_token'].shape[-1] == width
    return named


def test_vc1s_tokens_are_those_of_transformers_masked_autoencoder(tmp_path):
    torch = pytest.importorskip('torch', reason="parity needs pip install 'rt2_jax[parity]'")
    transformers = pytest.importorskip('transformers')
    config = transformers.ViTMAEConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96,
        image_size=48, patch_size=16, layer_norm_eps=1e-6, mask_ratio=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.ViTMAEModel(config).eval()
    for parameter in theirs.parameters():  # biases and norms begin as nothing
        torch.nn.init.normal_(parameter, std=0.2)
    named = timm_names(theirs.state_dict(), 128)
    arrays = {name: tensors.of_array(name, array) for name, array in named.items()}
    tensors.write_safetensors(tmp_path, arrays)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    pixels = torch.tensor((pictures / 255 - MEAN) / DEVIATION, dtype=torch.float32)
    with torch.no_grad():
        order = torch.arange(9.0).expand(2, 9)  # none is hidden, and none changes its place
        expected = theirs(pixels.permute(0, 3, 1, 2), noise=order).last_hidden_state.numpy()
    tokens = ours_of('vit', formats.open_source(tmp_path, 'vc1'), pictures)
    assert expected.std() > 0.1
    np.testing.assert_allclose(tokens, expected[:, 1:], atol=2e-4)


def test_resnet_is_torchvisions(tmp_path):
    reason = (
        'needs torchvision, which is no dependency: in an environment of its own, pip install torch '
        'torchvision, then this file again'
    )
    torchvision = pytest.importorskip('torchvision', reason=reason)
    torch = pytest.importorskip('torch')
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(weights=None).eval()
    for name, x in [*theirs.named_parameters(), *theirs.named_buffers()]:
        if 'bn' in name or 'downsample.1' in name:
            if x.dtype == torch.float32:
                torch.nn.init.uniform_(x, 0.5, 1.5)
    state = {f'module.convnet.{n}': x.numpy() for n, x in theirs.state_dict().items()}
    named = {name: tensors.of_array(name, x) for name, x in state.items() if x.ndim}
    tensors.write_safetensors(tmp_path, named)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 96, 64, 3), np.uint8)
    pixels = torch.tensor((pictures / 255 - MEAN) / DEVIATION, dtype=torch.float32)
    theirs.fc = torch.nn.Identity()
    theirs.avgpool = torch.nn.Identity()
    with torch.no_grad():
        expected = theirs(pixels.permute(0, 3, 1, 2)).numpy()
    features = ours_of('resnet', formats.open_source(tmp_path, 'r3m'), pictures)
    ours = np.asarray(features).transpose(0, 3, 1, 2).reshape(2, -1)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
