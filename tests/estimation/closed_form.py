"""FLOPs of a model in closed form, from its config alone: a check on what is counted.

Axes: N image tokens, P prompt, T target, S what comes before it, D width, H heads, G heads of keys and
values, K width of a head, M mlp, V vocabulary. A multiplication and its addition count as two.
"""

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]


def forward_flops(
    model: Mapping[str, Any], vocab: int, data: Mapping[str, Any], rows: int
) -> float:
    """Matrix products of one teacher-forced pass over `rows` examples.

    Args:
        model: the config's `model` part.
        vocab: V.
        data: the config's `data` part: image_size, frames, prompt_length, target_length.
        rows: examples.
    """
    side = data['image_size'] // model['vision']['patch']
    tower = data['frames'] * _tower(model['vision'], side)
    return rows * (tower + _LANGUAGE[model['name']](model, vocab, data, side**2))


def _pali(model: Config, vocab: int, data: Config, patches: int) -> float:
    encoder, decoder, target = model['encoder'], model['decoder'], data['target_length']
    source = data['frames'] * patches + data['prompt_length']
    projection = 2 * data['frames'] * patches * model['vision']['width'] * encoder['width']
    head = 2 * target * decoder['width'] * vocab
    return projection + _encoder(encoder, source) + _decoder(decoder, source, target) + head


def _t5gemma2(model: Config, vocab: int, data: Config, patches: int) -> float:
    del patches
    encoder, decoder, target = model['encoder'], model['decoder'], data['target_length']
    tokens = data['frames'] * model['image_tokens']
    around = data['frames'] * (len(model['before_image']) + len(model['after_image']))
    source = tokens + around + data['prompt_length']
    projection = 2 * tokens * model['vision']['width'] * encoder['width']
    head = 2 * target * decoder['width'] * vocab
    theirs = decoder['depth'] * 4 * source * decoder['width'] * _keys(decoder)
    return (
        projection
        + _grouped(encoder, source, source)
        + _grouped(decoder, target, target + source)
        + theirs
        + head
    )


def _decoder_only(model: Config, vocab: int, data: Config, patches: int) -> float:
    text, target = model['text'], data['target_length']
    ends = (model.get('bos', 2) >= 0) + (model.get('separator', 108) >= 0)
    length = data['frames'] * patches + data['prompt_length'] + ends + target - 1
    projection = 2 * data['frames'] * patches * model['vision']['width'] * text['width']
    return projection + _grouped(text, length, length) + 2 * target * text['width'] * vocab


def _classifier(model: Config, vocab: int, data: Config, patches: int) -> float:
    tokens = data['frames'] * patches
    projection = 2 * tokens * model['vision']['width'] * model['width']
    return projection + 2 * (tokens + 1) * model['width'] * vocab


_LANGUAGE = {
    'pali': _pali,
    't5gemma2': _t5gemma2,
    'decoder_only': _decoder_only,
    'classifier': _classifier,
}


def _keys(stack: Mapping[str, Any]) -> int:
    return stack['attention']['kv_heads'] * stack['attention']['head_dim']


def _grouped(stack: Mapping[str, Any], queries: int, keys: int) -> float:
    """Layers of Gemma's kind over `queries` tokens, each of which sees `keys` of them."""
    width, attention = stack['width'], stack['attention']
    inner = attention['heads'] * attention['head_dim']
    layer = 2 * queries * (2 * width * (inner + _keys(stack)) + 3 * width * stack['mlp'])
    return stack['depth'] * (layer + 4 * queries * keys * inner)


def _tower(vision: Mapping[str, Any], side: int) -> float:
    """One frame of `side` x `side` image tokens."""
    width, mlp = vision['width'], vision['mlp']
    tokens = side**2 + (vision.get('class_token', 'none') != 'none')
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
