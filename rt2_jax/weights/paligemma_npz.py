"""PaliGemma 1 and 2 as big_vision's `.npz`.

Layout: github.com/google-research/big_vision, models/proj/paligemma and models/ppp/gemma.py. All layers
are in one tensor each; keys and values, and gate and up, are two halves of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

from rt2_jax.weights import big_vision
from rt2_jax.weights.rules import Rule
from rt2_jax.weights.tensors import Tensor

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
    """The table; `fused` if queries, keys and values are one tensor (as many heads of each)."""
    tower = [rule for rule in big_vision.rules(config, 'scanned') if rule.ours]
    return (
        *(dataclasses.replace(rule, theirs=f'params/img/{rule.theirs}') for rule in tower),
        Rule('projection/kernel', 'params/img/head/kernel'),
        Rule('projection/bias', 'params/img/head/bias'),
        Rule('embedding/embedding', 'params/llm/embedder/input_embedding'),
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
    """Whether a checkpoint has queries, keys and values in one tensor."""
    return 'params/llm/layers/attn/qkv_einsum/w' in source


def model(source: Mapping[str, Tensor]) -> dict[str, Any]:
    """Our `config.model`, from the tensors' shapes."""
    image = {
        n.removeprefix('params/img/'): t for n, t in source.items() if n.startswith('params/img/')
    }
    their = 'params/llm/layers'
    vocab, width = source['params/llm/embedder/input_embedding'].shape
    if fused(source):
        depth, _, heads, _, head_dim = source[f'{their}/attn/qkv_einsum/w'].shape
        kv_heads = heads
    else:
        depth, heads, _, head_dim = source[f'{their}/attn/q_einsum/w'].shape
        kv_heads = source[f'{their}/attn/kv_einsum/w'].shape[2]
    attention = dict(heads=heads, kv_heads=kv_heads, head_dim=head_dim, scale=head_dim**-0.5)
    text = dict(
        width=width,
        depth=depth,
        mlp=source[f'{their}/mlp/linear'].shape[1],
        block='gemma2' if f'{their}/post_attention_norm/scale' in source else 'gemma',
        attention=attention,
    )
    model = dict(name='decoder_only', vocab=vocab, text=text, **big_vision.model(image))
    if text['block'] == 'gemma2':
        # Caps and window are those of all of Gemma 2 (arXiv 2408.00118, table 1); of 27B alone the
        # scale is of the width of the model over its heads (section 2).
        attention |= dict(cap=50.0, scale=(width / heads if width == 4608 else head_dim) ** -0.5)
        text |= dict(every=2, window=4096)
        model['cap'] = 30.0
    return model
