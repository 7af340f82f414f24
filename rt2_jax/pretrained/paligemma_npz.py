"""PaliGemma 1 and 2 as big_vision's `.npz`.

Layout: github.com/google-research/big_vision, models/proj/paligemma and models/ppp/gemma.py. All layers
are in one tensor each; keys and values, and gate and up, are two halves of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

from rt2_jax.pretrained import big_vision
from rt2_jax.pretrained.rules import Rule
from rt2_jax.pretrained.tensors import Tensor

_NORMS = {
    'gemma': {'attention_norm': 'pre_attention_norm', 'mlp_norm': 'pre_ffw_norm'},
    'gemma2': {
        'attention_norm': 'pre_attention_norm',
        'attention_out_norm': 'post_attention_norm',
        'mlp_norm': 'pre_ffw_norm',
        'mlp_out_norm': 'post_ffw_norm',
    },
}


def rules(config: Mapping[str, Any], fused: bool = False) -> tuple[Rule, ...]:
    """The table; `fused` where queries, keys and values are in one (as many heads of each)."""
    tower = big_vision.rules(config, scanned=True)
    tower = [rule for rule in tower if rule.ours]
    return (
        *(dataclasses.replace(rule, theirs=f'params/img/{rule.theirs}') for rule in tower),
        Rule('projection/kernel', 'params/img/head/kernel'),
        Rule('projection/bias', 'params/img/head/bias'),
        Rule('embedding/embedding', 'params/llm/embedder/input_embedding', grows=0),
        *_layers(config['text'].get('block', 'gemma'), fused),
        Rule('norm/scale', 'params/llm/final_norm/scale'),
    )


def _layers(block: str, fused: bool) -> Iterator[Rule]:
    their = 'params/llm/layers'
    heads = 'layers heads width head_dim -> layers width heads head_dim'
    if fused:
        for number, name in enumerate(('query', 'key', 'value')):
            yield Rule(
                f'layers/mixing/{name}/kernel',
                f'{their}/attn/qkv_einsum/w',
                heads,
                part=(1, number, 3),
            )
    else:
        yield Rule('layers/mixing/query/kernel', f'{their}/attn/q_einsum/w', heads)
        for number, name in enumerate(('key', 'value')):
            yield Rule(
                f'layers/mixing/{name}/kernel',
                f'{their}/attn/kv_einsum/w',
                heads,
                part=(1, number, 2),
            )
    yield Rule('layers/mixing/out/kernel', f'{their}/attn/attn_vec_einsum/w')
    for number, name in enumerate(('wi_0', 'wi_1')):
        yield Rule(
            f'layers/mlp_block/{name}/kernel', f'{their}/mlp/gating_einsum', part=(1, number, 2)
        )
    yield Rule('layers/mlp_block/wo/kernel', f'{their}/mlp/linear')
    for our, name in _NORMS[block].items():
        yield Rule(f'layers/{our}/scale', f'{their}/{name}/scale')


def fused(source: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint has queries, keys and values in one."""
    return 'params/llm/layers/attn/qkv_einsum/w' in source
