"""PaliGemma 1 and 2 as Hugging Face safetensors (`PaliGemmaForConditionalGeneration`).

Layout: transformers' modeling_paligemma.py, modeling_gemma.py and modeling_gemma2.py. The word table is
the head too, of which some files keep a copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rt2_jax.models.gemma import pattern
from rt2_jax.weights import gemma, siglip
from rt2_jax.weights.config_fields import Settings
from rt2_jax.weights.rules import PRODUCT, Rule

MODEL_TYPES = ('paligemma',)
# Names in transformers 5 -> those in the files that version 4 and its own `save_pretrained` write.
RENAMED = {
    'model.language_model.': 'language_model.model.',
    'model.vision_tower.': 'vision_tower.',
    'model.multi_modal_projector.': 'multi_modal_projector.',
    'lm_head.': 'language_model.lm_head.',
}
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
        Rule(
            'embedding/embedding',
            f'{_TEXT}.embed_tokens.weight',
            copies=('language_model.lm_head.weight',),
        ),
        *gemma.layers('layers', f'{_TEXT}.layers', _NORMS[config['text'].get('block', 'gemma')]),
        Rule('norm/scale', f'{_TEXT}.norm.weight'),
    )


# Duplicates of the parts' fields, or fields of their processor.
_IGNORED = (
    'vocab_size', 'hidden_size', 'projection_dim', 'image_token_index', 'num_image_tokens',
    'bos_token_id', 'image_token_id', 'is_encoder_decoder', 'is_decoder',
)  # fmt: skip
# PaliGemma sets the direction of attention: both ways in the prefix.
_IGNORED_OF_TEXT = (
    'max_position_embeddings', 'num_image_tokens', 'use_bidirectional_attention',
    'is_encoder_decoder', 'is_decoder',
)  # fmt: skip


def model(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Our `config.model`, from their config.json.

    Raises:
        SourceError: a model that is not supported, or a language model that is neither Gemma nor
            Gemma 2.
    """
    with Settings(theirs, _IGNORED) as settings:
        settings.must('model_type', *MODEL_TYPES)
        settings.must('tie_word_embeddings', True)
        settings.must('pad_token_id', 0, None)
        vision = siglip.tower(settings.part('vision_config', siglip.IGNORED))
        with settings.part('text_config', _IGNORED_OF_TEXT) as text:
            return _text(text) | dict(vision=vision)


def _text(text: Settings) -> dict[str, Any]:
    text.must('model_type', *_NORMS)
    kind = text.take('model_type', 'gemma')
    gemma.check_common(text)
    head_dim = text.take('head_dim', 256)
    attention = dict(
        heads=text.take('num_attention_heads'),
        kv_heads=text.take('num_key_value_heads', 1),
        head_dim=head_dim,
        scale=head_dim**-0.5,
    )
    part = dict(
        width=text.take('hidden_size'),
        depth=text.take('num_hidden_layers'),
        mlp=text.take('intermediate_size'),
        block=kind,
        attention=attention,
    )
    model = dict(name='decoder_only', vocab=text.take('vocab_size'), text=part)
    if (base := _base(text)) != 10_000:
        part['base'] = base
    if (bos := text.take('bos_token_id', None)) not in (None, 2):
        model['bos'] = bos
    if kind == 'gemma2':
        attention['scale'] = text.take('query_pre_attn_scalar', 256) ** -0.5
        attention['cap'] = text.take('attn_logit_softcapping', 50.0) or 0.0
        part |= dict(every=2, window=text.take('sliding_window', 4096))
        model['cap'] = text.take('final_logit_softcapping', 30.0) or 0.0
        names = [gemma.KINDS[kind] for kind in pattern(part['depth'], part['every'])]
        text.must('layer_types', names, None)
    return model


def _base(text: Settings) -> float:
    """Base of the rotary rates, which older files have in a separate field."""
    old = text.take('rope_theta', 10_000.0)
    rope = text.take('rope_parameters', None)
    text.must('rope_scaling', None)
    if rope is None:
        return old
    with Settings(rope, name='text_config.rope_parameters') as settings:
        settings.must('rope_type', 'default')
        return settings.take('rope_theta', 10_000.0)


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
        rope_parameters=dict(rope_type='default', rope_theta=text.get('base', 10_000.0)),
        bos_token_id=model.get('bos', 2),
    )
    if kind == 'gemma2':
        part |= dict(
            query_pre_attn_scalar=round(attention['scale'] ** -2),
            attn_logit_softcapping=attention['cap'] or None,
            final_logit_softcapping=model['cap'] or None,
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
