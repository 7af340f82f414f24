"""What a world offers, so that `evaluate` can play in it: the tabletop, others of this folder, or your own.

A `World` says what there is to play and for which robot. An `Environment` is one robot at work in it,
episode after episode. rt2_jax/envs/README.md shows both in one short file.

A suite is written WORLD/NAME; NAME alone is a suite of the tabletop. WORLD is a key of WORLDS, or any
module that can be imported and has a `WORLD`, as in `--suite=my_lab.arm_world/stack`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
import dataclasses
import importlib
import importlib.util
import inspect
from typing import Any, NamedTuple, Protocol

import numpy as np

from rt2_jax.data.robot_card import RobotCard
from rt2_jax.errors import MissingPackage, UserError
from rt2_jax.nearest import check, nearest


class WorldError(UserError, TypeError):
    """A world is not as this file has it."""


class _Place(NamedTuple):
    """Where a world is: the module that has its WORLD, a package that it needs, and what installs it."""

    module: str
    package: str
    install: str


WORLDS = {
    'tabletop': _Place(
        'rt2_jax.envs.tabletop.tabletop_world', 'mujoco', "pip install 'rt2_jax[sim]'"
    ),
    'language_table': _Place(
        'rt2_jax.envs.language_table.language_table_world',
        'language_table',
        'bash launch/worlds.sh language_table CLONE',
    ),
    'metaworld': _Place(
        'rt2_jax.envs.metaworld.metaworld_world', 'metaworld', 'bash launch/worlds.sh metaworld'
    ),
    'libero': _Place('rt2_jax.envs.libero.libero_world', 'libero', 'bash launch/worlds.sh libero'),
    'ogbench': _Place(
        'rt2_jax.envs.ogbench.ogbench_world', 'ogbench', 'bash launch/worlds.sh ogbench'
    ),
}
DEFAULT = 'tabletop'
OTHER_WORDS = '_other_words'  # ends the name of a suite's twin that asks in words of no episode


@dataclasses.dataclass(frozen=True, eq=False)
class Observation:
    """What a robot sees and is told.

    Attributes:
        images: frames uint8 [H, W, 3] RGB, by camera. A policy sees those whose names it was trained with,
            or the first, where it names none.
        instruction: what it is told to do, the same all through an episode.
        state: float [K], what it feels of itself, in the numbers of its data; None where the world has no
            such thing.
    """

    images: Mapping[str, np.ndarray]
    instruction: str
    state: np.ndarray | None = None


class Episode(NamedTuple):
    """How an episode begins: its first observation, its kind of task, and its group in the results."""

    observation: Observation
    task: str
    group: str


@dataclasses.dataclass(frozen=True)
class Recognition:
    """Which object an episode went to, from a world that knows where its objects are.

    X is the object that the instruction is about, Y the one that it is to be brought to.

    Attributes:
        objects: how many there were to choose from.
        first: name of the object that the robot went to first; '' for none.
        first_is_x: whether that is X.
        brought_to: name of the object that X ended nearest to, where it was to be brought to another
            and was moved; '' otherwise.
        brought_to_y: whether that is Y.
    """

    objects: int
    first: str = ''
    first_is_x: bool = False
    brought_to: str = ''
    brought_to_y: bool = False


class Environment(Protocol):
    """One robot at work: reset, then step until it is over, then reset again.

    Nothing here ends an episode for the policy's sake: who plays counts the steps and heeds `terminate`.
    """

    @property
    def success(self) -> bool:
        """Whether the goal is reached, in the world's own sense."""
        ...

    @property
    def over(self) -> bool:
        """Whether the world itself has ended the episode, as some do at the first success."""
        ...

    @property
    def clipped(self) -> int:
        """How many numbers of this episode's commands were outside their range, and were clipped."""
        ...

    @property
    def out_of_reach(self) -> int:
        """How many of this episode's goals were outside the robot's reach, and were moved inside."""
        ...

    def reset(self, seed: int, task: str | None = None) -> Episode:
        """Begins episode `seed` of the suite, of this kind of task; None leaves that to the seed."""
        ...

    def step(self, command: np.ndarray) -> Observation:
        """Carries out one action, float [D] in the card's order and the robot's own numbers."""
        ...

    def expert(self) -> np.ndarray:
        """What the scripted expert does now: float32 [terminate + D], an action in the card's sense."""
        ...

    def recognition(self) -> Recognition | None:
        """Which object the episode went to so far; None where the world does not know."""
        ...

    def render(self) -> np.ndarray:
        """What a video shows now: uint8 [R, R, 3]."""
        ...

    def close(self) -> None:
        """Frees what the environment holds."""
        ...


