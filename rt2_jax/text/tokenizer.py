"""Text <-> token ids through SentencePiece, or through a fast tokenizer's JSON (`fast_tokenizer`).

The project's own vocabulary (`tokenizer.model` beside this file, made by `build_vocabulary.py`)
gives every integer from 0 to 1000 a token of its own, as PaLI-X's does, so that action bins and
places in the picture are single tokens (arXiv 2307.15818, section 3.2). Ids follow T5: 0 pads and
starts the decoder, 1 ends a sequence, 2 is unknown.
"""

from collections.abc import Iterable, Sequence
import functools
from importlib import resources

from etils import epath
import numpy as np
import sentencepiece

from rt2_jax import paths
from rt2_jax.text import fast_tokenizer

INTEGERS = 1001
BINS = 256  # of an action's numbers


class Tokenizer:
    """A public tokenizer's model with the ids this project relies on.

    Attributes:
      model_bytes: the serialised SentencePiece model, or the JSON text, as kept in checkpoints.
      vocab_size: the highest id and one.
      pad_id, eos_id: ids that pad and that end a sequence.
      integer_ids: int32 [n], the id of the single token of each integer 0, 1, ..., n - 1: 1001 of
        them, or 256 where rarely used words gave their places (`text.integers`).

    Raises:
      ValueError: the model has no padding or end token, or no single token for an integer below 256.
    """

    def __init__(self, model_bytes: bytes):
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

    @classmethod
    @functools.cache
    def load_default(cls) -> 'Tokenizer':
        """The project's own vocabulary."""
        return cls(resources.files('rt2_jax.text').joinpath('tokenizer.model').read_bytes())

    @classmethod
    def load(cls, path) -> 'Tokenizer':
        """Reads a model file, as `read` does."""
        return cls(read(path))

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without an end token."""
        return self._model.encode(text)

    def decode(self, ids: Sequence[int] | Iterable[int]) -> str:
        """Returns the text of ids up to the first end token; padding is left out."""
        kept = []
        for token in ids:
            if int(token) == self.eos_id:
                break
            if int(token) != self.pad_id:
                kept.append(int(token))
        return self._model.decode(kept)


def read(path: epath.PathLike) -> bytes:
    """The bytes that a `Tokenizer` is made of: of a SentencePiece model, or of a tokenizer.json.

    Raises:
      ValueError: what is beside a tokenizer.json tells of a token that it does not have.
    """
    path = paths.of(path)
    model_bytes = path.read_bytes()
    if fast_tokenizer.is_json(model_bytes):
        return fast_tokenizer.with_roles(model_bytes, path.parent)
    return model_bytes


class _SentencePiece:
    """A SentencePiece model; the same members as `fast_tokenizer.Model`."""

    def __init__(self, model_bytes: bytes):
        self._processor = sentencepiece.SentencePieceProcessor()
        self._processor.LoadFromSerializedProto(model_bytes)
        self.vocab_size = self._processor.vocab_size()
        self.pad_id, self.eos_id = self._processor.pad_id(), self._processor.eos_id()
        self.encode, self.decode = self._processor.encode, self._processor.decode

    def id_of(self, piece: str) -> int | None:
        token = self._processor.piece_to_id(piece)
        return None if token == self._processor.unk_id() else token
