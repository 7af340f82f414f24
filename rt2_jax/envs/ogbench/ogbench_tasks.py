"""What is to be done in OGBench's manipulation worlds, and in which words.

The package's own goals are pictures of where everything shall be. Here a goal is said: one cube or one
thing, in this project's own words, and the simulator's state judges it (`ogbench_arm`). The last wording of
a kind of task is never used in training: the suites `*_other_words` ask with it. The others are drawn, an
episode each.

Sides are those of the picture, whose camera looks towards the robot: x grows towards the camera, which is
near, and y to the right. Lengths are in metres.
"""

from __future__ import annotations

import dataclasses

import numpy as np

# The package's order (cube_env.py, _cube_colors), of which a suite has the first.
COLOURS = ('red', 'blue', 'orange', 'green')
# Within the package's workspace (manipspace_env.py), so that cubes there stay within reach.
PLACES = {
    'far left corner': (0.32, -0.24),
    'far right corner': (0.32, 0.24),
    'near left corner': (0.52, -0.24),
    'near right corner': (0.52, 0.24),
    'middle of the table': (0.42, 0.0),
}
CUBE_SIDE = 0.04
APART = 0.12  # between cubes' middles, so that the open fingers pass
FROM_PLACE = (
    0.14  # of every cube from the place where one is to go, or from the open drawer's handle
)
OPEN_HANDLE = (0.33, -0.13)
# Where cubes may lie: the package's, manipspace_env.py and scene_env.py.
LAYOUT = {'cube': ((0.3, -0.3), (0.55, 0.3)), 'scene': ((0.3, -0.07), (0.45, 0.18))}

# Of each kind of task; {x} is the thing that it is about, {y} where it is to go.
WORDINGS = {
    'place': (
        'put the {x} in the {y}',
        'move the {x} to the {y}',
        'bring the {x} to the {y}',
        'the {x} belongs in the {y}',
    ),
    'stack': (
        'put the {x} on the {y}',
        'stack the {x} on the {y}',
        'place the {x} on top of the {y}',
        'build a tower with the {x} above the {y}',
    ),
    'cube-in-drawer': (
        'put the cube in the drawer',
        'move the cube into the drawer',
        'place the cube inside the drawer',
        'store the cube in the drawer',
    ),
    'drawer-open': (
        'open the drawer',
        'pull the drawer out',
        'pull the drawer open',
        'slide the drawer out',
    ),
    'drawer-close': (
        'close the drawer',
        'push the drawer in',
        'push the drawer shut',
        'shut the drawer',
    ),
    'window-open': (
        'open the window',
        'slide the window open',
        'push the window open',
        'let some air in',
    ),
    'window-close': (
        'close the window',
        'slide the window shut',
        'push the window closed',
        'shut the window',
    ),
    'button-press': ('press the {x}', 'push the {x}', 'push the {x} down', 'poke the {x}'),
}
BUTTONS = ('left button', 'right button')


@dataclasses.dataclass(frozen=True)
class Kind:
    """One of the package's worlds.

    Attributes:
        cubes: how many.
        tasks: the kinds of task, keys of `WORDINGS`.
        things: names of all that an instruction may be about.
    """

    cubes: int
    tasks: tuple[str, ...]
    things: tuple[str, ...]


def _cubes(count: int) -> Kind:
    things = tuple(f'{colour} cube' for colour in COLOURS[:count])
    return Kind(count, ('place', 'stack') if count > 1 else ('place',), things)


SUITES = {
    'cube-single': _cubes(1),
    'cube-double': _cubes(2),
    'cube-triple': _cubes(3),
    'cube-quadruple': _cubes(4),
    'scene': Kind(1, tuple(WORDINGS)[2:], ('cube', 'drawer', 'window', *BUTTONS)),
}


@dataclasses.dataclass(frozen=True)
class Goal:
    """What an episode is about.

    Attributes:
        task: the kind of task, a key of `WORDINGS`.
        x: number of the thing that it is about, in the suite's `things`.
        y: number of the cube that X is to stand on; -1 where there is none.
        place: a key of `PLACES`, where X is to be brought there; '' otherwise.
        instruction: what the robot is told.
    """

    task: str
    x: int
    y: int
    place: str
    instruction: str


def draw_goal(suite: str, task: str, other_words: bool, rng: np.random.Generator) -> Goal:
    """The goal of an episode of this kind of task; what it is about is drawn."""
    things = SUITES[suite].things
    x, y, place = int(rng.integers(len(things))), -1, ''
    if task == 'place':
        place = str(rng.choice(list(PLACES)))
    elif task == 'stack':
        y = (x + 1 + int(rng.integers(len(things) - 1))) % len(things)
    elif task == 'button-press':
        x = things.index(str(rng.choice(BUTTONS)))
    else:
        x = things.index(task.partition('-')[0])
    wordings = WORDINGS[task]
    wording = wordings[-1] if other_words else str(rng.choice(wordings[:-1]))
    return Goal(task, x, y, place, wording.format(x=things[x], y=place or things[y]))


def draw_layout(goal: Goal, suite: str, rng: np.random.Generator) -> np.ndarray:
    """Where the cubes lie at first: float [n, 2], apart from each other and from the goal's place."""
    low, high = LAYOUT[suite.partition('-')[0]]
    count = SUITES[suite].cubes
    free = PLACES.get(goal.place, OPEN_HANDLE if goal.task == 'cube-in-drawer' else None)
    while True:
        cubes = rng.uniform(low, high, (count, 2))
        apart = np.linalg.norm(cubes[:, None] - cubes, axis=-1)[np.triu_indices(count, 1)]
        near = free and np.linalg.norm(cubes - free, axis=1).min() < FROM_PLACE
        if (apart >= APART).all() and not near:
            return cubes
