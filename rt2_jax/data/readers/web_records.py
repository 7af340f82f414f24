"""One picture with its texts, as every format of web set gives it to the index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import math
import struct
from typing import Any

import numpy as np
import simplejpeg

from rt2_jax.data import encoded_text, images
from rt2_jax.data.data_errors import lfs_remedy
from rt2_jax.data.readers import conversations, tfrecord
from rt2_jax.data.web.web_cards import TEXTS, WebCard

# Boxes may reach so far (fraction of a side) beyond the picture, as rounding makes them.
OVERHANG = 0.02


@dataclasses.dataclass
class Record:
    """A picture and its texts.

    Attributes:
        offset: the picture's first byte in the unit's file; 0 where pictures are files.
        length: its bytes.
        checksum: CRC-32C of them.
        texts: field of web_cards.TEXTS -> texts; fields without text are left out.
        boxes: float32 [labels, 4]: top, left, bottom, right, fractions of the picture's sides.
        language: of the texts.
        score: how well picture and text fit; NaN if unknown.
        path: name of the picture's own file, where it has one.
    """

    offset: int
    length: int
    checksum: int
    texts: dict[str, list[str]]
    boxes: np.ndarray
    language: str
    score: float
    path: str = ''


def make(
    values: Mapping[str, Any], picture: bytes, offset: int, card: WebCard, path: str = ''
) -> list[Record]:
    """The Records of a picture: one for each language of its texts.

    Args:
        values: field -> list of the values under the card's path; fields without are left out.
        picture: the encoded picture.
        offset: its first byte in the unit's file.
        card: the set's card.
        path: name of the picture's own file, where it has one.

    Raises:
        ValueError: a picture, text, box, language or score that can't be one.
    """
    height, width = _picture_size(picture)
    texts = _texts(values)
    boxes = _boxes(values.get('box', ()), card, height, width)
    if len(boxes) != len(texts.get('label', ())):
        raise ValueError(
            f'{len(boxes)} boxes (under {card.box!r}) have {len(texts.get("label", ()))} labels '
            f'(under {card.label!r})'
        )
    whole = Record(
        offset=offset,
        length=len(picture),
        checksum=tfrecord.checksum(picture),
        texts=texts,
        boxes=boxes,
        language=card.default_language,
        score=_score(values.get('score', ())),
        path=path,
    )
    return _by_language(whole, values.get('language', ()))


def _texts(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """The texts of each field that has some."""
    texts = {}
    for field in TEXTS:
        present = [_text(field, value) for value in _flat(values.get(field, ()))]
        # Labels go with boxes by their places, so that none may be left out.
        kept = present if field == 'label' else [text for text in present if text]
        if kept:
            texts[field] = kept
    if turns := _flat(values.get('conversation', ())):
        pairs = conversations.questions_and_answers(turns)
        for field, more in zip(('question', 'answer'), pairs, strict=True):
            if more:
                texts[field] = texts.get(field, []) + more
    questions, answers = len(texts.get('question', ())), len(texts.get('answer', ()))
    if questions > 1 and answers != questions:
        raise ValueError(f'{questions} questions have {answers} answers: of several, one each')
    return texts


def _by_language(record: Record, values: Sequence[Any]) -> list[Record]:
    """A record in its language; or one for each, where each of its texts has one of its own."""
    languages = [_text('language', value).lower() for value in _flat(values)]
    names = sorted(set(languages) - {''})
    if len(names) < 2:
        return [dataclasses.replace(record, language=names[0])] if names else [record]
    counts = {field: len(texts) for field, texts in record.texts.items()}
    if set(counts.values()) != {len(languages)}:
        raise ValueError(
            f'language: one is expected, or one for each text; there are {languages} for {counts}'
        )

    def part(name: str) -> Record:
        rows = [row for row, language in enumerate(languages) if language == name]
        texts = {field: [texts[row] for row in rows] for field, texts in record.texts.items()}
        boxes = record.boxes[rows] if len(record.boxes) else record.boxes
        return dataclasses.replace(record, texts=texts, boxes=boxes, language=name)

    return [part(name) for name in names]


def look_up(tree: Any, path: str) -> list[Any]:
    """Everything under a slash path of JSON's dicts and lists; a list stands for its elements."""
    nodes, is_turn = [tree], conversations.is_turn
    for key in path.split('/'):
        if key in conversations.TEXT_KEYS and any(is_turn(node, key) for node in _flat(nodes)):
            raise ValueError(
                f'{path!r} are turns of a conversation, of which only some are answers: name the path '
                f'of the turns, {path.rpartition("/")[0]!r}, as the field `conversation`'
            )
        nodes = [node[key] for node in _flat(nodes) if isinstance(node, dict) and key in node]
        if not nodes:  # as most of a card's paths, in most records
            return nodes
    return [node for node in nodes if node is not None]


