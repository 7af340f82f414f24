"""Texts to the prompts that a model takes, and what becomes of those that are too long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from absl import logging

from rt2_jax.nearest import check
from rt2_jax.text.tokenizer import Tokenizer

LONG_PROMPTS = ('raise', 'clip')


class Prompts:
    """Prompts of at most `length` tokens.

    Attributes:
      tokenizer, length: of the model.
      long: what happens to longer ones: 'raise' refuses them, 'clip' leaves their last words out.
      clipped: how many lost words.
    """

    def __init__(self, tokenizer: Tokenizer, length: int, long: str = 'raise'):
        self.tokenizer, self.length = tokenizer, length
        self.long = check('long_prompts', long, LONG_PROMPTS)
        self.clipped = 0

    def ids(self, word: Callable[[str], str], text: str) -> list[int]:
        """Token ids of `word(text)`, the prompt that asks about a text.

        Raises:
          ValueError: it has too many tokens, and `long` is 'raise'.
        """
        ids = self.tokenizer.encode(word(text))
        if len(ids) <= self.length:
            return ids
        if self.long == 'raise':
            raise ValueError(
                f'The prompt {word(text)!r} has {len(ids)} tokens; this model takes '
                f"{self.length}. Use a shorter text, or long_prompts='clip'."
            )
        # Words go, not the prompt's frame: its end tells the model what is asked of it.
        words = text.split()
        while len(ids) > self.length and words:
            words.pop()
            short = ' '.join(words)
            ids = self.tokenizer.encode(word(short))
        self.clipped += 1
        logging.warning('Prompt %d too long so far: %r was cut to %r.', self.clipped, text, short)
        return ids[: self.length]


def checked(what: str, text: Any) -> str:
    """Returns a text; ValueError if it is none, or empty. `what` names it in the message."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"The {what} must be a text that isn't empty; got {text!r}.")
    return text
