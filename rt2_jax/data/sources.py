"""Opens what a config's `data` part names: robot episodes and everything around them."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from rt2_jax.data.robot import sources as robot_sources, splits
from rt2_jax.data.schedules import Schedule
from rt2_jax.data.web import small_web, sources as web_sources, splits as web_splits
from rt2_jax.nearest import check

INDEXES = 'indexes'  # in a run's directory: the indexes of its data
WEIGHTS_PER = ('source', 'step')
WEB_KINDS = ('small', *web_sources.KINDS)


def open_sources(data: Any, indexes: epath.PathLike | None = None) -> tuple[dict, dict]:
    """Opens the sources of `config.data`.

    What a set holds out is left out. Weights are numbers or schedules; those of robot sets count for
    the set, or for each of its steps where `weights_per` is 'step'.

    Args:
      data: the config's `data` part (see configs/tabletop.py and `robot_sources.open_robot`).
      indexes: as for `rlds.open_source`, for all sets.

    Returns:
      Two dicts, name -> (source, weight): the robot's side of the mixture and the web's.
    """
    robot, others = {}, {}
    per_step = check('data.weights_per', data.get('weights_per', 'source'), WEIGHTS_PER) == 'step'
    for name, given in data.robot.items():
        acting, asking = robot_sources.open_robot(
            name, given, data, per_step=per_step, indexes=indexes
        )
        _add(robot, acting, others)
        _add(others, asking, robot)
    for name, given in data.web.items():
        _add(others, {name: _web_set(name, given, data, indexes=indexes)}, robot)
    return robot, others


def holds_out(config: Any) -> bool:
    """Whether a config has anything to validate on."""
    sets = [*config.data.robot.values(), *config.data.web.values()]
    own = config.validation
    return bool(own.robot or own.web or any(given.get('holdout', 0) for given in sets))


def open_validation(
    config: Any, trained: Mapping[str, Any], indexes: epath.PathLike | None = None
) -> tuple[dict, dict]:
    """Opens what is never trained on: what sets hold out, and the sets of `config.validation`.

    Args:
      config: a run's config.
      trained: the sources that are trained on, by name.
      indexes: as for `rlds.open_source`, for all sets.

    Returns:
      As `open_sources`; every source weighs the same.

    Raises:
      holdouts.Leakage: an episode or a record is trained on as well.
      ValueError: there is nothing, or two sources of one name.
    """
    robot, others = {}, {}
    data, own = config.data, config.validation
    if not holds_out(config):
        raise ValueError(
            'nothing is held out: set config.data.robot.NAME.holdout or '
            'config.data.web.NAME.holdout, or config.validation.robot or .web'
        )
    for name, given, part in _held_out(data.robot, own.robot, 'robot'):
        acting, asking = robot_sources.open_robot(name, given, data, part, indexes=indexes)
        _add(robot, acting, others)
        _add(others, asking, robot)
    for name, given, part in _held_out(data.web, own.web, 'web'):
        _add(others, {name: _web_set(name, given, data, part, indexes)}, robot)
    sources = {name: source for name, (source, _) in {**robot, **others}.items()}
    splits.check_apart(trained, sources)
    web_splits.check_apart(trained, sources)
    return tuple({name: (made[0], 1.0) for name, made in side.items()} for side in (robot, others))


def _add(side: dict, opened: Mapping[str, Any], other_side: Mapping[str, Any]) -> None:
    """Adds opened sources to one side of the mixture.

    Raises:
      ValueError: a source of this name is there already. A robot set NAME makes sources NAME_plans,
        NAME_tasks and NAME_frames, which another set may be called.
    """
    for name, source in opened.items():
        if name in side or name in other_side:
            maker = name.rpartition('_')[0]
            raise ValueError(
                f'two sources are called {name!r}: a data set of this name, and what the robot set '
                f'{maker!r} makes; rename one of the sets in the config'
            )
        side[name] = source


def _held_out(sets: Any, own: Any, side: str) -> list[tuple[str, Any, str]]:
    """Name, fields and part of each set that is validated on."""
    held = [name for name, given in sets.items() if given.get('holdout', 0)]
    if both := sorted(set(held) & set(own)):
        raise ValueError(f'{both} are held out and in config.validation.{side}; rename the latter')
    parts = [(name, sets[name], 'validation') for name in held]
    return parts + [(name, given, 'train') for name, given in own.items()]


def _web_set(
    name: str, given: Any, data: Any, part: str = 'train', indexes: epath.PathLike | None = None
) -> tuple[Any, Schedule]:
    """A web set of the `kind` that is given, by default the small web, and its weight."""
    given = dict(given)
    weight = Schedule.from_config(given.pop('weight'))
    kind = check(f'config.data.web.{name}.kind', given.pop('kind', 'small'), WEB_KINDS)
    if kind == 'small':
        if given.pop('holdout', 0):
            raise ValueError(
                f'config.data.web.{name}.holdout: the small web is made up as it is read, so none of '
                'it can be held out; validate on one of another seed, in config.validation.web'
            )
        kinds = dict(given.pop('kinds'))
        kinds = {'kinds': kinds} if kinds else {}
        return small_web.SmallWeb(name=name, size=data.image_size, **kinds, **given), weight
    for field in ('tasks', 'fields', 'languages'):
        given[field] = dict(given.get(field) or {})
    given |= {'name': name, 'part': part, 'on_corrupt': data.on_corrupt, 'indexes': indexes}
    return web_sources.open_source(kind, **given), weight
