"""Opens what a config's `data` part names: robot episodes and everything around them."""

from collections.abc import Mapping
from typing import Any

from rt2_jax.data.robot import sources as robot_sources, splits
from rt2_jax.data.schedules import Schedule
from rt2_jax.data.web import small_web, sources as web_sources
from rt2_jax.nearest import check

WEIGHTS_PER = ('source', 'step')
WEB_KINDS = ('small', *web_sources.KINDS)


def open_sources(data: Any) -> tuple[dict, dict]:
    """Opens the sources of `config.data`.

    Of a robot set the episodes in `holdout` are left out. Weights are numbers or schedules; those of
    robot sets count for the set, or for each of its steps where `weights_per` is 'step'.

    Args:
      data: the config's `data` part (see configs/tabletop.py and `robot_sources.open_robot`).

    Returns:
      Two dicts, name -> (source, weight): the robot's side of the mixture and the web's.
    """
    robot, others = {}, {}
    per_step = check('data.weights_per', data.get('weights_per', 'source'), WEIGHTS_PER) == 'step'
    for name, given in data.robot.items():
        acting, asking = robot_sources.open_robot(name, given, data, per_step=per_step)
        robot |= acting
        others |= asking
    for name, given in data.web.items():
        others[name] = _web_set(name, given, data)
    return robot, others


def open_validation(config: Any, trained: Mapping[str, Any]) -> tuple[dict, dict]:
    """Opens what is never trained on: the held-out episodes, and the sets of `config.validation`.

    Args:
      config: a run's config.
      trained: the sources that are trained on, by name.

    Returns:
      As `open_sources`; every source weighs the same.

    Raises:
      splits.Leakage: an episode is trained on as well.
      ValueError: there is nothing, or two sources of one name.
    """
    robot, others = {}, {}
    data, own = config.data, config.validation
    held_out = {name: given for name, given in data.robot.items() if given.get('holdout', 0)}
    if both := sorted(set(held_out) & set(own.robot)):
        raise ValueError(f'{both} are held out and in config.validation.robot; rename the latter')
    for part, sets in (('validation', held_out), ('train', own.robot)):
        for name, given in sets.items():
            acting, asking = robot_sources.open_robot(name, given, data, part)
            robot |= acting
            others |= asking
    for name, given in own.web.items():
        others[name] = _web_set(name, given, data)
    if not robot and not others:
        raise ValueError(
            'config.validation.every is set, but nothing is held out: set '
            'config.data.robot.NAME.holdout, or config.validation.robot or .web'
        )
    sources = {name: source for name, (source, _) in {**robot, **others}.items()}
    splits.check_apart(trained, sources)
    return tuple({name: (made[0], 1.0) for name, made in side.items()} for side in (robot, others))


def _web_set(name: str, given: Any, data: Any) -> tuple[Any, Schedule]:
    """A web set of the `kind` that is given, by default the small web, and its weight."""
    given = dict(given)
    weight = Schedule.from_config(given.pop('weight'))
    kind = check(f'config.data.web.{name}.kind', given.pop('kind', 'small'), WEB_KINDS)
    if kind == 'small':
        kinds = dict(given.pop('kinds'))
        kinds = {'kinds': kinds} if kinds else {}
        return small_web.SmallWeb(name=name, size=data.image_size, **kinds, **given), weight
    for part in ('tasks', 'fields', 'languages'):
        given[part] = dict(given.get(part) or {})
    return web_sources.open_source(kind, name=name, on_corrupt=data.on_corrupt, **given), weight
