"""FLOPs that a model's step needs, whatever a program computes again: the numerator of MFU.

Matrix products are counted in the traced forward pass; a multiplication and its addition count as two.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rt2_jax.data.data_config import count_pictures
from rt2_jax.models import backbone
from rt2_jax.training.flops import count_flops


def forward_flops(
    model: Mapping[str, Any], vocab: int, data: Mapping[str, Any], rows: int
) -> float:
    """Matrix products of one teacher-forced pass.

    Args:
        model: the config's `model` part.
        vocab: tokens whose logits are computed.
        data: the config's `data` part: image_size, frames, cameras, prompt_length, target_length.
        rows: of the batch.
    """
    fields = {key: model[key] for key in model if key not in ('vocab', 'number_line')}
    built = backbone.build(fields, vocab)
    side = data['image_size']
    inputs = (
        jax.ShapeDtypeStruct((rows, count_pictures(data), side, side, 3), jnp.uint8),
        jax.ShapeDtypeStruct((rows, data['prompt_length']), jnp.int32),
        jax.ShapeDtypeStruct((rows, data['target_length']), jnp.int32),
    )
    params = jax.eval_shape(built.init, jax.random.key(0), *inputs)
    return count_flops(jax.make_jaxpr(built.apply)(params, *inputs))


def train_flops(model: Mapping[str, Any], vocab: int, data: Mapping[str, Any], rows: int) -> float:
    """A training step: the backward pass has two products for each of the forward pass.

    What is computed again to save memory does not count, so that FLOP/s by this number compare
    between settings (the definition of MFU in PaLM, arXiv 2204.02311, appendix B).
    """
    return 3 * forward_flops(model, vocab, data, rows)


def decode_flops(
    model: Mapping[str, Any], data: Mapping[str, Any], rows: int, length: int = 8, bins: int = 256
) -> float:
    """An action for each of `rows` observations: prefill, then `length` tokens over `bins` columns."""
    return forward_flops(model, bins, {**data, 'target_length': length}, rows)
