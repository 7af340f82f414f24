"""Builds the backbone that a config names.

Every backbone has the interface of `pali.PaLI`, so trainer, sampler and evaluator are one.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from rt2_jax.models import classifier, decoder_only, pali, t5gemma2
from rt2_jax.nearest import check

_DTYPES = ('float32', 'bfloat16', 'float16', 'float64')
_BACKBONES = {
    'pali': pali.PaLI,
    'decoder_only': decoder_only.DecoderOnly,
    't5gemma2': t5gemma2.T5Gemma2,
    'classifier': classifier.Classifier,
}


def build(config: Mapping, vocab: int, integers: Sequence[int] = ()) -> nn.Module:
    """Builds the model of a config's `model` part.

    Args:
      config: `name` of the backbone, `dtype`, and the attributes of its parts; `vocab`, if above 0,
        is V in place of the tokenizer's: public checkpoints pad theirs, and V must be divisible by
        the mesh axis that it is split over.
      vocab: number of tokens that the tokenizer has.
      integers: the token id of each integer 0, 1, ..., for a model with a number line.

    Raises:
      ValueError: an unknown backbone or part, or fewer rows than tokens.
    """
    config = dict(config.to_dict() if hasattr(config, 'to_dict') else config)
    name = config.pop('name')
    check('backbone', name, _BACKBONES)
    dtype = jnp.dtype(check('dtype', config.pop('dtype'), _DTYPES))
    rows = config.pop('vocab', 0) or vocab
    if rows < vocab:
        raise ValueError(f'config.model.vocab is {rows}; the tokenizer has {vocab} tokens')
    parts = {key: _frozen(value) for key, value in config.items()}
    valid = {field.name for field in dataclasses.fields(_BACKBONES[name])} - {'parent', 'name'}
    for key in parts:
        check(f'field of config.model of {name!r}:', key, valid)
    if parts.get('number_line'):
        if not len(integers):
            raise ValueError('config.model.number_line needs the token ids of the integers')
        parts['integers'] = tuple(int(token) for token in integers)
    return _BACKBONES[name](vocab=rows, dtype=dtype, **parts)


def _frozen(value):
    if isinstance(value, Mapping):
        return {key: _frozen(inner) for key, inner in value.items()}
    return tuple(value) if isinstance(value, list) else value
