"""Plain ViT as Hugging Face safetensors (`ViTModel`), as in google/vit-base-patch16-224-in21k.

Layout: transformers' modeling_vit.py. The class token's position lies before those of the patches.
Pooling and classifier are left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rt2_jax.weights import siglip
from rt2_jax.weights.config_fields import Settings
from rt2_jax.weights.rules import Rule

MODEL_TYPES = ('vit',)


def rules(config: Mapping[str, Any], theirs: str = '') -> tuple[Rule, ...]:
    """The tower's table; `theirs` is what the tower's names begin with."""
    sizes = (('rows', config['vision']['patch']), ('channels', 3))
    one, embeddings = '1 tokens width -> tokens width', f'{theirs}embeddings'
    patches, positions = f'{embeddings}.patch_embeddings.projection', 'position_embeddings'
    return (
        Rule(
            'tower/stem/embedding/kernel',
            f'{patches}.weight',
            'width channels rows columns -> (rows columns channels) width',
            sizes,
        ),
        Rule('tower/stem/embedding/bias', f'{patches}.bias'),
        Rule('tower/class_token', f'{embeddings}.cls_token', one),
        Rule('tower/class_position', f'{embeddings}.{positions}', one, span=(1, 0, 1)),
        Rule('tower/positions', f'{embeddings}.{positions}', one, span=(1, 1, None), resizes=True),
        *_layers(f'{theirs}encoder.layer.{{i}}'),
        *siglip.norm('tower/norm', f'{theirs}layernorm'),
        Rule('', f'{theirs}pooler.*'),
        Rule('', 'classifier.*'),
    )


def _layers(theirs: str) -> Iterator[Rule]:
    ours = 'tower/blocks'
    products = {name: f'{theirs}.attention.attention.{name}' for name in ('query', 'key', 'value')}
    products['out'] = f'{theirs}.attention.output.dense'
    yield from siglip.attention(f'{ours}/attention', products)
    yield from siglip.product(f'{ours}/mlp/wi', f'{theirs}.intermediate.dense')
    yield from siglip.product(f'{ours}/mlp/wo', f'{theirs}.output.dense')
    yield from siglip.norm(f'{ours}/attention_norm', f'{theirs}.layernorm_before')
    yield from siglip.norm(f'{ours}/mlp_norm', f'{theirs}.layernorm_after')


# From the positions; of pooling, of masked images and of stochastic depth.
_IGNORED = (
    'image_size', 'pooler_act', 'pooler_output_size', 'encoder_stride', 'drop_path_rate',
    'is_encoder_decoder', 'is_decoder',
)  # fmt: skip


def model(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Our `config.model` of the tower, from their config.json.

    Raises:
        SourceError: a tower that is not supported.
    """
    with Settings(theirs, _IGNORED) as settings:
        settings.must('model_type', *MODEL_TYPES)
        settings.must('num_channels', 3)
        settings.must('qkv_bias', True)
        return dict(
            vision=dict(
                width=settings.take('hidden_size'),
                depth=settings.take('num_hidden_layers'),
                heads=settings.take('num_attention_heads'),
                mlp=settings.take('intermediate_size'),
                patch=siglip.side(settings, 'patch_size', 16),
                class_token='placed',
                activation=siglip.activation_of(settings, 'hidden_act', 'gelu'),
                epsilon=settings.take('layer_norm_eps', 1e-12),
            )
        )


def theirs(model: Mapping[str, Any], image_size: int = 224) -> dict[str, Any]:
    """Their config.json, from our `config.model`."""
    return dict(
        model_type='vit', architectures=['ViTModel'], **siglip.tower_fields(model, image_size)
    )
