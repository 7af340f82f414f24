"""Opens what a config's `data` part names: robot episodes and everything around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etils import epath

from rt2_jax.data.data_config import DataConfig, SmallWebSet, WebSet
from rt2_jax.data.example import Source
from rt2_jax.data.mixture import Sources, Weighted
from rt2_jax.data.robot import episode_splits, open_robot
from rt2_jax.data.web import open_web, record_splits

INDEXES = 'indexes'  # in a run's directory: the indexes of its data


def open_sources(data: DataConfig, indexes: epath.PathLike | None = None) -> Sources:
    """Opens the sets of a run, without what they hold out.

    Args:
        data: the config's `data` part.
        indexes: as for `rlds.open_index`, for all sets.

    Raises:
        ValueError: two sources of one name.
    """
    opened = Sources({}, {})
    for robot_set in data.robot.values():
        per_step = data.weights_per == 'step'
        _add(opened, open_robot.open_robot(robot_set, per_step=per_step, indexes=indexes))
    for name, web_set in data.web.items():
        _add(opened, Sources({}, {name: _open_web(web_set, indexes=indexes)}))
    return opened


def holds_out(config: Any) -> bool:
    """Whether a config has anything to validate on."""
    sets = [*config.data.robot.values(), *config.data.web.values()]
    own = config.validation
    return bool(own.robot or own.web or any(fields.get('holdout', 0) for fields in sets))


def open_validation(
    config: Any, trained: Mapping[str, Source], indexes: epath.PathLike | None = None
) -> Sources:
    """Opens what is never trained on: what sets hold out, and the sets of `config.validation`.

    Args:
        config: a run's config.
        trained: the sources that are trained on, by name.
        indexes: as for `rlds.open_index`, for all sets.

    Returns:
        As `open_sources`; every source weighs the same.

    Raises:
        holdouts.Leakage: an episode or a record is trained on as well.
        ValueError: there is nothing, or two sources of one name.
    """
    if not holds_out(config):
        raise ValueError(
            'nothing is held out: set config.data.robot.NAME.holdout or '
            'config.data.web.NAME.holdout, or config.validation.robot or .web'
        )
    data = DataConfig.from_config(config.data)
    robot = data.robot_sets('config.validation', config.validation.robot)
    web = data.web_sets('config.validation', config.validation.web)
    opened = Sources({}, {})
    for robot_set, part in _held_out(data.robot, robot, 'robot'):
        _add(opened, open_robot.open_robot(robot_set, part, indexes=indexes))
    for web_set, part in _held_out(data.web, web, 'web'):
        _add(opened, Sources({}, {web_set.name: _open_web(web_set, part, indexes)}))
    validated = opened.by_name()
    episode_splits.check_apart(trained, validated)
    record_splits.check_apart(trained, validated)
    return Sources.of(*({name: (source, 1.0) for name, (source, _) in s.items()} for s in opened))


def _add(opened: Sources, more: Sources) -> None:
    """Adds sources to those that are open.

    Raises:
        ValueError: a source of this name is there already. A robot set NAME makes sources NAME_plans,
            NAME_tasks and NAME_frames, which another set may be called.
    """
    for name in more.by_name():
        if name in opened.robot or name in opened.web:
            maker = name.rpartition('_')[0]
            raise ValueError(
                f'two sources are called {name!r}: a data set of this name, and what the robot set '
                f'{maker!r} makes; rename one of the sets in the config'
            )
    opened.robot.update(more.robot)
    opened.web.update(more.web)


def _held_out(sets: Mapping[str, Any], own: Mapping[str, Any], side: str) -> list[tuple[Any, str]]:
    """Each set that is validated on, and which part of it."""
    held = [name for name, data_set in sets.items() if data_set.holdout]
    if both := sorted(set(held) & set(own)):
        raise ValueError(f'{both} are held out and in config.validation.{side}; rename the latter')
    parts = [(sets[name], 'validation') for name in held]
    return parts + [(data_set, 'train') for data_set in own.values()]


def _open_web(
    web_set: WebSet | SmallWebSet, part: str = 'train', indexes: epath.PathLike | None = None
) -> Weighted:
    if isinstance(web_set, SmallWebSet):
        return Weighted(web_set.source, web_set.weight)
    return Weighted(open_web.open_set(web_set, part, indexes), web_set.weight)
