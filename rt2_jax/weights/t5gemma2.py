"""T5Gemma 2 as Hugging Face safetensors (`T5Gemma2ForConditionalGeneration`).

Layout: transformers' modeling_t5gemma2.py. One word table for encoder, decoder and head, of which some
files keep copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rt2_jax.models.gemma import pattern
from rt2_jax.weights import gemma, siglip
from rt2_jax.weights.config_fields import Settings
from rt2_jax.weights.rules import Rule

MODEL_TYPES = ('t5gemma2',)
# Names in memory of transformers 5 -> those in the files that its `save_pretrained` writes.
RENAMED = {'model.encoder.text_model.': 'model.encoder.'}
_ENCODER, _DECODER = 'model.encoder', 'model.decoder'
_KINDS = gemma.KINDS
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
        Rule(
            'embedding/words/embedding',
            f'{_ENCODER}.embed_tokens.weight',
            copies=(f'{_DECODER}.embed_tokens.weight', 'lm_head.out_proj.weight'),
        ),
        Rule(
            'embedding/vector',
            f'{_ENCODER}.embed_tokens.eoi_embedding',
            copies=(f'{_DECODER}.embed_tokens.eoi_embedding',),
        ),
        *gemma.layers('text_encoder/layers', f'{_ENCODER}.layers', _NORMS, qk_norm=True),
        *gemma.layers('text_decoder/layers', f'{_DECODER}.layers', _NORMS, qk_norm=True),
        Rule('text_encoder/norm/scale', f'{_ENCODER}.norm.weight'),
        Rule('text_decoder/norm/scale', f'{_DECODER}.norm.weight'),
    )


# Duplicates of the parts' fields, or fields of their processor.
_IGNORED = ('image_token_index', 'eoi_token_index', 'bos_token_id', 'vocab_size', 'is_decoder')
_IGNORED_OF_ENCODER = ('image_token_index', 'vocab_size', 'is_encoder_decoder', 'is_decoder')
_IGNORED_OF_TEXT = ('max_position_embeddings', 'bos_token_id', 'is_encoder_decoder', 'is_decoder')


def model(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Our `config.model`, from their config.json.

    Raises:
        SourceError: a model that is not supported.
    """
    with Settings(theirs, _IGNORED) as settings:
        settings.must('model_type', *MODEL_TYPES)
        settings.must('tie_word_embeddings', True)
        settings.must('is_encoder_decoder', True)
        settings.must('pad_token_id', 0, None)
        with settings.part('decoder', _IGNORED_OF_TEXT) as decoder:
            model = dict(
                vocab=decoder.take('vocab_size'),
                start=decoder.take('bos_token_id', 2),
                cap=decoder.take('final_logit_softcapping', None) or 0.0,
                decoder=_part(decoder),
            )
        with settings.part('encoder', _IGNORED_OF_ENCODER) as encoder:
            encoder.must('model_type', 't5gemma2_encoder')
            encoder.must('tie_word_embeddings', True)
            begin, end = encoder.take('boi_token_index'), encoder.take('eoi_token_index')
            # An encoder has no logits to cap.
            with encoder.part(
                'text_config', (*_IGNORED_OF_TEXT, 'final_logit_softcapping')
            ) as text:
                text.must('vocab_size', model['vocab'])
                stack = _part(text)
            return model | dict(
                name='t5gemma2',
                image_tokens=encoder.take('mm_tokens_per_image'),
                before_image=(model['start'], 108, begin),
                after_image=(end, 108),
                end_of_image=end,
                vision=siglip.tower(encoder.part('vision_config', siglip.IGNORED)),
                encoder=stack,
            )


def _part(settings: Settings) -> dict[str, Any]:
    """A stack's part of our `config.model`."""
    settings.must('model_type', 't5gemma2_text', 't5gemma2_decoder')
    gemma.check_common(settings)
    settings.must('rope_scaling', None)
    depth, kinds = settings.take('num_hidden_layers'), settings.take('layer_types')
    every = kinds.index(_KINDS[1]) + 1 if _KINDS[1] in kinds else depth + 1
    settings.must('layer_types', [_KINDS[kind] for kind in pattern(depth, every)])
    rotary = [_rotary(settings.take('rope_parameters'), kind) for kind in _KINDS]
    return dict(
        width=settings.take('hidden_size'),
        depth=depth,
        mlp=settings.take('intermediate_size'),
        attention=dict(
            heads=settings.take('num_attention_heads'),
            kv_heads=settings.take('num_key_value_heads'),
            head_dim=settings.take('head_dim'),
            scale=settings.take('query_pre_attn_scalar') ** -0.5,
            qk_norm=True,
            cap=settings.take('attn_logit_softcapping', None) or 0.0,
        ),
        every=every,
        window=settings.take('sliding_window'),
        bases=tuple(base for base, _ in rotary),
        stretches=tuple(stretch for _, stretch in rotary),
    )


def _rotary(rope: Mapping[str, Any], kind: str) -> tuple[float, float]:
    """Base and stretch of the rotary rates of a kind of layers."""
    with Settings(rope[kind], name=f'rope_parameters.{kind}') as settings:
        settings.must('rope_type', 'default', 'linear')
        linear = settings.take('rope_type', 'default') == 'linear'
        stretch = settings.take('factor', 1.0)
        return settings.take('rope_theta'), stretch if linear else 1.0


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
