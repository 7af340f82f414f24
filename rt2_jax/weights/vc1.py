"""VC-1 (arXiv 2303.18240): towers by masked autoencoding, ViT-B/16 and ViT-L/16, in timm's names.

github.com/facebookresearch/eai-vc, vc_models: `vc1_vitb.pth` and `vc1_vitl.pth`, licence CC-BY-NC: not for
commercial use. They are pickles, which nothing here opens; in an environment with torch that trusts them:

    state = torch.load('vc1_vitl.pth', map_location='cpu')
    state = {name: x.contiguous() for name, x in state.get('model', state).items()}
    safetensors.torch.save_file(state, 'vc1_vitl.safetensors')

Other checkpoints of facebookresearch/mae have the same names. The decoder of the pretraining is left.
Pixels go in by ImageNet's mean and deviation (`vision.pixels`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rt2_jax.weights import siglip
from rt2_jax.weights.rules import HEADS_OUT, LAYER, Rule
from rt2_jax.weights.tensors import Tensor

_HEAD_DIM = 64  # of every published size
_BLOCK = f'blocks.{LAYER}'


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The tower's table for our `config.model`."""
    vision = config['vision']
    sizes = (('rows', vision['patch']), ('channels', 3))
    one = '1 tokens width -> tokens width'
    return (
        Rule(
            'tower/stem/embedding/kernel',
            'patch_embed.proj.weight',
            'width channels rows columns -> (rows columns channels) width',
            sizes,
        ),
        Rule('tower/stem/embedding/bias', 'patch_embed.proj.bias'),
        Rule('tower/class_token', 'cls_token', one),
        Rule('tower/class_position', 'pos_embed', one, span=(1, 0, 1)),
        Rule('tower/positions', 'pos_embed', one, span=(1, 1, None), resizes=True),
        *_attention(vision['width']),
        *siglip.norm('tower/blocks/attention_norm', f'{_BLOCK}.norm1'),
        *siglip.norm('tower/blocks/mlp_norm', f'{_BLOCK}.norm2'),
        *siglip.product('tower/blocks/mlp/wi', f'{_BLOCK}.mlp.fc1'),
        *siglip.product('tower/blocks/mlp/wo', f'{_BLOCK}.mlp.fc2'),
        *siglip.norm('tower/norm', 'norm'),
        *(Rule('', name) for name in ('mask_token', 'decoder_*', 'head.*', 'fc_norm.*')),
    )


def _attention(width: int) -> Iterator[Rule]:
    """Queries, keys and values lie one behind the other in one product."""
    ours, qkv = 'tower/blocks/attention', f'{_BLOCK}.attn.qkv'
    for number, name in enumerate(('query', 'key', 'value')):
        span = (0, number * width, (number + 1) * width)
        yield Rule(f'{ours}/{name}/kernel', f'{qkv}.weight', HEADS_OUT, span=span)
        yield Rule(
            f'{ours}/{name}/bias', f'{qkv}.bias', '(heads head_dim) -> heads head_dim', span=span
        )
    yield from siglip.attention(ours, {'out': f'{_BLOCK}.attn.proj'})


def model(source: Mapping[str, Tensor]) -> dict[str, Any]:
    """Our `config.model` of the tower, from the shapes of its tensors."""
    width = source['cls_token'].shape[-1]
    depth = len({name.split('.')[1] for name in source if name.startswith('blocks.')})
    return dict(
        vision=dict(
            width=width,
            depth=depth,
            heads=width // _HEAD_DIM,
            mlp=source['blocks.0.mlp.fc1.weight'].shape[0],
            patch=source['patch_embed.proj.weight'].shape[-1],
            class_token='placed',
            activation='gelu_exact',
            epsilon=1e-6,
            pixels='imagenet',
        )
    )
