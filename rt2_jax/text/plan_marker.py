"""The token ids of "Action:" at the end of a plan, before the action's tokens.

A tokenizer without a dummy prefix, such as Gemma's, encodes "Action:" as "Ac tion :" at the beginning of
a text and as "▁Action :" behind a space. So training and decoding both take the ids from plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rt2_jax.text import prompts

if TYPE_CHECKING:
    from rt2_jax.text.tokenizer import Tokenizer

_PLANS = ('pick banana', 'move to 410 530', 'push the (red) one left', "it's hot, drink")


def marker_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that end every plan.

    Args:
        tokenizer: of the plans.

    Raises:
        ValueError: "Action:" is encoded together with the words before it or the integers after it, or
            differently behind different words.
    """
    markers = {_marker_behind(tokenizer, text) for text in _PLANS}
    if len(markers) > 1:
        raise ValueError(
            f'the tokenizer has several forms of {prompts.ACTION_MARKER!r} at the end of a plan: '
            f'{sorted(markers)}; decoding needs a single one'
        )
    return markers.pop()


def is_plan(ids: Sequence[int], marker: Sequence[int]) -> bool:
    """Whether `marker` ends `ids` and stands nowhere else in them."""
    length, ids, marker = len(marker), list(ids), list(marker)
    starts = [i for i in range(len(ids) - length + 1) if ids[i : i + length] == marker]
    return starts == [len(ids) - length]


def _marker_behind(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    plan = prompts.plan(text)
    words = plan.removesuffix(prompts.ACTION_MARKER).rstrip()
    ids, before = tokenizer.encode(plan), tokenizer.encode(words)
    if ids[: len(before)] != before or len(ids) == len(before):
        raise ValueError(
            f'{words!r} has the token ids {before}, but {plan!r} has {ids}; the tokenizer must split '
            f'{prompts.ACTION_MARKER!r} off'
        )
    if tokenizer.encode(f'{plan} 1 128') != [*ids, *tokenizer.integer_ids[[1, 128]].tolist()]:
        raise ValueError(
            f'the tokenizer joins {prompts.ACTION_MARKER!r} to the integers behind it; an action must '
            'have a token for each of its integers'
        )
    return tuple(ids[len(before) :])
