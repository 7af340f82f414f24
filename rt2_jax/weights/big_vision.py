"""ViT and SigLIP towers as big_vision's `.npz` (`file.npz:img` of a whole SigLIP).

Layouts: github.com/google-research/big_vision, models/vit.py: one `encoderblock_{i}` a layer, or with
`scan=True` one `encoderblock` with a leading layer axis. The older one is that of
github.com/google-research/vision_transformer, in which the weights of "How to train your ViT?" (arXiv
2106.10270) are published: its class token has a position, before those of the patches. Pooling heads
are left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import re
from typing import Any

from rt2_jax.weights.rules import LAYER, Rule
from rt2_jax.weights.tensors import Tensor

LAYOUTS = 'layers', 'scanned', 'older'
_BLOCK = 'Transformer/encoderblock'
_OLD_POSITIONS = 'Transformer/posembed_input/pos_embedding'
_PARTS = {
    'attention_norm/norm': 'LayerNorm_0',
    'mlp_norm/norm': 'LayerNorm_1',
    'attention': 'MultiHeadDotProductAttention_0',
    'mlp/wi': 'MlpBlock_0/Dense_0',
    'mlp/wo': 'MlpBlock_0/Dense_1',
}
# Numbered across all kinds of layers.
_OLDER_PARTS = {
    'attention_norm/norm': 'LayerNorm_0',
    'attention': 'MultiHeadDotProductAttention_1',
    'mlp_norm/norm': 'LayerNorm_2',
    'mlp/wi': 'MlpBlock_3/Dense_0',
    'mlp/wo': 'MlpBlock_3/Dense_1',
}


def rules(config: Mapping[str, Any], layout: str = 'layers') -> tuple[Rule, ...]:
    """The tower's table; `layout` is one of `LAYOUTS`."""
    return (
        Rule(
            'tower/stem/embedding/kernel',
            'embedding/kernel',
            'rows columns channels width -> (rows columns channels) width',
            (('rows', config['vision']['patch']), ('channels', 3)),
        ),
        Rule('tower/stem/embedding/bias', 'embedding/bias'),
        *_positions(config['vision'].get('class_token', 'none'), layout),
        *_blocks(layout),
        Rule('tower/norm/norm/scale', 'Transformer/encoder_norm/scale'),
        Rule('tower/norm/norm/bias', 'Transformer/encoder_norm/bias'),
        *(Rule('', f'{part}/*') for part in ('MAPHead_0', 'head', 'pre_logits')),
    )


def _positions(class_token: str, layout: str) -> Iterator[Rule]:
    one = '1 tokens width -> tokens width'
    positions = _OLD_POSITIONS if layout == 'older' else 'pos_embedding'
    if class_token != 'none':
        yield Rule('tower/class_token', 'cls', one)
    if class_token == 'placed':
        yield Rule('tower/class_position', positions, one, span=(1, 0, 1))
        yield Rule('tower/positions', positions, one, span=(1, 1, None), resizes=True)
    else:
        yield Rule('tower/positions', positions, one, resizes=True)


def _blocks(layout: str) -> Iterator[Rule]:
    block = _BLOCK if layout == 'scanned' else f'{_BLOCK}_{LAYER}'
    for our, their in (_OLDER_PARTS if layout == 'older' else _PARTS).items():
        names = ('query', 'key', 'value', 'out') if our == 'attention' else ('',)
        kinds = ('scale', 'bias') if our.endswith('norm') else ('kernel', 'bias')
        for name in names:
            for kind in kinds:
                path = f'{name}/{kind}' if name else kind
                yield Rule(f'tower/blocks/{our}/{path}', f'{block}/{their}/{path}')


def layout(source: Mapping[str, Tensor]) -> str:
    """Which of `LAYOUTS` a checkpoint has."""
    if any(name.startswith(f'{_BLOCK}/') for name in source):
        return 'scanned'
    return 'older' if _OLD_POSITIONS in source else 'layers'


def model(source: Mapping[str, Tensor]) -> dict[str, Any]:
    """Our `config.model` of the tower, from the tensors' shapes."""
    patch, _, _, width = source['embedding/kernel'].shape
    kind = layout(source)
    block = _BLOCK if kind == 'scanned' else f'{_BLOCK}_0'
    parts = _OLDER_PARTS if kind == 'older' else _PARTS
    heads = source[f'{block}/{parts["attention"]}/query/kernel'].shape[-2]
    mlp = source[f'{block}/{parts["mlp/wi"]}/kernel'].shape[-1]
    if kind == 'scanned':
        depth = source[f'{block}/LayerNorm_0/scale'].shape[0]
    else:
        numbers = map(re.compile(rf'{_BLOCK}_(\d+)/').match, source)
        depth = 1 + max(int(number[1]) for number in numbers if number)
    vision: dict[str, Any] = dict(width=width, depth=depth, heads=heads, mlp=mlp, patch=patch)
    if 'cls' in source:
        vision['class_token'] = 'placed' if kind == 'older' else 'plain'
    return dict(vision=vision)
