"""FLOPs of a PaLI in closed form, from its config alone: a check on what is counted in a program.

Axes: N image tokens, P prompt, T target, S = F N + P, D width, H heads, K width of a head, M mlp,
V vocabulary. A multiplication and its addition count as two.
"""

from collections.abc import Mapping
from typing import Any


def forward_flops(
    model: Mapping[str, Any], vocab: int, data: Mapping[str, Any], rows: int
) -> float:
    """Matrix products of one teacher-forced pass over `rows` examples.

    Args:
        model: the config's `model` part of a 'pali'.
        vocab: V.
        data: the config's `data` part: image_size, frames, prompt_length, target_length.
        rows: examples.
    """
    vision, encoder, decoder = model['vision'], model['encoder'], model['decoder']
    frames, target = data['frames'], data['target_length']
    side = data['image_size'] // vision['patch']
    image = side**2
    source = frames * image + data['prompt_length']
    tower = frames * _tower(vision, side)
    projection = 2 * frames * image * vision['width'] * encoder['width']
    head = 2 * target * decoder['width'] * vocab
    return rows * (
        tower + projection + _encoder(encoder, source) + _decoder(decoder, source, target) + head
    )


def train_flops(model: Mapping[str, Any], vocab: int, data: Mapping[str, Any], rows: int) -> float:
    """A training step: the backward pass has two products for each of the forward pass.

    What is computed again to save memory does not count, so that FLOP/s by this number compare
    between settings (the definition of MFU in PaLM, arXiv 2204.02311, appendix B).
    """
    return 3 * forward_flops(model, vocab, data, rows)


def decode_flops(model: Mapping[str, Any], vocab: int, data: Mapping[str, Any], rows: int) -> float:
    """One action for each of `rows` observations: prefill, then 8 tokens over 256 columns."""
    del vocab
    action = dict(data) | {'target_length': 8}
    return forward_flops(model, 256, action, rows)


def _tower(vision: Mapping[str, Any], side: int) -> float:
    """One frame of `side` x `side` image tokens."""
    width, mlp, tokens = vision['width'], vision['mlp'], side**2
    layer = 2 * tokens * (4 * width**2 + 2 * width * mlp) + 4 * tokens**2 * width
    return _stem(vision, side) + vision['depth'] * layer


def _stem(vision: Mapping[str, Any], side: int) -> float:
    width = vision['width']
    if vision.get('stem', 'patch') == 'patch':
        return 2 * side**2 * 3 * vision['patch'] ** 2 * width
    # A pyramid: each level halves the sides, and sees 3 x 3 of the level before.
    total, features, side = 0, 3 * 4**2, side * vision['patch'] // 4
    for level in vision['stem_widths']:
        total += 2 * side**2 * features * level
        features, side = 9 * level, side // 2
    return total + 2 * side**2 * features * width


def _encoder(encoder: Mapping[str, Any], source: int) -> float:
    width, inner = encoder['width'], encoder['heads'] * encoder['head_dim']
    layer = 2 * source * (4 * width * inner + 3 * width * encoder['mlp'])
    return encoder['depth'] * (layer + 4 * source**2 * inner)


def _decoder(decoder: Mapping[str, Any], source: int, target: int) -> float:
    width, inner = decoder['width'], decoder['heads'] * decoder['head_dim']
    own = 2 * target * (6 * width * inner + 3 * width * decoder['mlp']) + 4 * target**2 * inner
    cross = 4 * source * width * inner + 4 * source * target * inner
    return decoder['depth'] * (own + cross)
