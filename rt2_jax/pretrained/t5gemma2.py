"""T5Gemma 2 as Hugging Face safetensors (`T5Gemma2ForConditionalGeneration`).

Layout: transformers' modeling_t5gemma2.py. One word table for encoder, decoder and head, of which some
files keep copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rt2_jax.models.gemma import pattern
from rt2_jax.pretrained import gemma, siglip
from rt2_jax.pretrained.rules import Rule

MODEL_TYPES = ('t5gemma2',)
_ENCODER, _DECODER = 'model.encoder', 'model.decoder'
_KINDS = 'sliding_attention', 'full_attention'  # by models.gemma's LOCAL and GLOBAL
_NORMS = {
    'attention_norm': 'pre_self_attn_layernorm',
    'attention_out_norm': 'post_self_attn_layernorm',
    'mlp_norm': 'pre_feedforward_layernorm',
    'mlp_out_norm': 'post_feedforward_layernorm',
}


def rules(
    config: Mapping[str, Any], tower: str = 'model.encoder.vision_tower.'
) -> tuple[Rule, ...]:
    """The table; `tower` is what the names of the tower begin with."""
    projector = 'model.encoder.multi_modal_projector'
    return (
        *siglip.rules(config, tower)[:-3],
        Rule('projection/norm/scale', f'{projector}.mm_soft_emb_norm.weight'),
        Rule('projection/linear/kernel', f'{projector}.mm_input_projection_weight'),
        Rule('embedding/words/embedding', f'{_ENCODER}.embed_tokens.weight'),
        Rule('embedding/vector', f'{_ENCODER}.embed_tokens.eoi_embedding'),
        Rule('', f'{_DECODER}.embed_tokens.*'),
        Rule('', 'lm_head.out_proj.weight'),
        *gemma.layers('text_encoder/layers', f'{_ENCODER}.layers', _NORMS, qk_norm=True),
        *gemma.layers('text_decoder/layers', f'{_DECODER}.layers', _NORMS, qk_norm=True),
        Rule('text_encoder/norm/scale', f'{_ENCODER}.norm.weight'),
        Rule('text_decoder/norm/scale', f'{_DECODER}.norm.weight'),
    )


def model(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Our `config.model`, from their config.json."""
    encoder, decoder = theirs['encoder'], theirs['decoder']
    return dict(
        name='t5gemma2',
        vocab=decoder['vocab_size'],
        image_tokens=encoder['mm_tokens_per_image'],
        before_image=(decoder['bos_token_id'], 108, encoder['boi_token_index']),
        after_image=(encoder['eoi_token_index'], 108),
        end_of_image=encoder['eoi_token_index'],
        start=decoder['bos_token_id'],
        cap=decoder.get('final_logit_softcapping') or 0.0,
        vision=siglip.model(encoder)['vision'],
        encoder=_part(encoder['text_config']),
        decoder=_part(decoder),
    )


def _part(theirs: Mapping[str, Any]) -> dict[str, Any]:
    kinds = theirs['layer_types']
    rope = theirs['rope_parameters']
    turns = [rope[kind] for kind in _KINDS]
    full = [i + 1 for i, kind in enumerate(kinds) if kind == 'full_attention']
    every = full[0] if full else len(kinds) + 1
    return dict(
        width=theirs['hidden_size'],
        depth=theirs['num_hidden_layers'],
        mlp=theirs['intermediate_size'],
        attention=dict(
            heads=theirs['num_attention_heads'],
            kv_heads=theirs['num_key_value_heads'],
            head_dim=theirs['head_dim'],
            scale=theirs['query_pre_attn_scalar'] ** -0.5,
            qk_norm=True,
            cap=theirs.get('attn_logit_softcapping') or 0.0,
        ),
        every=every,
        window=theirs['sliding_window'],
        bases=tuple(turn['rope_theta'] for turn in turns),
        stretches=tuple(turn.get('factor', 1.0) for turn in turns),
    )


def theirs(model: Mapping[str, Any]) -> dict[str, Any]:
    """Their config.json, from our `config.model`."""
    vision = siglip.theirs(model)
    return dict(
        model_type='t5gemma2',
        architectures=['T5Gemma2ForConditionalGeneration'],
        tie_word_embeddings=True,
        image_token_index=256_001,
        encoder=dict(
            model_type='t5gemma2_encoder',
            text_config=_their_part(model, 'encoder') | dict(model_type='t5gemma2_text'),
            vision_config=vision,
            mm_tokens_per_image=model['image_tokens'],
            boi_token_index=model['before_image'][-1],
            eoi_token_index=model['end_of_image'],
        ),
        decoder=_their_part(model, 'decoder') | dict(model_type='t5gemma2_decoder'),
    )


def _their_part(model: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = model[name]
    attention = part['attention']
    rope = [
        dict(rope_type='linear', rope_theta=base, factor=stretch)
        if stretch != 1
        else dict(rope_type='default', rope_theta=base)
        for base, stretch in zip(part['bases'], part['stretches'])
    ]
    kinds = pattern(part['depth'], part['every'])
    return dict(
        vocab_size=model['vocab'],
        hidden_size=part['width'],
        intermediate_size=part['mlp'],
        num_hidden_layers=part['depth'],
        num_attention_heads=attention['heads'],
        num_key_value_heads=attention['kv_heads'],
        head_dim=attention['head_dim'],
        query_pre_attn_scalar=round(attention['scale'] ** -2),
        attn_logit_softcapping=attention.get('cap') or None,
        final_logit_softcapping=(model.get('cap') or None) if name == 'decoder' else None,
        sliding_window=part['window'],
        layer_types=[_KINDS[kind] for kind in kinds],
        rope_parameters=dict(zip(_KINDS, rope)),
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=model['start'],
    )