class Make(Protocol):
    """What makes an environment of a suite, a class for example."""

    def __call__(
        self, suite: str, *, image_size: int, render_size: int, execution_noise: float
    ) -> Environment:
        """An environment.

        Args:
            suite: a name of the world's suites.
            image_size: height and width of the frames observed, pixels.
            render_size: height and width of the frames of videos, pixels.
            execution_noise: what is carried out is the command plus Gaussian noise of this share of
                the command and of a usual step.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """What there is to play, and for which robot.

    Attributes:
        name: its key in WORLDS.
        card: of its robot: names and units of an action's numbers, the sense of its gripper, its rate.
        suites: what each suite measures, by name, in a line.
        tasks: the kinds of task.
        max_steps: an episode's longest length, in actions.
        make: makes an environment; what it needs to import it imports then.
        has_expert: whether its environments have a scripted expert.
    """

    name: str
    card: RobotCard
    suites: Mapping[str, str]
    tasks: tuple[str, ...]
    max_steps: int
    make: Make
    has_expert: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.suites, Mapping) or isinstance(self.tasks, str):
            raise WorldError(
                f'World {self.name!r}: suites are a mapping of names to summaries, tasks a tuple of names'
            )
        if not isinstance(self.max_steps, int) or self.max_steps < 1:
            raise WorldError(f'World {self.name!r}: max_steps is {self.max_steps!r}, not 1 or more')


def make_environment(world: World, suite: str, **sizes: Any) -> Environment:
    """An environment of a suite; `sizes` as for `Make`.

    Raises:
        WorldError: it lacks a method of `Environment`.
    """
    env = world.make(suite, **sizes)
    _check_has(env, _METHODS if world.has_expert else _METHODS - {'expert'})
    return env


def check_episode(env: Environment, begun: Any) -> Episode:
    """What `reset` gave, as an Episode.

    Raises:
        WorldError: it is none, or the environment lacks an attribute now.
    """
    if not isinstance(begun, Episode):
        raise WorldError(f'reset of {_name(env)} gave {type(begun).__name__}, not a world.Episode')
    _check_has(env, _ATTRIBUTES)
    check_observation(env, 'reset', begun.observation)
    texts = dict(instruction=begun.observation.instruction, task=begun.task, group=begun.group)
    for what, text in texts.items():
        if not isinstance(text, str):
            raise WorldError(f'reset of {_name(env)}: the {what} is {text!r}, not a text')
    return begun


def check_observation(env: Environment, method: str, seen: Any) -> Observation:
    """What a method gave, as an Observation; WorldError if it is none."""
    if not isinstance(seen, Observation):
        raise WorldError(
            f'{method} of {_name(env)} gave {type(seen).__name__}, not a world.Observation'
        )
    if not seen.images:
        raise WorldError(f'{method} of {_name(env)} gave an observation without pictures')
    for name, image in seen.images.items():
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise WorldError(
                f'{method} of {_name(env)}: the picture {name!r} is {image.dtype} {list(image.shape)}, '
                'not uint8 [H, W, 3]'
            )
    return seen


_ATTRIBUTES = frozenset({'success', 'over', 'clipped', 'out_of_reach'})
_METHODS = frozenset(name for name in vars(Environment) if not name.startswith('_')) - _ATTRIBUTES


def _check_has(env: Environment, names: Collection[str]) -> None:
    missing = [name for name in sorted(names) if inspect.getattr_static(env, name, None) is None]
    if missing:
        raise WorldError(
            f'{_name(env)} lacks {", ".join(missing)}: rt2_jax/envs/world.py says what an Environment is'
        )


def _name(env: Environment) -> str:
    return type(env).__name__


def with_other_words(suites: Mapping[str, str]) -> dict[str, str]:
    """Suites and their summaries, and their twins that ask in other words."""
    twins = {
        f'{name}{OTHER_WORDS}': f'{summary}, in words that no episode has'
        for name, summary in suites.items()
    }
    return {**suites, **twins}


def open_world(name: str) -> World:
    """The world called `name`: a key of WORLDS, or a module that has a `WORLD`.

    Raises:
        ValueError: there is no such world.
        MissingPackage: a package that it needs is not installed.
    """
    # A module of one name that cannot be found is a misspelt world.
    if name.startswith('.') or ('.' not in name and not importlib.util.find_spec(name)):
        check('world', name, WORLDS)
    place = WORLDS.get(name, _Place(name, '', ''))
    if place.package and not importlib.util.find_spec(place.package):
        raise MissingPackage(f'The world {name}', place.package, remedy=place.install)
    try:
        module = importlib.import_module(place.module)
    except ModuleNotFoundError as error:
        package = str(error.name)
        if place.module.startswith(package):
            raise ValueError(
                f'There is no world {name}: Python finds no module {package}'
            ) from error
        remedy = place.install or f'pip install {package}'
        raise MissingPackage(f'The world {name}', package, remedy=remedy) from error
    world = getattr(module, 'WORLD', None)
    if not isinstance(world, World):
        raise ValueError(f'There is no world {name}: the module has no WORLD of the class World')
    return world


def find_suite(suite: str, others: Collection[str] = ()) -> tuple[World, str]:
    """The world of a suite, and the suite's name in it.

    Args:
        suite: WORLD/NAME, or NAME for one of the tabletop.
        others: names that the caller would have taken as well, for the error's message.

    Raises:
        ValueError: there is no such world or suite; names the nearest one.
        MissingPackage: as `open_world`.
    """
    world_name, _, name = suite.rpartition('/')
    world = open_world(world_name or DEFAULT)
    if name not in world.suites:
        raise ValueError(f'Unknown suite {suite!r}{nearest(name, {*world.suites, *others})}')
    return world, name
