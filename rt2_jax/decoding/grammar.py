"""The grammar of answers: the tokens that may come next, at every position.

RT-2 restricts the output vocabulary to action tokens on a robot prompt and leaves it free on any
other. Here that is a small automaton with three ways in, one for each kind of answer:

    ACTION   {0, 1}  then seven of {0..255}, or as the action space has it    then the end
    TEXT     any token                                     until EOS or `text_length` tokens
    PLAN     any token but EOS until "Action:", then as ACTION                then the end

A plan that has not come to "Action:" on its own is brought to it: the marker's ids are forced so
that plan and marker together are at most `plan_length` tokens. So every ACTION and PLAN answer
holds an action, whatever the model's weights. Where the action space has no terminate number, an
action starts with its first dimension, and no answer can end an episode. The end of an
action is certain and no step is spent on it (its EOS has probability 1 under the grammar).

A model may be trained to decide all numbers of an action at once (`one_pass`). Then the decoder doesn't
read the number before: at the second place of an action it reads the token of the integer 1, at the third
that of 2, and so on. These are its slots, and no number depends on another.

The state of a row is three integers, so rows of different kinds go through one batch and one jit.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rt2_jax.text import actions, plan_marker


class Kind(enum.IntEnum):
    """The kind of an answer; also the phase in which its row starts."""

    ACTION = 0
    TEXT = 1
    PLAN = 2


_DONE = 3

# Classes of tokens. Which class is allowed depends on the phase alone, so a [phase, class] table
# and one class a token are enough, where a mask for each phase would hold the vocabulary many times.
_NEVER, _PLAIN, _EOS, _BIN, _FLAG = range(5)
_AT_FLAG, _AT_BINS, _AT_TEXT, _AT_PLAN, _AT_END = range(5)
_ALLOWED = np.zeros([5, 5], bool)
_ALLOWED[_AT_FLAG, _FLAG] = True
_ALLOWED[_AT_BINS, [_BIN, _FLAG]] = True
_ALLOWED[_AT_TEXT, [_PLAIN, _EOS, _BIN, _FLAG]] = True
_ALLOWED[_AT_PLAN, [_PLAIN, _BIN, _FLAG]] = True


@dataclasses.dataclass(frozen=True)
class Grammar:
    """The automaton. Hashable, so that a jitted function may take it as a static argument.

    B rows, V vocabulary (the width of the logits), C columns of it.

    Attributes:
        bin_ids: token ids of the integers 0..bins-1; the first two are the terminate flag's, where
            there is one.
        marker_ids: token ids of "Action:" at the end of a plan (`plan_marker`).
        pad_id: what fills a row after its end; never allowed within it.
        eos_id: what ends a text.
        vocab_size: number of token ids in use. Logits may be wider (padded vocabularies); ids from
            here on are never allowed.
        action_length: tokens an action, flag included.
        terminate: whether an action's first token is the flag.
        text_length: most tokens of a TEXT answer, EOS included.
        plan_length: most tokens of a plan, marker included.
        one_pass: whether the numbers of an action are decided without one another.
    """

    bin_ids: tuple[int, ...]
    marker_ids: tuple[int, ...]
    pad_id: int
    eos_id: int
    vocab_size: int
    action_length: int
    terminate: bool = True
    text_length: int = 48
    plan_length: int = 32
    one_pass: bool = False

    def __post_init__(self) -> None:
        if not self.marker_ids or self.plan_length < len(self.marker_ids):
            raise ValueError(
                f'plan_length is {self.plan_length}; a plan holds at least its marker of '
                f'{len(self.marker_ids)} tokens, and the marker at least one.'
            )
        if self.text_length < 1:
            raise ValueError(f'text_length is {self.text_length}; at least 1 is needed.')

    @classmethod
    def create(
        cls,
        tokenizer: Any,
        action_tokenizer: actions.ActionTokenizer,
        *,
        text_length: int = 48,
        plan_length: int = 32,
        one_pass: bool = False,
    ) -> Grammar:
        """The grammar over a tokenizer's ids.

        Raises:
            ValueError: the tokenizer has no ids that end every plan (`plan_marker`).
        """
        return cls(
            bin_ids=tuple(action_tokenizer.integer_ids.tolist()),
            marker_ids=plan_marker.marker_ids(tokenizer),
            pad_id=int(tokenizer.pad_id),
            eos_id=int(tokenizer.eos_id),
            vocab_size=int(tokenizer.vocab_size),
            action_length=action_tokenizer.length,
            terminate=action_tokenizer.space.terminate,
            text_length=text_length,
            plan_length=plan_length,
            one_pass=one_pass,
        )

    @property
    def first_columns(self) -> np.ndarray:
        """Ids that may start an action, int32 [2 or bins], ascending."""
        return np.sort(np.asarray(self.bin_ids[:2] if self.terminate else self.bin_ids, np.int32))

    @property
    def bin_columns(self) -> np.ndarray:
        """Ids that may stand anywhere in an action, int32 [bins], ascending."""
        return np.sort(np.asarray(self.bin_ids, np.int32))

    @property
    def slots(self) -> np.ndarray:
        """What a decoder of `one_pass` reads before each number of an action, int32 [action_length]."""
        return np.array([self.pad_id, *self.bin_ids[1 : self.action_length]], np.int32)

    def decoder_inputs(self, answers: np.ndarray) -> np.ndarray:
        """What the decoder reads before each token of whole answers, int32 [..., T].

        Args:
            answers: int32 [..., T]; the last `action_length` of each are an action.
        """
        start = np.full_like(answers[..., :1], self.pad_id)
        inputs = np.concatenate([start, answers[..., :-1]], axis=-1)
        if self.one_pass:
            inputs[..., inputs.shape[-1] - self.action_length + 1 :] = self.slots[1:]
        return inputs

    def next_input(self, state: jax.Array, token: jax.Array) -> jax.Array:
        """What the decoder reads after `token` int32 [B], which led to `state`."""
        if not self.one_pass:
            return token
        within = self.in_action(state) & (state[:, 2] > 0)
        return jnp.where(within, jnp.asarray(self.slots)[state[:, 2]], token)

    def max_length(self, kinds: frozenset[Kind]) -> int:
        """Most tokens of an answer of any of these kinds."""
        lengths = {
            Kind.ACTION: self.action_length,
            Kind.TEXT: self.text_length,
            Kind.PLAN: self.plan_length + self.action_length,
        }
        return max(lengths[kind] for kind in kinds)

    def start(self, kinds: jax.Array) -> jax.Array:
        """State int32 [B, 3] (phase, marker tokens matched, tokens in this phase) at the start."""
        zero = jnp.zeros_like(kinds)
        return jnp.stack([kinds, zero, zero], axis=-1)

    def done(self, state: jax.Array) -> jax.Array:
        """Which rows have ended, bool [B]."""
        return state[:, 0] == _DONE

    def in_action(self, state: jax.Array) -> jax.Array:
        """Which rows' next token is an action token, bool [B]."""
        return state[:, 0] == Kind.ACTION

    def at_flag(self, state: jax.Array) -> jax.Array:
        """Which rows' next token is an action's terminate flag, bool [B]."""
        return self.in_action(state) & (state[:, 2] == 0) & self.terminate

    def in_number(self, state: jax.Array) -> jax.Array:
        """Which rows' next token is a number of an action, and not its flag, bool [B]."""
        return self.in_action(state) & ((state[:, 2] > 0) | (not self.terminate))

    def allowed(self, state: jax.Array, columns: np.ndarray | None, width: int) -> jax.Array:
        """Which of `columns` (all `width` ids where None) may come next, bool [B, C].

        A row that has ended allows nothing; the sampler writes padding.
        """
        phase, matched, count = state[:, 0], state[:, 1], state[:, 2]
        ids = np.arange(width) if columns is None else np.asarray(columns)
        classes = jnp.asarray(self._class_of_token(max(width, self.vocab_size))[ids])
        place = jnp.select(
            [self.at_flag(state), phase == Kind.ACTION, phase == Kind.TEXT, phase == Kind.PLAN],
            [_AT_FLAG, _AT_BINS, _AT_TEXT, _AT_PLAN],
            _AT_END,
        )
        free = jnp.asarray(_ALLOWED)[place][:, classes]
        forced = (phase == Kind.PLAN) & (count + len(self.marker_ids) >= self.plan_length)
        marker = jnp.asarray(self.marker_ids)[jnp.minimum(matched, len(self.marker_ids) - 1)]
        return jnp.where(forced[:, None], jnp.asarray(ids) == marker[:, None], free)

    def advance(self, state: jax.Array, token: jax.Array) -> jax.Array:
        """The state after `token` int32 [B]. A row that has ended stays so."""
        phase, matched, count = state[:, 0], state[:, 1], state[:, 2] + 1
        matched = jnp.where(phase == Kind.PLAN, self._match(matched, token), 0)
        plan_ends = (phase == Kind.PLAN) & (matched == len(self.marker_ids))
        text_ends = (token == self.eos_id) | (count >= self.text_length)
        ends = ((phase == Kind.ACTION) & (count >= self.action_length)) | (
            (phase == Kind.TEXT) & text_ends
        )
        phase = jnp.select([ends, plan_ends], [_DONE, int(Kind.ACTION)], phase)
        count = jnp.where(plan_ends, 0, count)
        return jnp.stack([phase, matched, count], axis=-1)

    def _class_of_token(self, width: int) -> np.ndarray:
        classes = np.full([width], _NEVER, np.int32)
        classes[: self.vocab_size] = _PLAIN
        classes[list(self.bin_ids)] = _BIN
        classes[list(self.bin_ids[:2])] = _FLAG
        classes[self.eos_id] = _EOS
        classes[self.pad_id] = _NEVER
        return classes

    def _match(self, matched: jax.Array, token: jax.Array) -> jax.Array:
        """How many of the marker's tokens the text ends in after `token` (Knuth-Morris-Pratt)."""
        letters = sorted(set(self.marker_ids))
        table = np.zeros([len(self.marker_ids) + 1, len(letters) + 1], np.int32)
        for seen in range(len(self.marker_ids)):
            for j, letter in enumerate(letters):
                table[seen, j + 1] = _overlap(self.marker_ids[:seen] + (letter,), self.marker_ids)
        hits = token[:, None] == jnp.asarray(letters)
        column = jnp.where(hits.any(-1), hits.argmax(-1) + 1, 0)
        return jnp.asarray(table)[matched, column]


def _overlap(text: tuple[int, ...], marker: tuple[int, ...]) -> int:
    """Length of the longest end of `text` with which `marker` starts."""
    for n in range(min(len(text), len(marker)), 0, -1):
        if text[-n:] == marker[:n]:
            return n
    return 0
