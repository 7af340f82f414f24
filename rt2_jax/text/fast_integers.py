"""The vocabularies of a tokenizer.json, to be changed: Unigram as T5 has it, BPE as Gemma has it.

Added tokens would not do: they are looked for before the model sees the text, so that one at its beginning,
where T5 thinks of a space, is not found, and one behind two spaces, which Gemma takes together, is. Pieces
that the model itself prefers are found as SentencePiece finds what users define.
"""

from __future__ import annotations

from collections.abc import Sequence
import json
import re
from typing import Any

from rt2_jax import records
from rt2_jax.nearest import check

_BYTE = re.compile('<0x[0-9A-F]{2}>')


def open_json(model_bytes: bytes) -> Unigram | Bpe:
    """The vocabulary of a tokenizer.json.

    Raises:
        ValueError: it is of another kind of model.
    """
    text = records.parse(model_bytes, 'the tokenizer.json')
    kind = check('model of a tokenizer.json', text['model'].get('type', 'BPE'), KINDS)
    return KINDS[kind](text)


class Unigram:
    """Pieces with scores in a list, whose places are the ids.

    Attributes:
        ids: from piece to id.
        size: the highest id and one.
    """

    def __init__(self, text: dict[str, Any]):
        self._text = text
        self._pieces = text['model']['vocab']
        self._added = {token['content'] for token in text['added_tokens']}
        # Tokens may have been added behind the list; what is appended shall not take their places.
        for token in sorted(text['added_tokens'], key=lambda token: token['id']):
            if token['id'] == len(self._pieces):
                self._pieces.append([token['content'], 0.0])
            elif token['id'] > len(self._pieces):
                raise ValueError(
                    f'tokenizer.json: the added token {token["content"]!r} has the id {token["id"]}, '
                    f'and no token has {len(self._pieces)}'
                )
        self.ids = {piece: number for number, (piece, _) in enumerate(self._pieces)}
        self.size = len(self._pieces)

    def words(self, kept: set[str]) -> dict[int, float]:
        """Scores by id; letters by themselves, added tokens and bytes are no words."""
        none = self._added | kept
        return {
            number: score
            for number, (piece, score) in enumerate(self._pieces)
            if len(piece) > 1 and piece not in none and not _BYTE.fullmatch(piece)
        }

    def put(self, number: int, piece: str) -> None:
        """Gives an id to a piece: one of a word, or the next that is free."""
        self._pieces[number : number + 1] = [[piece, 0.0]]

    def prefer(self, pieces: Sequence[str]) -> None:
        """Has pieces found whole: where others have log-probabilities, these have what SentencePiece gives
        pieces that users define (as measured on 0.2.3).
        """
        preferred = set(pieces)
        for entry in self._pieces:
            if entry[0] in preferred:
                entry[1] = 0.1 * len(entry[0].encode()) - 0.1

    def to_bytes(self) -> bytes:
        return json.dumps(self._text, ensure_ascii=False).encode()


class Bpe:
    """Ids by piece, and in order which two pieces are joined.

    Attributes:
        ids: from piece to id.
        size: the highest id and one.
    """

    def __init__(self, text: dict[str, Any]):
        self._text = text
        self._pieces = text['model']['vocab']
        if missing := [letter for letter in '\u25810123456789' if letter not in self._pieces]:
            raise ValueError(
                f'tokenizer.json: the vocabulary has no {" ".join(missing)}, of which integers would '
                'be joined; those of SentencePiece have'
            )
        self._added = {token['content']: token['id'] for token in text['added_tokens']}
        # Older files have the two in one text.
        self._merges = [
            tuple(merge.split(' ')) if isinstance(merge, str) else tuple(merge)
            for merge in text['model']['merges']
        ]
        self.ids = self._pieces | self._added
        self.size = 1 + max(self.ids.values())
        self._names = {number: piece for piece, number in self._pieces.items()}

    def words(self, kept: set[str]) -> dict[int, float]:
        """Minus the turn at which it is joined, by id; what is not (letters, bytes) is no word."""
        found: dict[int, float] = {}
        for turn, merge in enumerate(self._merges):
            piece = ''.join(merge)
            if piece not in self._added and piece not in kept:
                found.setdefault(self._pieces[piece], -turn)
        return found

    def put(self, number: int, piece: str) -> None:
        """Gives an id to a piece: one of a word, or the next that is free."""
        if number in self._names:
            del self._pieces[self._names[number]]
        self._pieces[piece] = number

    def prefer(self, pieces: Sequence[str]) -> None:
        """Has pieces found whole: joined before others, and nothing is joined to them."""
        preferred, added, others = set(pieces), [], []
        for merge in self._merges:
            joined = {*merge, ''.join(merge)}
            if joined <= self._pieces.keys() and not joined & preferred:
                (added if ''.join(merge) in self._added else others).append(merge)
        # Runs of spaces that users defined begin further left than an integer behind them.
        integers = [(piece[:-1], piece[-1]) for piece in pieces]
        self._text['model']['merges'] = [*added, *integers, *others]

    def to_bytes(self) -> bytes:
        return json.dumps(self._text, ensure_ascii=False).encode()


KINDS = {'Unigram': Unigram, 'BPE': Bpe}
