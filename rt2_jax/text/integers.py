"""Single tokens for integers in a public vocabulary that has none.

RT-2 (arXiv 2307.15818, section 3.2): PaLI-X has a token for each integer up to 1000; in PaLM-E's
vocabulary the 256 least used tokens are overwritten. The model prefers the integers' pieces to all
others, so it finds them whole in any text.

In a tokenizer.json, added tokens would not do: they are matched before the model sees the text, so
that they miss an integer at its beginning, where T5 assumes a space, and behind two spaces, which
Gemma merges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import re
from typing import Any, NamedTuple, Protocol

from sentencepiece import sentencepiece_model_pb2

from rt2_jax import records
from rt2_jax.nearest import check
from rt2_jax.text import fast_tokenizer
from rt2_jax.text.tokenizer import BINS, INTEGERS, Tokenizer

WAYS = ('append', 'overwrite')
_BYTE = re.compile('<0x[0-9A-F]{2}>')
_ModelProto: Any = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]  # made at run time


class Changed(NamedTuple):
    """A vocabulary with a single token for each integer, and what changed in it.

    Attributes:
        model_bytes: of its `Tokenizer`.
        ids: that are new for integers.
        instead_of: the words that had these ids before; empty for appended ids.
    """

    model_bytes: bytes
    ids: list[int]
    instead_of: list[str]


class _Vocabulary(Protocol):
    """A vocabulary to be edited.

    Attributes:
        ids: from piece to id.
        size: the highest id and one.
    """

    ids: dict[str, int]
    size: int

    def words(self, kept: set[str]) -> dict[int, float]:
        """Scores by id, without `kept`, single letters, bytes, control, added and user-defined pieces."""

    def put(self, number: int, piece: str) -> None:
        """Gives an id, a word's or the next free one, to a piece."""

    def prefer(self, pieces: Sequence[str]) -> None:
        """Makes the model find these pieces whole."""

    def to_bytes(self) -> bytes:
        """The edited model."""


def with_integers(model_bytes: bytes, way: str) -> Changed:
    """Gives each integer without a single token one.

    Args:
        model_bytes: a SentencePiece model or a tokenizer.json, as `tokenizer.read` returns them.
        way: 'append' puts 0..1000 behind all tokens, so embeddings grow; 'overwrite' gives 0..255 the
            ids of the least used words.

    Raises:
        ValueError: the model is of another kind, has too few words, or still splits an integer.
    """
    check('way', way, WAYS)
    count = INTEGERS if way == 'append' else BINS
    pieces = [f'\u2581{k}' for k in range(count)]
    vocabulary = _open(model_bytes)
    missing = [piece for piece in pieces if piece not in vocabulary.ids]
    instead_of: list[str] = []
    if way == 'append':
        ids = list(range(vocabulary.size, vocabulary.size + len(missing)))
    else:
        ids = _least_used(vocabulary.words(set(pieces)), len(missing))
        names = {number: piece for piece, number in vocabulary.ids.items()}
        instead_of = [names[number] for number in ids]
    for number, piece in zip(ids, missing, strict=True):
        vocabulary.put(number, piece)
    vocabulary.prefer(pieces)
    changed = Changed(vocabulary.to_bytes(), ids, instead_of)
    Tokenizer(changed.model_bytes)  # refuses a model that splits integers
    return changed


def _open(model_bytes: bytes) -> _Vocabulary:
    if not fast_tokenizer.is_json(model_bytes):
        return _SentencePiece(model_bytes)
    text = records.parse(model_bytes, 'the tokenizer.json')
    kinds: dict[str, type[_Unigram] | type[_Bpe]] = {'Unigram': _Unigram, 'BPE': _Bpe}
    return kinds[check('model of a tokenizer.json', text['model'].get('type', 'BPE'), kinds)](text)


