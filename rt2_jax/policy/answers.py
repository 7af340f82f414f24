"""What a policy answers to an instruction."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from rt2_jax.decoding.sampler import Samples
from rt2_jax.text import prompts
from rt2_jax.text.actions import ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer


class Alternative(NamedTuple):
    """A candidate value for one number of an action, in its unit, and its probability."""

    value: float
    probability: float


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """The policy's answer to an instruction: an action, after a plan if it plans.

    Probabilities are of the model restricted to the grammar, at temperature 1 whatever the tokens
    were drawn with.

    Attributes:
        action: float32 [L]: the terminate flag (1 = terminate) where the action space has one, then
            its dimensions (dx dy dz drx dry drz gripper) in its units.
        log_prob: log-probability of the whole answer (plan and action), nats.
        entropies: float32 [L], nats: how undecided the model was about each number of the action.
        plan: the plan's text, '' without one.
        tokens: int32 [L], token ids of the action.
        log_probs: float32 [L], nats, of each number given all tokens before it; their sum is the
            action's log-probability, given the plan.
        plan_tokens: int32 [K], token ids before the action: plan and "Action:"; empty without a plan.
        alternatives: for each number of the action the likeliest values, likeliest first, given the
            numbers before it; () where none were asked for. A flag has two at most.
    """

    action: np.ndarray
    log_prob: float
    entropies: np.ndarray
    plan: str
    tokens: np.ndarray
    log_probs: np.ndarray
    plan_tokens: np.ndarray
    alternatives: tuple[tuple[Alternative, ...], ...] = ()


def decode_answer(samples: Samples, actions: ActionTokenizer, tokenizer: Tokenizer) -> Answer:
    """The answer of kind ACTION or PLAN in one sample of `Runner.run`."""
    length = actions.length
    tokens, log_probs, entropies = map(
        np.asarray, (samples.tokens, samples.log_probs, samples.entropies)
    )
    tokens, plan_tokens = tokens[-length:], tokens[:-length]
    return Answer(
        action=actions.decode(tokens),
        log_prob=float(log_probs.sum()),
        entropies=entropies[-length:],
        plan=prompts.plan_text(tokenizer.decode(plan_tokens.tolist())),
        tokens=tokens,
        log_probs=log_probs[-length:],
        plan_tokens=plan_tokens,
        alternatives=_alternatives(tokens, samples.top_k, actions) if samples.top_k else (),
    )


def _alternatives(
    tokens: np.ndarray, top_k: tuple[Any, Any], actions: ActionTokenizer
) -> tuple[tuple[Alternative, ...], ...]:
    ids, log_probs = (np.asarray(x)[-len(tokens) :] for x in top_k)
    alternatives = []
    for position in range(len(tokens)):
        allowed = log_probs[position] > -np.inf
        # A token's meaning depends on its position, so whole actions are decoded that differ in this
        # number alone.
        candidates = np.tile(tokens, (allowed.sum(), 1))
        candidates[:, position] = ids[position, allowed]
        values = actions.decode(candidates)[:, position]
        probabilities = np.exp(log_probs[position, allowed])
        alternatives.append(tuple(map(Alternative, values.tolist(), probabilities.tolist())))
    return tuple(alternatives)
