"""PaliGemma 1 and 2 as Hugging Face safetensors (`PaliGemmaForConditionalGeneration`).

Layout: transformers' modeling_paligemma.py, modeling_gemma.py and modeling_gemma2.py. The word table is
the head too, of which some files keep a copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rt2_jax.pretrained import gemma, siglip
from rt2_jax.pretrained.rules import PRODUCT, Rule

MODEL_TYPES = ('paligemma',)
_TEXT = 'language_model.model'
_NORMS = {
    'gemma': {'attention_norm': 'input_layernorm', 'mlp_norm': 'post_attention_layernorm'},
    'gemma2': {
        'attention_norm': 'input_layernorm',
        'attention_out_norm': 'post_attention_layernorm',
        'mlp_norm': 'pre_feedforward_layernorm',
        'mlp_out_norm': 'post_feedforward_layernorm',
    },
}


def rules(config: Mapping[str, Any], tower: str = 'vision_tower.') -> tuple[Rule, ...]:
    """The table; `tower` is what the names of the tower begin with."""
    return (
        *siglip.rules(config, tower)[:-3],
        Rule('projection/kernel', 'multi_modal_projector.linear.weight', PRODUCT),
        Rule('projection/bias', 'multi_modal_projector.linear.bias'),
        Rule('embedding/embedding', f'{_TEXT}.embed_tokens.weight'),
        Rule('', 'language_model.lm_head.weight'),
        *gemma.layers('layers', f'{_TEXT}.layers', _NORMS[config['text'].get('block', 'gemma')]),
        Rule('norm/scale', f'{_TEXT}.norm.weight'),
    )


def model(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Our `config.model`, from their config.json.

    Raises:
        ValueError: a language model that is neither Gemma nor Gemma 2.
    """
    text = theirs['text_config']
    kind = text.get('model_type', 'gemma')
    if kind not in _NORMS:
        raise ValueError(f'text_config.model_type is {kind!r}; known are {", ".join(_NORMS)}')
    head_dim = text.get('head_dim', 256)
    attention = dict(
        heads=text['num_attention_heads'],
        kv_heads=text.get('num_key_value_heads', 1),
        head_dim=head_dim,
        scale=head_dim**-0.5,
    )
    part = dict(
        width=text['hidden_size'],
        depth=text['num_hidden_layers'],
        mlp=text['intermediate_size'],
        block=kind,
        attention=attention,
    )
    found = dict(
        name='decoder_only',
        vocab=text['vocab_size'],
        vision=siglip.model(theirs)['vision'],
        text=part,
    )
    if kind == 'gemma2':
        attention['scale'] = text.get('query_pre_attn_scalar', 256) ** -0.5
        attention['cap'] = text.get('attn_logit_softcapping', 50.0)
        part |= dict(every=2, window=text.get('sliding_window', 4096))
        found['cap'] = text.get('final_logit_softcapping', 30.0)
    return found


def theirs(model: Mapping[str, Any]) -> dict[str, Any]:
    """Their config.json, from our `config.model`."""
    text = model['text']
    attention = text['attention']
    kind = text.get('block', 'gemma')
    part = dict(
        model_type=kind,
        vocab_size=model['vocab'],
        hidden_size=text['width'],
        intermediate_size=text['mlp'],
        num_hidden_layers=text['depth'],
        num_attention_heads=attention['heads'],
        num_key_value_heads=attention['kv_heads'],
        head_dim=attention['head_dim'],
        hidden_activation='gelu_pytorch_tanh',
    )
    if kind == 'gemma2':
        part |= dict(
            query_pre_attn_scalar=round(attention['scale'] ** -2),
            attn_logit_softcapping=attention['cap'],
            final_logit_softcapping=model['cap'],
            sliding_window=text['window'],
        )
    return dict(
        model_type='paligemma',
        architectures=['PaliGemmaForConditionalGeneration'],
        text_config=part,
        vision_config=siglip.theirs(model) | dict(projection_dim=text['width']),
        projection_dim=text['width'],
        # The first id behind the 256,000 words, 1,024 places and 128 segments.
        image_token_index=min(257_152, model['vocab']),
    )
