"""What a draft says of one field of a card, and the words in features' names that it goes by."""

from __future__ import annotations

import re
from typing import NamedTuple


class Guess(NamedTuple):
    """What was guessed about a field.

    Attributes:
        field: of the card.
        value: the guess, in words.
        why: numbers or names that speak for it.
        check: what a person must look at; '' for nothing.
    """

    field: str
    value: str
    why: str
    check: str = ''


def is_named(path: str, *beginnings: str) -> bool:
    """Whether a word of a feature's path begins so: 'gripper_closedness' with 'clos'."""
    words = re.findall(r'[a-z]+', path.lower())
    return any(word.startswith(beginnings) for word in words)


def card_path(path: str) -> str:
    """The schema's path as a card has it: relative to a step, or '/path' for the episode's."""
    return path.removeprefix('steps/') if path.startswith('steps/') else f'/{path}'


def percent(share: float) -> str:
    """A share in words: '37 %', with a digit more where it is small."""
    return (
        f'{share:.0%}'.replace('%', ' %') if share >= 0.1 or not share else f'{100 * share:.2g} %'
    )
