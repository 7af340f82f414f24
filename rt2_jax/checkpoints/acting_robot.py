"""Which robot a policy acts for, and so in which action space, where its run learnt from several."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from absl import logging

from rt2_jax.data import cards as robot_cards
from rt2_jax.data.robot_card import RobotCard
from rt2_jax.nearest import nearest
from rt2_jax.text.actions import ActionSpace


@dataclasses.dataclass(frozen=True)
class Source:
    """A robot data set that a policy can act for.

    Attributes:
        name: '' where the run learnt from no robot.
        action_space: with the ranges that the run was trained in.
        card: None where its set has none that is known.
    """

    name: str
    action_space: ActionSpace
    card: RobotCard | None


def cards_of(config: Any, spaces: Mapping[str, ActionSpace]) -> dict[str, RobotCard]:
    """The card of each robot set of a config, and of each source of `spaces`.

    A source has its robot set's card, or else that of its own name; without either it is left out.
    """
    robots = {**config.get('validation', {}).get('robot', {}), **config.data.get('robot', {})}
    names = {name: _card_of(name, robots) or name for name in (*robots, *spaces)}
    cards = {name: robot_cards.known(card) for name, card in names.items()}
    return {name: card for name, card in cards.items() if card}


def choose(
    wanted: str, own: Source, spaces: Mapping[str, ActionSpace], cards: Mapping[str, RobotCard]
) -> Source:
    """The source to act for.

    Args:
        wanted: its name; '' for the only one, or else that of the run's own embodiment.
        own: card and action space of the embodiment that the config names; `name` is the config's.
        spaces, cards: of each source, by name.

    Raises:
        ValueError: no source has this name, or none was wanted and several could be meant.
    """
    if wanted and wanted not in spaces:
        raise ValueError(
            f'no action space of a source {wanted!r}' + nearest(wanted, spaces)
            if spaces
            else f'no action space of a source {wanted!r}, for the run learnt from no robot'
        )
    sources = {name: Source(name, space, cards.get(name)) for name, space in spaces.items()}
    if wanted:
        return sources[wanted]
    if not sources:
        return dataclasses.replace(own, name='')
    called = lambda source: source.card.name if source.card else source.name
    meant = [source for source in sources.values() if called(source) == own.name]
    # Where one card has several ranges, the run was told which one it acts in: see `acted_on`.
    meant.sort(key=lambda source: source.action_space != own.action_space)
    if meant:
        return meant[0]
    if len({(source.action_space, source.card) for source in sources.values()}) > 1:
        raise ValueError(
            'several robots to act for, and the config names none of them '
            f'(config.embodiment={own.name!r}): say which source' + nearest(own.name, sources)
        )
    return next(iter(sources.values()))


def acted_on(config: Any, card: RobotCard, spaces: Mapping[str, ActionSpace]) -> ActionSpace:
    """The action space of the robot that a run's policy acts for.

    Args:
        config: the run's config, whose data.robot says which card each robot set has.
        card: of the robot that is acted for.
        spaces: action space of each source that has actions, by name.

    Returns:
        The space of the sources with this card, of the source of its name, or that of all sources;
        the card's own where there are none (a run without robots).

    Raises:
        ValueError: the sources have several spaces, and none is said to be the card's.
    """
    cards = cards_of(config, spaces)
    own = [name for name in spaces if name in cards and cards[name].name == card.name]
    own = own or [name for name in spaces if name == card.name] or list(spaces)
    if not own:
        return card.action_space
    others = [name for name in own if spaces[name] != spaces[own[0]]]
    if not others:
        return spaces[own[0]]
    if own[0] not in cards or cards[own[0]].name != card.name:
        raise ValueError(
            f'config.embodiment={card.name!r} is the card of no robot set, and those that there are '
            f'({", ".join(own)}) have different action spaces; name the card of one of them'
        )
    logging.warning(
        'The card %r has other ranges in %s than in %s, whose ranges the policy will act in unless it '
        'is told another of them.',
        card.name,
        others,
        own[0],
    )
    return spaces[own[0]]


def _card_of(source: str, robots: Mapping[str, Any]) -> str:
    """The card of a source: the robot set NAME gives the source NAME and others, NAME_..."""
    sets = [name for name in robots if source == name or source.startswith(f'{name}_')]
    return robots[max(sets, key=len)].get('card', '') if sets else ''
