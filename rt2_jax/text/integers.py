"""Single tokens for integers in a public SentencePiece model that has none.

RT-2 (arXiv 2307.15818, section 3.2): PaLI-X has a token for each integer up to 1000; in PaLM-E's
vocabulary the 256 least used tokens are overwritten. The integers are pieces that users define, so they
are found whole in any text, the longest first.
"""

from __future__ import annotations

from collections.abc import Sequence

from sentencepiece import sentencepiece_model_pb2 as proto

from rt2_jax.nearest import check
from rt2_jax.text.tokenizer import BINS, INTEGERS

WAYS = ('append', 'overwrite')
_Piece = proto.ModelProto.SentencePiece


def with_integers(model_bytes: bytes, way: str) -> bytes:
    """A SentencePiece model with a single token for each integer.

    Args:
        model_bytes: the serialised model.
        way: 'append' puts 0..1000 behind all tokens, so embeddings grow; 'overwrite' gives 0..255 the
            places of the least used words.

    Returns:
        The serialised model; unchanged where it has them all.
    """
    check('way', way, WAYS)
    model = proto.ModelProto.FromString(model_bytes)
    count = INTEGERS if way == 'append' else BINS
    present = {piece.piece for piece in model.pieces}
    missing = [k for k in range(count) if _text(k) not in present]
    if way == 'append':
        for k in missing:
            model.pieces.add(piece=_text(k), score=0.0, type=_Piece.USER_DEFINED)
    else:
        for k, place in zip(missing, least_used(model, len(missing))):
            piece = model.pieces[place]
            piece.piece, piece.score, piece.type = _text(k), 0.0, _Piece.USER_DEFINED
    # What is there as a common piece may be split by better ones; what users define is not.
    for piece in model.pieces:
        if piece.piece in {_text(k) for k in range(count)}:
            piece.type = _Piece.USER_DEFINED
    return model.SerializeToString()


def least_used(model: proto.ModelProto, count: int) -> Sequence[int]:
    """Ids of the words with the lowest scores, in the order of their ids.

    A score is a log-probability (unigram) or the turn at which pieces were joined (BPE): both fall
    with use. Letters by themselves, control tokens, bytes and what users defined are no words.
    """
    integers = {_text(k) for k in range(BINS)}
    words = [
        (piece.score, -number)
        for number, piece in enumerate(model.pieces)
        if piece.type == _Piece.NORMAL and len(piece.piece) > 1 and piece.piece not in integers
    ]
    return sorted(-number for _, number in sorted(words)[:count])


def _text(k: int) -> str:
    return f'\u2581{k}'
