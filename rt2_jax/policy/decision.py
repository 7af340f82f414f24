"""What a policy decides."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from rt2_jax.policy.batches import Answer
from rt2_jax.text import prompts
from rt2_jax.text.actions import ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer


class Alternative(NamedTuple):
    """What a number of an action could have been: in its unit, and how probable it was."""

    value: float
    probability: float


@dataclasses.dataclass(frozen=True, eq=False)
class Decision:
    """What the policy does next.

    Probabilities are of the model restricted to the grammar, at temperature 1 whatever it was drawn with.

    Attributes:
      action: float32 [L]: the terminate flag (1 = terminate) where the action space has one, then its
        dimensions (dx dy dz drx dry drz gripper) in its units.
      log_prob: log-probability of the whole answer (plan and action), nats.
      entropies: float32 [L], nats: how undecided the model was about each number of the action.
      plan: the plan's text, '' without one.
      tokens: int32 [L], the ids that the action was written in.
      log_probs: float32 [L], nats, of each number given all that is before it; their sum is the action's
        log-probability, given the plan.
      plan_tokens: int32 [K], the ids before the action: plan and "Action:"; none where it acted at once.
      alternatives: of each number of the action the likeliest values, from the likeliest on, given the
        numbers before it; () where none were asked for. Fewer where there are fewer (a flag has two).
    """

    action: np.ndarray
    log_prob: float
    entropies: np.ndarray
    plan: str
    tokens: np.ndarray
    log_probs: np.ndarray
    plan_tokens: np.ndarray
    alternatives: tuple[tuple[Alternative, ...], ...] = ()


def decided(answer: Answer, actions: ActionTokenizer, tokenizer: Tokenizer) -> Decision:
    """The decision that an answer of the kinds ACTION or PLAN holds."""
    length = actions.length
    tokens, plan_tokens = answer.ids[-length:], answer.ids[:-length]
    return Decision(
        action=actions.decode(tokens),
        log_prob=float(answer.log_probs.sum()),
        entropies=answer.entropies[-length:],
        plan=prompts.plan_text(tokenizer.decode(plan_tokens.tolist())),
        tokens=tokens,
        log_probs=answer.log_probs[-length:],
        plan_tokens=plan_tokens,
        alternatives=_alternatives(answer, actions) if answer.likeliest else (),
    )


def _alternatives(answer: Answer, actions: ActionTokenizer) -> tuple[tuple[Alternative, ...], ...]:
    length = actions.length
    ids, log_probs = (x[-length:] for x in answer.likeliest)
    found = []
    for place in range(length):
        there = log_probs[place] > -np.inf
        # Whole actions that differ in this number alone, since an id has its meaning by its place.
        rows = np.tile(answer.ids[-length:], (there.sum(), 1))
        rows[:, place] = ids[place, there]
        values = actions.decode(rows)[:, place]
        probabilities = np.exp(log_probs[place, there])
        found.append(tuple(map(Alternative, values.tolist(), probabilities.tolist())))
    return tuple(found)
