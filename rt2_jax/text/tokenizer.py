"""Text <-> token ids through SentencePiece, or through a fast tokenizer's JSON (`fast_tokenizer`).

The project's own vocabulary (`tokenizer.model` beside this file, made by `build_vocabulary.py`)
has a token for each integer from 0 to 1000, as PaLI-X's does, so that action bins and places in the
picture are single tokens (arXiv 2307.15818, section 3.2). Ids follow T5: 0 pads and starts the
decoder, 1 ends a sequence, 2 is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import functools
from importlib import resources

from etils import epath
import numpy as np
import sentencepiece

from rt2_jax import paths
from rt2_jax.text import fast_tokenizer

INTEGERS = 1001
BINS = 256  # of a dimension of an action
_DIGITS = tuple('0123456789')
_WORD = 'a'  # stands before integers to see what they are in a sentence


class Tokenizer:
    """A public tokenizer's model with the ids this project relies on.

    What is a single token, for every vocabulary, with a dummy prefix (T5, Llama) or without (Gemma):
    an integer that has one (`integer_ids`), at the beginning of a text or behind a space.

        one each        '128', 'at 128', '1 128 91', '410 530', 'at 12, 13.'
        digit by digit  '(12)', 'x12', '-1', the 000 of '1,000'
        pieces          above the last integer: 1001 with 'append', 256 to 1000 with 'overwrite'

    Attributes:
        model_bytes: the serialised SentencePiece model, or the JSON text, as kept in checkpoints.
        vocab_size: the highest id and one.
        pad_id, eos_id: ids that pad and that end a sequence.
        integer_ids: int32 [n], the id of the single token of each integer 0, 1, ..., n - 1: 1001 of
            them, or 256 where they took the ids of rarely used words (`text.integers`).

    Raises:
        ValueError: the model has no padding or end token, no single token for an integer below 256,
            or a token for an integer that it does not use where the integer stands in a sentence.
    """

    def __init__(self, model_bytes: bytes) -> None:
        self.model_bytes = model_bytes
        kind = fast_tokenizer.Model if fast_tokenizer.is_json(model_bytes) else _SentencePiece
        self._model = kind(model_bytes)
        self.vocab_size = self._model.vocab_size
        self.pad_id, self.eos_id = self._model.pad_id, self._model.eos_id
        if self.pad_id != 0 or self.eos_id < 0:
            raise ValueError(
                f'The tokenizer has pad id {self.pad_id} and end id {self.eos_id}; '
                'this project needs padding at 0 and an end token'
            )
        ids = [self._model.id_of(f'\u2581{k}') for k in range(INTEGERS)]
        missing = [k for k, token in enumerate(ids) if token is None]
        if missing and missing[0] < BINS:
            raise ValueError(
                f'The tokenizer has no single token for {len(missing)} of the integers '
                f'0..1000, the first is {missing[0]}; action bins need one each: '
                'rt2_jax.text.integers adds them'
            )
        self.integer_ids = np.array(ids[: missing[0] if missing else None], np.int32)
        self._before_integer = self._ids_before_integer()

    @classmethod
    @functools.cache
    def load_default(cls) -> Tokenizer:
        """The project's own vocabulary."""
        return cls(resources.files('rt2_jax.text').joinpath('tokenizer.model').read_bytes())

    @classmethod
    def load(cls, path: epath.PathLike) -> Tokenizer:
        """Reads a model file, as `read` does.

        Raises:
            FileNotFoundError: no such file.
            ValueError: as the constructor and `read`, with the path.
        """
        if not epath.Path(path).exists():
            raise FileNotFoundError(
                f'no tokenizer {path}; `python -m rt2_jax.text.build_vocabulary --output={path}` makes '
                "the tabletop's (the config says how), rt2_jax.convert brings that of open weights"
            )
        try:
            return cls(read(path))
        except ValueError as error:
            raise ValueError(f'tokenizer {path}: {error}') from error

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without an end token.

        A text that begins with a digit is encoded as in a sentence, behind a space: "410 530" is
        two tokens for every tokenizer with integers up to 1000.
        """
        rest = text.removeprefix(' ')
        if self._before_integer and rest[:1] in _DIGITS:
            return self._model.encode(f'{_WORD} {rest}')[len(self._before_integer) :]
        return self._model.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids up to the first end token; padding is left out."""
        kept = []
        for token in map(int, ids):
            if token == self.eos_id:
                break
            if token != self.pad_id:
                kept.append(token)
        text = self._model.decode(kept)
        if self._before_integer and text[:1] == ' ' and text[1:2] in _DIGITS:
            return text.removeprefix(' ')
        return text

    def _ids_before_integer(self) -> list[int]:
        """The ids to put before an integer that begins a text, and to cut off after encoding.

        Empty where the model itself puts a space before a text (a dummy prefix).

        Raises:
            ValueError: in a sentence, an integer is split instead of being its token.
        """
        word = self._model.encode(_WORD)
        # Between 256 and 1000 a vocabulary may have some by chance; those are common words.
        count = INTEGERS if len(self.integer_ids) == INTEGERS else BINS
        for integer, token in enumerate(self.integer_ids[:count].tolist()):
            if (ids := self._model.encode(f'{_WORD} {integer}')) != [*word, token]:
                raise ValueError(
                    f'The tokenizer takes {integer} for {ids[len(word) :]} in "{_WORD} {integer}", '
                    f'though its token is {token}: its normalizer or pre-tokenizer parts digits from '
                    'what is around them'
                )
        return [] if self._model.encode('0') == [int(self.integer_ids[0])] else word


def read(path: epath.PathLike) -> bytes:
    """The bytes of a `Tokenizer`: a SentencePiece model's, or a tokenizer.json's.

    Raises:
        ValueError: files beside a tokenizer.json name a token that it does not have.
    """
    path = paths.of(path)
    model_bytes = path.read_bytes()
    if fast_tokenizer.is_json(model_bytes):
        return fast_tokenizer.with_roles(model_bytes, path.parent)
    return model_bytes


class _SentencePiece:
    """A SentencePiece model; the same members as `fast_tokenizer.Model`."""

    def __init__(self, model_bytes: bytes) -> None:
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model_bytes)
        except RuntimeError as error:
            raise ValueError(
                f'neither a SentencePiece model nor a tokenizer.json ({error})'
            ) from error
        self.vocab_size: int = self._processor.vocab_size()
        self.pad_id: int = self._processor.pad_id()
        self.eos_id: int = self._processor.eos_id()

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode(ids)

    def id_of(self, piece: str) -> int | None:
        token = self._processor.piece_to_id(piece)
        return None if token == self._processor.unk_id() else token
