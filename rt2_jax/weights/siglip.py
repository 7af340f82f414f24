"""SigLIP and SigLIP 2 (fixed resolution) as Hugging Face safetensors: their vision towers.

Layout: transformers' modeling_siglip.py. Of a whole SigLIP, the text side, the pooling head and the
temperature are left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rt2_jax.weights.config_fields import Settings
from rt2_jax.weights.rules import HEADS_IN, HEADS_OUT, PRODUCT, Rule
from rt2_jax.weights.tensors import SourceError

MODEL_TYPES = ('siglip', 'siglip_vision_model')
# Names of a tower within a larger model of transformers 5 -> those of a whole SigLIP.
RENAMED = {'model.vision_model.': 'vision_model.', 'model.vision_tower.': ''}
# Their activations -> ours, and back.
ACTIVATIONS = {
    'gelu': 'gelu_exact', 'gelu_pytorch_tanh': 'gelu', 'gelu_new': 'gelu', 'silu': 'silu',
}  # fmt: skip
ACTIVATION_NAMES = {'gelu_exact': 'gelu', 'gelu': 'gelu_pytorch_tanh', 'silu': 'silu'}


def rules(config: Mapping[str, Any], theirs: str = 'vision_model.') -> tuple[Rule, ...]:
    """The tower's table.

    Args:
        config: our `config.model`, of which `vision.patch` is needed.
        theirs: what their names begin with ('' in files of a tower alone, by recent transformers).
    """
    sizes = (('rows', config['vision']['patch']), ('channels', 3))
    layers, inside = 'tower/blocks', f'{theirs}encoder.layers.{{i}}'
    products = {'query': 'q_proj', 'key': 'k_proj', 'value': 'v_proj', 'out': 'out_proj'}
    products = {name: f'{inside}.self_attn.{their}' for name, their in products.items()}
    return (
        Rule(
            'tower/stem/embedding/kernel',
            f'{theirs}embeddings.patch_embedding.weight',
            'width channels rows columns -> (rows columns channels) width',
            sizes,
        ),
        Rule('tower/stem/embedding/bias', f'{theirs}embeddings.patch_embedding.bias'),
        Rule('tower/positions', f'{theirs}embeddings.position_embedding.weight', resizes=True),
        *attention(f'{layers}/attention', products),
        *norm(f'{layers}/attention_norm', f'{inside}.layer_norm1'),
        *norm(f'{layers}/mlp_norm', f'{inside}.layer_norm2'),
        *product(f'{layers}/mlp/wi', f'{inside}.mlp.fc1'),
        *product(f'{layers}/mlp/wo', f'{inside}.mlp.fc2'),
        *norm('tower/norm', f'{theirs}post_layernorm'),
        Rule('', f'{theirs}embeddings.position_ids'),
        Rule('', f'{theirs}head.*'),
        Rule('', 'text_model.*'),
        Rule('', 'logit_scale'),
        Rule('', 'logit_bias'),
    )


def attention(ours: str, theirs: Mapping[str, str]) -> Iterator[Rule]:
    """Rules of an attention's four products; `theirs` are their names by ours."""
    for name, their in theirs.items():
        kernel, bias = HEADS_OUT, '(heads head_dim) -> heads head_dim'
        if name == 'out':
            kernel, bias = HEADS_IN, ''
        yield Rule(f'{ours}/{name}/kernel', f'{their}.weight', kernel)
        yield Rule(f'{ours}/{name}/bias', f'{their}.bias', bias)


def norm(ours: str, theirs: str) -> Iterator[Rule]:
    """Rules of a norm with scale and bias."""
    yield Rule(f'{ours}/norm/scale', f'{theirs}.weight')
    yield Rule(f'{ours}/norm/bias', f'{theirs}.bias')


def product(ours: str, theirs: str) -> Iterator[Rule]:
    """Rules of a matrix product with a bias."""
    yield Rule(f'{ours}/kernel', f'{theirs}.weight', PRODUCT)
    yield Rule(f'{ours}/bias', f'{theirs}.bias')


# Fields of a whole SigLIP's text side and loss; of a tower, fields of what follows its tokens.
_IGNORED_OF_WHOLE = ('text_config', 'logit_scale_init_value')
IGNORED = (
    'image_size',  # from the positions
    'vision_use_head', 'projection_dim', 'projector_hidden_act', 'num_image_tokens',
    'num_positions', 'bos_token_id', 'pad_token_id', 'is_encoder_decoder', 'is_decoder',
)  # fmt: skip


def model(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Our `config.model` of the tower, from their config.json.

    Raises:
        SourceError: a tower that is not supported.
    """
    if 'vision_config' not in theirs:
        return dict(vision=tower(Settings(theirs, IGNORED)))
    with Settings(theirs, (*IGNORED, *_IGNORED_OF_WHOLE)) as settings:
        settings.must('model_type', *MODEL_TYPES)
        return dict(vision=tower(settings.part('vision_config', IGNORED)))


def tower(settings: Settings) -> dict[str, Any]:
    """Our `config.model.vision`, from their vision_config."""
    with settings:
        settings.must('model_type', 'siglip_vision_model', 'siglip')
        settings.must('num_channels', 3)
        vision = dict(
            width=settings.take('hidden_size', 768),
            depth=settings.take('num_hidden_layers', 12),
            heads=settings.take('num_attention_heads', 12),
            mlp=settings.take('intermediate_size', 3072),
            patch=side(settings, 'patch_size', 16),
        )
        activation = activation_of(settings, 'hidden_act', 'gelu_pytorch_tanh')
        epsilon = settings.take('layer_norm_eps', 1e-6)
        # Only what differs from the published SigLIPs.
        if activation != 'gelu':
            vision['activation'] = activation
        if epsilon != 1e-6:
            vision['epsilon'] = epsilon
        return vision


def activation_of(settings: Settings, name: str, default: str) -> str:
    """Our activation, from theirs."""
    settings.must(name, default, *ACTIVATIONS)
    return ACTIVATIONS[settings.take(name, default)]


def side(settings: Settings, name: str, default: int) -> int:
    """The side of a square, which newer files may give as a pair.

    Raises:
        SourceError: it is not a square.
    """
    value = settings.take(name, default)
    sides = {value} if isinstance(value, int) else set(value)
    if len(sides) > 1:
        raise SourceError(f'{name} is {value}; patches here are squares')
    return sides.pop()


def theirs(model: Mapping[str, Any], image_size: int = 224) -> dict[str, Any]:
    """Their config.json of a tower alone, from our `config.model`."""
    return dict(
        model_type='siglip_vision_model',
        architectures=['SiglipVisionModel'],
        **tower_fields(model, image_size),
        vision_use_head=False,
    )


def tower_fields(model: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """The fields that their config.json of any tower has, from our `config.model`."""
    vision = model['vision']
    return dict(
        hidden_size=vision['width'],
        num_hidden_layers=vision['depth'],
        num_attention_heads=vision['heads'],
        intermediate_size=vision['mlp'],
        patch_size=vision['patch'],
        image_size=model.get('image_size', image_size),
        hidden_act=ACTIVATION_NAMES[vision.get('activation', 'gelu')],
        layer_norm_eps=vision.get('epsilon', 1e-6),
    )
