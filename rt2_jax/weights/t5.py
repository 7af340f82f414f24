"""T5 v1.1, Flan-T5, mT5 and UL2 as Hugging Face safetensors (`T5ForConditionalGeneration`).

Layout: transformers' modeling_t5.py. Products are kept as [outputs, inputs]; the relative position
table of a stack is in its first block; `shared` is the word table, of which some files keep copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rt2_jax.weights.config_fields import Settings
from rt2_jax.weights.rules import HEADS_IN, HEADS_OUT, PRODUCT, Rule
from rt2_jax.weights.tensors import SourceError, Tensor

MODEL_TYPES = ('t5', 'mt5')
_ACTIVATIONS = {'gated-gelu': 'gelu', 'gated-silu': 'silu'}


def _attention(ours: str, theirs: str) -> Iterator[Rule]:
    for our, their in (('query', 'q'), ('key', 'k'), ('value', 'v')):
        yield Rule(f'{ours}/{our}/kernel', f'{theirs}.{their}.weight', HEADS_OUT)
    yield Rule(f'{ours}/out/kernel', f'{theirs}.o.weight', HEADS_IN)


def _hidden(ours: str, theirs: str) -> Iterator[Rule]:
    for product in ('wi_0', 'wi_1', 'wo'):
        yield Rule(f'{ours}/{product}/kernel', f'{theirs}.{product}.weight', PRODUCT)


def _stack(ours: str, theirs: str, parts: Mapping[str, tuple[str, str]]) -> Iterator[Rule]:
    """A stack's rules; `parts` are a block's layers in order: ours -> (our norm, theirs)."""
    for number, (part, (norm, their)) in enumerate(parts.items()):
        layer = f'{theirs}.block.{{i}}.layer.{number}'
        rules = _hidden if their == 'DenseReluDense' else _attention
        yield from rules(f'{ours}/layers/{part}', f'{layer}.{their}')
        yield Rule(f'{ours}/layers/{norm}/scale', f'{layer}.layer_norm.weight')
    first = f'{theirs}.block.0.layer.0.SelfAttention'
    yield Rule(f'{ours}/relative_bias/table', f'{first}.relative_attention_bias.weight')
    yield Rule(f'{ours}/norm/scale', f'{theirs}.final_layer_norm.weight')


_ENCODER = {'attention': ('attention_norm', 'SelfAttention'), 'mlp': ('mlp_norm', 'DenseReluDense')}
_DECODER = {
    'self_attention': ('self_norm', 'SelfAttention'),
    'cross_attention': ('cross_norm', 'EncDecAttention'),
    'mlp_block': ('mlp_norm', 'DenseReluDense'),
}
_COPIES = ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')
RULES = (
    Rule('embedding/embedding', 'shared.weight', copies=_COPIES),
    *_stack('text_encoder', 'encoder', _ENCODER),
    *_stack('text_decoder', 'decoder', _DECODER),
    Rule(
        'head/kernel', 'lm_head.weight', 'vocab width -> width vocab',
        instead=('shared.weight', *_COPIES),
    ),
)  # fmt: skip


# Derived from `feed_forward_proj` on loading, or of v1.0's tokenizers.
_IGNORED = ('dense_act_fn', 'is_gated_act', 'n_positions', 'bos_token_id')


def model(theirs: Mapping[str, Any], source: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """Our `config.model` of the text parts, from their config.json.

    Args:
        theirs: the config.json.
        source: the checkpoint's tensors, by name; None for those of a whole model.

    Raises:
        SourceError: a model that is not supported.
    """
    with Settings(theirs, _IGNORED) as settings:
        settings.must('model_type', *MODEL_TYPES)
        projection = settings.take('feed_forward_proj', 'relu')
        if projection not in _ACTIVATIONS:
            raise SourceError(
                f'feed_forward_proj is {projection!r}; the gated hidden layers of T5 v1.1 and later '
                f'are known ({", ".join(_ACTIVATIONS)}), T5 v1.0 is not'
            )
        # A field of newer files; in older ones an untied head means unscaled states.
        tied = settings.take('tie_word_embeddings', True)
        if settings.take('scale_decoder_outputs', tied):
            raise SourceError(
                'scale_decoder_outputs is true (or tie_word_embeddings, in files without it), as in '
                'T5 v1.0, whose output is scaled; v1.1 is known'
            )
        if not tied and source is not None and 'lm_head.weight' not in source:
            raise SourceError('tie_word_embeddings is false, and there is no lm_head.weight')
        settings.must('layer_norm_epsilon', 1e-6)
        settings.must('relative_attention_num_buckets', 32)
        settings.must('relative_attention_max_distance', 128)
        settings.must('is_encoder_decoder', True)
        settings.must('is_decoder', False)
        settings.must('pad_token_id', 0)
        settings.must('decoder_start_token_id', 0, None)
        part = dict(
            width=settings.take('d_model'),
            heads=settings.take('num_heads'),
            head_dim=settings.take('d_kv'),
            mlp=settings.take('d_ff'),
            activation=_ACTIVATIONS[projection],
        )
        depth = settings.take('num_layers')
        return dict(
            vocab=settings.take('vocab_size'),
            encoder=part | dict(depth=depth),
            decoder=part | dict(depth=settings.take('num_decoder_layers', None) or depth),
        )


def theirs(model: Mapping[str, Any]) -> dict[str, Any]:
    """Their config.json, from our `config.model`."""
    encoder, decoder = model['encoder'], model['decoder']
    activation = encoder.get('activation', 'gelu')
    return dict(
        model_type='t5',
        architectures=['T5ForConditionalGeneration'],
        vocab_size=model['vocab'],
        d_model=encoder['width'],
        d_kv=encoder['head_dim'],
        d_ff=encoder['mlp'],
        num_heads=encoder['heads'],
        num_layers=encoder['depth'],
        num_decoder_layers=decoder['depth'],
        feed_forward_proj=f'gated-{activation}',
        tie_word_embeddings=False,
        scale_decoder_outputs=False,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
