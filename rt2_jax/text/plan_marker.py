"""The token ids of "Action:" at the end of a plan, where the action's tokens begin.

Alone, "Action:" may be other pieces than in a sentence: a tokenizer without a dummy prefix, such as
Gemma's, has "Ac tion :" at the beginning of a text and "▁Action :" behind a space. So the ids are taken
from plans, by training and by decoding alike.
"""

from collections.abc import Sequence
from typing import Any

from rt2_jax.text import prompts

_PLANS = ('pick banana', 'move to 410 530', 'push the (red) one left', "it's hot, drink")


def marker_ids(tokenizer: Any) -> tuple[int, ...]:
    """The ids that end every plan.

    Args:
        tokenizer: a `Tokenizer`.

    Raises:
        ValueError: "Action:" is tokenised together with the words before it or the integers after it, or
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
    places = [i for i in range(len(ids) - length + 1) if ids[i : i + length] == marker]
    return places == [len(ids) - length]


def _marker_behind(tokenizer: Any, text: str) -> tuple[int, ...]:
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