def paths(tree: Any, prefix: str = '') -> list[str]:
    """All slash paths of JSON's dicts and lists, innermost only."""
    if isinstance(tree, list):
        return sorted({path for element in tree for path in paths(element, prefix)})
    if not isinstance(tree, Mapping):
        return [prefix]
    return [
        path
        for key, value in tree.items()
        for path in paths(value, f'{prefix}/{key}' if prefix else key)
    ]


def _flat(nodes: Sequence[Any]) -> list[Any]:
    flat: list[Any] = []
    for node in nodes:
        flat.extend(node) if isinstance(node, (list, tuple)) else flat.append(node)
    return flat


def _picture_size(picture: bytes) -> tuple[int, int]:
    """Height and width in pixels, from the header alone."""
    if picture[:3] == images.JPEG_MAGIC:
        try:
            return simplejpeg.decode_jpeg_header(picture)[:2]
        except ValueError as error:
            raise ValueError(f'picture: a JPEG with a broken header: {error}') from error
    if picture[:8] == images.PNG_MAGIC and len(picture) >= 24:
        width, height = struct.unpack('>II', picture[16:24])
        return height, width
    if images.is_webp(picture):
        return images.webp_size(picture)
    raise ValueError(
        lfs_remedy(picture)
        or f'picture: {len(picture)} bytes starting with {picture[:8]!r} are neither a JPEG nor a PNG '
        'nor a WebP'
    )


def _text(field: str, value: Any) -> str:
    if isinstance(value, bytes):
        try:
            return encoded_text.decoded(value).strip()
        except UnicodeDecodeError as error:
            raise ValueError(f'{field}: not UTF-8: {error}') from error
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f'{field}: a text is expected, not {value!r:.80}')
    return value.strip()


def _score(values: Sequence[Any]) -> float:
    numbers = _flat(values)
    if len(numbers) > 1 or any(isinstance(x, (bool, str, bytes, Mapping)) for x in numbers):
        raise ValueError(f'score: one number is expected, not {numbers!r:.80}')
    return float(numbers[0]) if numbers else math.nan


def _boxes(values: Sequence[Any], card: WebCard, height: int, width: int) -> np.ndarray:
    if not values:
        return np.zeros([0, 4], np.float32)
    try:
        boxes = np.concatenate([np.asarray(x, np.float64).reshape(-1, 4) for x in values])
    except (ValueError, TypeError) as error:
        raise ValueError(f'box: four numbers each are expected: {error}') from error
    if card.box_form == 'xywh':
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    if card.box_form != 'yxyx':
        boxes = boxes[:, [1, 0, 3, 2]]
    if card.box_unit == 'pixel':
        boxes = boxes / [height, width, height, width]
    fine = (boxes > -OVERHANG) & (boxes < 1 + OVERHANG)
    if not fine.all() or (boxes[:, 2:] < boxes[:, :2]).any():
        worst = boxes[~(fine.all(axis=1) & (boxes[:, 2:] >= boxes[:, :2]).all(axis=1))][0]
        raise ValueError(
            f'box: top, left, bottom, right = {worst.round(4).tolist()} of the sides is no box of '
            f'the picture ({height} x {width}); are box_form={card.box_form!r} and '
            f'box_unit={card.box_unit!r} right?'
        )
    return boxes.clip(0, 1).astype(np.float32)
