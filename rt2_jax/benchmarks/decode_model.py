"""Models of T5 v1.1 and SigLIP in a few sizes for benchmarks/decode.py, with random weights and inputs.

Weights lie in a directory in two forms, ours and Hugging Face's (which rt2_jax.convert makes of ours),
the same numbers in both. They are bfloat16 on the disk, so that no type rounds them any further.
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
import json
from typing import Any
import zlib

from etils import epath
import jax
import ml_dtypes
import numpy as np

from rt2_jax.checkpoints import loading, param_shapes
from rt2_jax.decoding import compact
from rt2_jax.decoding.grammar import Grammar
from rt2_jax.models import backbone
from rt2_jax.parallel import sharding
from rt2_jax.weights import tensors

IMAGE_SIZE, PROMPT_LENGTH, BINS, LENGTH = 224, 24, 256, 8


def _size(text: tuple[int, ...], vision: tuple[int, ...], vocab: int = 32_128) -> dict[str, Any]:
    part = dict(zip(('width', 'depth', 'heads', 'mlp'), text)) | {'head_dim': 64}
    tower = dict(zip(('width', 'depth', 'heads', 'mlp', 'patch'), vision))
    return dict(name='pali', vocab=vocab, vision=tower, encoder=part, decoder=part)


_SO400M = (1_152, 27, 16, 4_304, 14)
# T5 v1.1's sizes with SigLIP's towers; 5b has the parts of configs/rt2_pali_x_5b.py.
SIZES = {
    'tiny': _size((64, 2, 2, 128), (64, 2, 2, 128, 32), 512),
    'base': _size((768, 12, 12, 2_048), (768, 12, 12, 3_072, 16)),
    '1b': _size((1_024, 24, 16, 2_816), _SO400M),
    '3b': _size((2_048, 24, 32, 5_120), _SO400M),
    '5b': _size((2_048, 24, 32, 5_120), (1_664, 48, 16, 8_192, 14), 256_000),
}


def data() -> dict[str, Any]:
    """Lengths and sizes, as a config's `data` has them."""
    return dict(image_size=IMAGE_SIZE, frames=1, prompt_length=PROMPT_LENGTH, target_length=LENGTH)


def grammar(vocab: int) -> Grammar:
    """An arm's: a flag and seven numbers, by ids that lie somewhere in the vocabulary."""
    return Grammar(
        bin_ids=tuple(bins().tolist()), marker_ids=(50,), pad_id=0, eos_id=1, vocab_size=vocab,
        action_length=LENGTH,
    )  # fmt: skip


def bins() -> np.ndarray:
    """Token ids of the integers, int32 [256], in no order."""
    return 100 + np.random.default_rng(0).permutation(BINS + 100)[:BINS].astype(np.int32)


def inputs(batch: int, vocab: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images uint8 [B, 1, S, S, 3], prompts int32 [B, P] and the tokens to decode, [B, 8]."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, 1, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    prompt = rng.integers(2, vocab, (batch, PROMPT_LENGTH), np.int32)
    prompt[:, PROMPT_LENGTH - 6 :] = 0  # as prompts are, shorter than the longest
    tokens = rng.choice(bins(), (batch, LENGTH))
    tokens[:, 0] = bins()[1]
    return images, prompt, tokens


def write(directory: epath.Path, model: Mapping[str, Any]) -> None:
    """Writes random weights in our form: a directory that rt2_jax.convert reads, tensor by tensor."""
    shapes = param_shapes.named_shapes(model, IMAGE_SIZE)
    params = {name: _random(name, shape) for name, shape in shapes.items()}
    tensors.write_safetensors(directory, params, stem=loading.PARAMS)
    record = {'format': 'random', 'model': dict(model) | {'image_size': IMAGE_SIZE}}
    (directory / loading.MODEL).write_text(json.dumps(record, indent=2))


def _random(name: str, shape: tuple[int, ...]) -> tensors.Tensor:
    bfloat16 = np.dtype(ml_dtypes.bfloat16)

    def take(index: slice) -> np.ndarray:
        if name.endswith('scale'):
            return np.ones(shape, bfloat16)[index]
        # A seed for each row, since a few at a time are written.
        rows = range(*index.indices(shape[0]))
        return np.stack([_normal(f'{name}:{row}', shape[1:]) for row in rows]).astype(bfloat16)

    return tensors.Tensor(name, tuple(shape), bfloat16, 'random', lambda: take(slice(None)), take)


def _normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return np.float32(0.03) * rng.standard_normal(shape, np.float32)


def bytes_read(size: str, kind: str, batch: int) -> dict[str, int]:
    """Bytes that a batch of actions must read: for `prefill`, and for the `steps` of eight tokens together.

    Args:
        size: of `SIZES`.
        kind: of the weights, 'bfloat16' or 'int8'.
        batch: rows.

    Raises:
        ValueError: the weights are as they are stored.
    """
    config = SIZES[size]
    vocab, length = config['vocab'], LENGTH
    if kind == compact.STORED:
        raise ValueError('what is read of weights in float32 is twice that of bfloat16')
    sizes, dtype = _stored_bytes(size, kind)
    # Cross-attention's keys and values are made of the encoder's states, once.
    once = ('cross_attention/key/', 'cross_attention/value/')
    prefill = steps = 0
    for name, count in sizes.items():
        if name.startswith('embedding/'):
            prefill += batch * PROMPT_LENGTH * count // vocab
            steps += batch * length * count // vocab
        elif name.startswith('head/'):
            steps += count // vocab * (2 + (length - 1) * BINS)
        elif name.startswith('text_decoder/') and not any(part in name for part in once):
            steps += length * count
        else:
            prefill += count
    decoder, vision = config['decoder'], config['vision']
    states = (IMAGE_SIZE // vision['patch']) ** 2 + PROMPT_LENGTH
    kept = 2 * decoder['depth'] * decoder['heads'] * decoder['head_dim']
    own = sum(range(1, length + 1))
    steps += batch * kept * (length * states + own) * np.dtype(dtype).itemsize
    return {'prefill': int(prefill), 'steps': int(steps)}


@functools.cache
def _stored_bytes(size: str, kind: str) -> tuple[dict[str, int], Any]:
    """Bytes of each parameter of a compact model, and the model's dtype; tracing it takes seconds."""
    config = SIZES[size]
    built = backbone.build(config | {'dtype': 'bfloat16'}, config['vocab'])
    model = compact.compact_model(built, jax.default_backend())
    named = sharding.named_leaves(compact.shapes(model, kind, inputs(1, config['vocab'])))
    return {name: x.size * x.dtype.itemsize for name, x in named.items()}, model.dtype
