"""Layers of Gemma's kind as Hugging Face safetensors: what PaliGemma and T5Gemma 2 have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rt2_jax.weights.config_fields import Settings
from rt2_jax.weights.rules import HEADS_IN, HEADS_OUT, PRODUCT, Rule

KINDS = 'sliding_attention', 'full_attention'  # by models.gemma's LOCAL and GLOBAL


def check_common(settings: Settings) -> None:
    """Checks what is the same in all of Gemma's layers here.

    Raises:
        SourceError: a field has another value.
    """
    settings.must('hidden_activation', 'gelu_pytorch_tanh', None)
    settings.must('hidden_act', 'gelu_pytorch_tanh', None)
    settings.must('rms_norm_eps', 1e-6)
    settings.must('attention_bias', False)
    settings.must('tie_word_embeddings', True)
    settings.must('pad_token_id', 0, None)


def layers(
    ours: str, theirs: str, norms: Mapping[str, str], qk_norm: bool = False
) -> Iterator[Rule]:
    """Rules of a stack's layers.

    Args:
        ours: name of our stack's layers, 'text_encoder/layers'.
        theirs: of theirs, 'model.encoder.layers'.
        norms: our norms -> theirs.
        qk_norm: whether queries and keys are normed.
    """
    inside = f'{theirs}.{{i}}'
    for name in ('query', 'key', 'value'):
        their = f'{inside}.self_attn.{name[0]}_proj.weight'
        yield Rule(f'{ours}/mixing/{name}/kernel', their, HEADS_OUT)
    yield Rule(f'{ours}/mixing/out/kernel', f'{inside}.self_attn.o_proj.weight', HEADS_IN)
    for name in ('query', 'key') if qk_norm else ():
        yield Rule(f'{ours}/mixing/{name}_norm/scale', f'{inside}.self_attn.{name[0]}_norm.weight')
    for our, name in (('wi_0', 'gate'), ('wi_1', 'up'), ('wo', 'down')):
        yield Rule(f'{ours}/mlp_block/{our}/kernel', f'{inside}.mlp.{name}_proj.weight', PRODUCT)
    for our, name in norms.items():
        yield Rule(f'{ours}/{our}/scale', f'{inside}.{name}.weight')
