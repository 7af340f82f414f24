"""ViT and SigLIP towers as big_vision's `.npz` (`file.npz:img` of a whole SigLIP).

Layout: github.com/google-research/big_vision, models/vit.py; with `scan=True` there is one
`encoderblock` with a leading layer axis, else one a layer. Pooling heads are left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import re
from typing import Any

from rt2_jax.pretrained.rules import LAYER, Rule
from rt2_jax.pretrained.tensors import Tensor

_PARTS = {
    'attention_norm/norm': 'LayerNorm_0',
    'mlp_norm/norm': 'LayerNorm_1',
    'attention': 'MultiHeadDotProductAttention_0',
    'mlp/wi': 'MlpBlock_0/Dense_0',
    'mlp/wo': 'MlpBlock_0/Dense_1',
}


def rules(config: Mapping[str, Any], scanned: bool = False) -> tuple[Rule, ...]:
    """The tower's table; `scanned` where the layers are in one."""
    block = 'Transformer/encoderblock' + ('' if scanned else f'_{LAYER}')
    return (
        Rule(
            'tower/stem/embedding/kernel',
            'embedding/kernel',
            'rows columns channels width -> (rows columns channels) width',
            (('rows', config['vision']['patch']), ('channels', 3)),
        ),
        Rule('tower/stem/embedding/bias', 'embedding/bias'),
        Rule('tower/positions', 'pos_embedding', '1 tokens width -> tokens width', resizes=True),
        *_block('tower/blocks', block),
        Rule('tower/norm/norm/scale', 'Transformer/encoder_norm/scale'),
        Rule('tower/norm/norm/bias', 'Transformer/encoder_norm/bias'),
        *(Rule('', f'{part}/*') for part in ('MAPHead_0', 'head', 'pre_logits')),
    )


def _block(ours: str, theirs: str) -> Iterator[Rule]:
    for our, their in _PARTS.items():
        names = ('query', 'key', 'value', 'out') if our == 'attention' else ('',)
        kinds = ('scale', 'bias') if our.endswith('norm') else ('kernel', 'bias')
        for name in names:
            for kind in kinds:
                path = f'{name}/{kind}' if name else kind
                yield Rule(f'{ours}/{our}/{path}', f'{theirs}/{their}/{path}')


def scanned(source: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint has its layers in one."""
    return any(name.startswith('Transformer/encoderblock/') for name in source)


def model(source: Mapping[str, Tensor]) -> dict[str, Any]:
    """Our `config.model` of the tower, from the tensors' shapes."""
    patch, _, _, width = source['embedding/kernel'].shape
    name = 'Transformer/encoderblock' + ('' if scanned(source) else '_0')
    heads = source[f'{name}/MultiHeadDotProductAttention_0/query/kernel'].shape[-2]
    mlp = source[f'{name}/MlpBlock_0/Dense_0/kernel'].shape[-1]
    depth = (
        source[f'{name}/LayerNorm_0/scale'].shape[0]
        if scanned(source)
        else 1
        + max(int(n[1]) for n in map(re.compile(r'.*encoderblock_(\d+)/').match, source) if n)
    )
    return dict(vision=dict(width=width, depth=depth, heads=heads, mlp=mlp, patch=patch))