def _least_used(words: Mapping[int, float], count: int) -> list[int]:
    """Ids of the words with the lowest scores, in the order of their ids.

    A score is a log-probability (unigram) or minus the position of a merge (BPE): both fall with use.
    Of equals, the later goes.
    """
    if len(words) < count:
        raise ValueError(
            f'The vocabulary has {len(words)} words; {count} have to give their places'
        )
    ranked = sorted((score, -number) for number, score in words.items())
    return sorted(-number for _, number in ranked[:count])


class _SentencePiece:
    """A SentencePiece model; user-defined pieces are found whole, common ones may be split."""

    def __init__(self, model_bytes: bytes) -> None:
        self._model = _ModelProto.FromString(model_bytes)
        self.ids = {piece.piece: number for number, piece in enumerate(self._model.pieces)}
        self.size = len(self._model.pieces)

    def words(self, kept: set[str]) -> dict[int, float]:
        return {
            number: piece.score
            for number, piece in enumerate(self._model.pieces)
            if piece.type == _ModelProto.SentencePiece.NORMAL
            and len(piece.piece) > 1
            and piece.piece not in kept
        }

    def put(self, number: int, piece: str) -> None:
        if number == len(self._model.pieces):
            self._model.pieces.add()
        entry = self._model.pieces[number]
        entry.piece, entry.score = piece, 0.0

    def prefer(self, pieces: Sequence[str]) -> None:
        preferred = set(pieces)
        for piece in self._model.pieces:
            if piece.piece in preferred:
                piece.type = _ModelProto.SentencePiece.USER_DEFINED

    def to_bytes(self) -> bytes:
        return self._model.SerializeToString()


class _Unigram:
    """The Unigram model of a tokenizer.json, as T5 has it: a list of pieces and scores; ids are positions."""

    def __init__(self, text: dict[str, Any]) -> None:
        self._text = text
        self._pieces = text['model']['vocab']
        self._added = {token['content'] for token in text['added_tokens']}
        # Added tokens may follow the list; appended pieces must not take their ids.
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
        others = self._added | kept
        return {
            number: score
            for number, (piece, score) in enumerate(self._pieces)
            if len(piece) > 1 and piece not in others and not _BYTE.fullmatch(piece)
        }

    def put(self, number: int, piece: str) -> None:
        self._pieces[number : number + 1] = [[piece, 0.0]]

    def prefer(self, pieces: Sequence[str]) -> None:
        preferred = set(pieces)
        for entry in self._pieces:
            if entry[0] in preferred:
                # SentencePiece's score of user-defined pieces, as measured on 0.2.3.
                entry[1] = 0.1 * len(entry[0].encode()) - 0.1

    def to_bytes(self) -> bytes:
        return json.dumps(self._text, ensure_ascii=False).encode()


class _Bpe:
    """The BPE model of a tokenizer.json, as Gemma has it: ids by piece, and merges in order."""

    def __init__(self, text: dict[str, Any]) -> None:
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
        scores: dict[int, float] = {}
        for position, merge in enumerate(self._merges):
            piece = ''.join(merge)
            if piece not in self._added and piece not in kept:
                scores.setdefault(self._pieces[piece], -position)
        return scores

    def put(self, number: int, piece: str) -> None:
        if number in self._names:
            del self._pieces[self._names[number]]
        self._pieces[piece] = number

    def prefer(self, pieces: Sequence[str]) -> None:
        preferred = set(pieces)
        added: list[tuple[str, ...]] = []
        others: list[tuple[str, ...]] = []
        for merge in self._merges:
            joined = {*merge, ''.join(merge)}
            if joined <= self._pieces.keys() and not joined & preferred:
                (added if ''.join(merge) in self._added else others).append(merge)
        # Integers merge before other pieces and into none. User-defined runs of spaces come first, as
        # they begin further left than an integer behind them.
        integers = [(piece[:-1], piece[-1]) for piece in pieces]
        self._text['model']['merges'] = [*added, *integers, *others]

    def to_bytes(self) -> bytes:
        return json.dumps(self._text, ensure_ascii=False).encode()
