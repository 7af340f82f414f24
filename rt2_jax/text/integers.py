"""Single tokens for integers in a public vocabulary that has none.

RT-2 (arXiv 2307.15818, section 3.2): PaLI-X has a token for each integer up to 1000; in PaLM-E's
vocabulary the 256 least used tokens are overwritten. The integers are pieces that the model prefers to
all others, so they are found whole in any text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sentencepiece import sentencepiece_model_pb2 as proto

from rt2_jax.nearest import check
from rt2_jax.text import fast_integers, fast_tokenizer
from rt2_jax.text.tokenizer import BINS, INTEGERS, Tokenizer

WAYS = ('append', 'overwrite')
_Piece = proto.ModelProto.SentencePiece


class Changed(NamedTuple):
    """A vocabulary with a single token for each integer, and what of it is new.

    Attributes:
        model_bytes: of its `Tokenizer`.
        ids: that stand for an integer now, and did not.
        instead_of: the words that they stood for; empty where they stood for none.
    """

    model_bytes: bytes
    ids: list[int]
    instead_of: list[str]


def with_integers(model_bytes: bytes, way: str) -> Changed:
    """Gives each integer a single token, where it has none.

    Args:
        model_bytes: a SentencePiece model or a tokenizer.json, as `tokenizer.read` returns them.
        way: 'append' puts 0..1000 behind all tokens, so embeddings grow; 'overwrite' gives 0..255 the
            places of the least used words.

    Raises:
        ValueError: the model is of another kind, or finds an integer in pieces all the same.
    """
    check('way', way, WAYS)
    count = INTEGERS if way == 'append' else BINS
    pieces = [f'\u2581{k}' for k in range(count)]
    open_ = fast_integers.open_json if fast_tokenizer.is_json(model_bytes) else _SentencePiece
    model = open_(model_bytes)
    missing = [piece for piece in pieces if piece not in model.ids]
    if way == 'append':
        ids = list(range(model.size, model.size + len(missing)))
        instead_of = []
    else:
        ids = least_used(model.words(set(pieces)), len(missing))
        names = {number: piece for piece, number in model.ids.items()}
        instead_of = [names[number] for number in ids]
    for number, piece in zip(ids, missing, strict=True):
        model.put(number, piece)
    model.prefer(pieces)
    changed = Changed(model.to_bytes(), ids, instead_of)
    Tokenizer(changed.model_bytes)  # refuses a model that doesn't find its integers
    return changed


def least_used(words: Mapping[int, float], count: int) -> list[int]:
    """Ids of the words with the lowest scores, in the order of their ids.

    A score is a log-probability (unigram) or the turn at which pieces were joined (BPE): both fall
    with use. Of equals, the later.
    """
    if len(words) < count:
        raise ValueError(
            f'The vocabulary has {len(words)} words; {count} have to give their places'
        )
    ranked = sorted((score, -number) for number, score in words.items())
    return sorted(-number for _, number in ranked[:count])


class _SentencePiece:
    """A SentencePiece model to be changed; the same members as `fast_integers.Unigram` and `Bpe`.

    Attributes:
        ids: from piece to id.
        size: the highest id and one.
    """

    def __init__(self, model_bytes: bytes):
        self._model = proto.ModelProto.FromString(model_bytes)
        self.ids = {piece.piece: number for number, piece in enumerate(self._model.pieces)}
        self.size = len(self._model.pieces)

    def words(self, kept: set[str]) -> dict[int, float]:
        """Scores by id; letters by themselves, control tokens, bytes, what users defined are no words."""
        return {
            number: piece.score
            for number, piece in enumerate(self._model.pieces)
            if piece.type == _Piece.NORMAL and len(piece.piece) > 1 and piece.piece not in kept
        }

    def put(self, number: int, text: str) -> None:
        """Gives an id to a piece: one of a word, or the next that is free."""
        if number == len(self._model.pieces):
            self._model.pieces.add()
        piece = self._model.pieces[number]
        piece.piece, piece.score = text, 0.0

    def prefer(self, pieces: Sequence[str]) -> None:
        """Has pieces found whole. What is common may be split by better ones, what users define not."""
        preferred = set(pieces)
        for piece in self._model.pieces:
            if piece.piece in preferred:
                piece.type = _Piece.USER_DEFINED

    def to_bytes(self) -> bytes:
        return self._model.SerializeToString()
