"""Selects the robot, and so the action space, that a checkpoint of several robots acts for."""

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
        card: None where no card of it is known.
        state_space: of the states in its prompts; None where they have none.
    """

    name: str
    action_space: ActionSpace
    card: RobotCard | None
    state_space: ActionSpace | None = None


def source_cards(config: Any, spaces: Mapping[str, ActionSpace]) -> dict[str, RobotCard]:
    """The card of each robot set of a config and of each source, where one is known.

    A source has its robot set's card, or else that of its own name.

    Args:
        config: of a run.
        spaces: action space of each source that has actions, by name.
    """
    robots = {**config.get('validation', {}).get('robot', {}), **config.data.get('robot', {})}
    names = {name: _card_name(name, robots) or name for name in (*robots, *spaces)}
    cards = {name: robot_cards.known(card) for name, card in names.items()}
    return {name: card for name, card in cards.items() if card}


def select_source(
    name: str, default: Source, spaces: Mapping[str, ActionSpace], cards: Mapping[str, RobotCard]
) -> Source:
    """The source to act for.

    Args:
        name: of the source; '' for the only one, or else that of the run's own embodiment.
        default: card and action space of the embodiment that the config names; its `name` is the
            config's.
        spaces: of each source, by name.
        cards: of each source, by name.

    Raises:
        ValueError: no source has this name, or none was named and several could be meant.
    """
    if name and name not in spaces:
        raise ValueError(
            f'no action space of a source {name!r}' + nearest(name, spaces)
            if spaces
            else f'no action space of a source {name!r}, for the run learnt from no robot'
        )
    sources = {source: Source(source, x, cards.get(source)) for source, x in spaces.items()}
    if name:
        return sources[name]
    if not sources:
        return dataclasses.replace(default, name='')
    card_name = lambda source: source.card.name if source.card else source.name
    matching = [source for source in sources.values() if card_name(source) == default.name]
    # Where one card has several ranges, the run recorded which it acts in: see `run_action_space`.
    matching.sort(key=lambda source: source.action_space != default.action_space)
    if matching:
        return matching[0]
    if len({(source.action_space, source.card) for source in sources.values()}) > 1:
        raise ValueError(
            'several robots to act for, and the config names none of them '
            f'(config.embodiment={default.name!r}): say which source'
            + nearest(default.name, sources)
        )
    return next(iter(sources.values()))


def run_action_space(
    config: Any, card: RobotCard, spaces: Mapping[str, ActionSpace]
) -> ActionSpace:
    """The action space of the robot that a run's policy acts for.

    Args:
        config: the run's config, whose data.robot says which card each robot set has.
        card: of the robot that is acted for.
        spaces: action space of each source that has actions, by name.

    Returns:
        The space of the sources with this card, of the source of its name, or that of all sources;
        the card's own where there are none (a run without robots).

    Raises:
        ValueError: the sources have several spaces, and none is the card's.
    """
    cards = source_cards(config, spaces)
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
        'The card %r has other ranges in %s than in %s. The policy acts in those of %s unless another '
        'source is selected.',
        card.name,
        others,
        own[0],
        own[0],
    )
    return spaces[own[0]]


def _card_name(source: str, robots: Mapping[str, Any]) -> str:
    """The card of a source: the robot set NAME makes the source NAME and others, NAME_..."""
    sets = [name for name in robots if source == name or source.startswith(f'{name}_')]
    return robots[max(sets, key=len)].get('card', '') if sets else ''
