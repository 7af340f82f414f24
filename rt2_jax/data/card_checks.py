"""Values of a card that have the right type and yet no meaning: the same numbers twice, or contradictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rt2_jax.data.robot_card import ActionPart, RobotCard

_LEAST_BINS_OF_GRIPPER = 3  # open, half-way or hold, closed


def check_values(card: RobotCard) -> None:
    """Raises ValueError, with the card and the field, for the first value that can't be meant."""
    for problem in _problems(card):
        raise ValueError(f'card {card.name!r}, {problem}')


def _problems(card: RobotCard) -> Iterator[str]:
    if not card.frequency > 0 or not math.isfinite(card.frequency):
        yield f'field frequency: it is {card.frequency}; steps a second, above 0, are needed'
    if twice := _twice(card.images):
        yield f'field images: {twice!r} is there twice'
    for field, parts in (('action', card.action), ('state', card.state)):
        if twice := _twice(_entries(parts)):
            yield f'field {field}: entry {twice[1]} of {twice[0]!r} is taken twice'
    for field, space in (('action_space', card.action_space), ('state_space', card.state_space)):
        if space and '' in space.names:
            yield f'field {field}: names[{space.names.index("")}] is empty'
        if space and (twice := _twice(space.names)):
            yield f'field {field}: two numbers are called {twice!r}; each needs a name of its own'
    if card.gripper and card.action_space.bins < _LEAST_BINS_OF_GRIPPER:
        yield (
            f'field action_space: bins is {card.action_space.bins}; a gripper needs at least '
            f'{_LEAST_BINS_OF_GRIPPER}: open, half-way and closed'
        )
    yield from _contradictions(card)


def _contradictions(card: RobotCard) -> Iterator[str]:
    names = card.action_space.names
    if (numbers := len(_entries(card.action))) != len(names):
        yield (
            f'field action: its parts have {numbers} dimensions, its action space has {len(names)}'
        )
    if card.gripper and 'gripper' not in names:
        yield (
            'field gripper: the card has a gripper, but no dimension is called so; call its dimension '
            f"'gripper' in action_space.names, which are {', '.join(names)}"
        )
    if not card.gripper and 'gripper' in names:
        yield (
            "field gripper: the card lacks a gripper, but action_space.names has 'gripper'; say what its "
            'values mean: {"kind": "absolute", "closed": 1.0, "open": 0.0}'
        )
    for what, has, needs in (
        ('a terminate flag', card.terminate_rule != 'none', card.action_space.terminate),
        ('a terminate path', card.terminate != '', card.terminate_rule in ('flag', 'argmax')),
    ):
        if has != needs:
            yield (
                f'field terminate_rule: the card {"has" if has else "lacks"} {what}, but its action '
                f'space and its terminate rule {"need" if needs else "have"} '
                f'{"one" if needs else "none"}'
            )
    if any(part.following for part in card.state):
        yield 'field state: a state is of the step itself, not `following`'
    numbers = len(_entries(card.state))
    if (space := card.state_space) and (space.terminate or len(space.names) != numbers):
        yield (
            f'field state_space: its state has {numbers} numbers, its state space {len(space.names)} and '
            f'{"a" if space.terminate else "no"} terminate flag; as many, and none, are needed'
        )


def _entries(parts: Sequence[ActionPart]) -> list[tuple[str, int, bool]]:
    return [(x.path, entry, x.following) for x in parts for entry in range(x.start, x.stop)]


def _twice(values: Sequence[Any]) -> Any:
    """The first value that comes a second time; None where all differ."""
    return next((value for i, value in enumerate(values) if value in values[:i]), None)
