"""Instructions and questions to the token ids of prompts. The wording itself is in `text/prompts.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import logging
import numpy as np

from rt2_jax.decoding.grammar import Kind
from rt2_jax.nearest import check
from rt2_jax.text import prompts
from rt2_jax.text.actions import ActionSpace
from rt2_jax.text.grid import Grid
from rt2_jax.text.tokenizer import Tokenizer

LONG_PROMPTS = ('raise', 'clip')
_WORDING = {Kind.ACTION: prompts.robot, Kind.PLAN: prompts.robot_plan, Kind.TEXT: prompts.web}


class PromptEncoder:
    """Makes prompts of at most `length` tokens.

    Attributes:
        tokenizer: of the model.
        length: most tokens.
        long_prompts: what happens to longer prompts: 'raise' refuses them, 'clip' drops the last
            words of the instruction or question.
        state_grid: of the states in robots' prompts, which counts what it clips; None where they have
            none.
        clipped: how many prompts lost words.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        length: int,
        long_prompts: str = 'raise',
        state_space: ActionSpace | None = None,
    ) -> None:
        self.tokenizer, self.length = tokenizer, length
        self.long_prompts = check('long_prompts', long_prompts, LONG_PROMPTS)
        self.state_grid = Grid(state_space, 'state') if state_space else None
        self.clipped = 0

    def encode(self, text: str, kind: Kind | None = None, state: Any = None) -> list[int]:
        """Token ids of a prompt.

        Args:
            text: an instruction, or a question for the kind TEXT.
            kind: of the answer, which the wording asks for; None if `text` is the whole prompt.
            state: of the robot, float [K] in its data's numbers; not read where `text` is a question or
                the whole prompt.

        Raises:
            ValueError: it has too many tokens and `long_prompts` is 'raise'; or the state is missing, has
                other numbers than the policy learnt from, or isn't asked for.
        """
        felt = self._state(state) if kind in (Kind.ACTION, Kind.PLAN) else ''
        wording = str if kind is None else _WORDING[kind]
        word = lambda text: prompts.with_state(wording(text), felt)
        ids = self.tokenizer.encode(word(text))
        if len(ids) <= self.length:
            return ids
        if self.long_prompts == 'raise':
            raise ValueError(
                f'The prompt {word(text)!r} has {len(ids)} tokens; this model takes '
                f"{self.length}. Use a shorter text, or long_prompts='clip'."
            )
        # Words are dropped from the text and not from the whole prompt, whose end asks for the answer.
        words = text.split()
        while len(ids) > self.length and words:
            words.pop()
            short = ' '.join(words)
            ids = self.tokenizer.encode(word(short))
        self.clipped += 1
        logging.warning('Prompt %d too long so far: %r was cut to %r.', self.clipped, text, short)
        return ids[: self.length]

    def _state(self, state: Any) -> str:
        """The state as prompts have it; '' for a policy without one."""
        if self.state_grid is None:
            if state is not None:
                raise ValueError('This policy learnt without a state; leave it out.')
            return ''
        if state is None:
            names = self.state_grid.space.names
            raise ValueError(
                f'The state is missing: {len(names)} numbers ({", ".join(names)}) of the robot, which '
                'this policy learnt to act by.'
            )
        return self.state_grid.text(state)


def check_text(what: str, text: Any) -> str:
    """Returns the text; ValueError if it is none or empty. `what` names it in the message."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"The {what} must be a text that isn't empty; got {text!r}.")
    return text


def padded(rows: Sequence[Sequence[int]], width: int, pad: int) -> np.ndarray:
    """Rows of ids to int32 [len(rows), width], padded on the right, as the sampler takes prompts."""
    table = np.full([len(rows), width], pad, np.int32)
    for row, ids in zip(table, rows, strict=True):
        row[: len(ids)] = ids
    return table
