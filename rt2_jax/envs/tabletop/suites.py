"""The suites: which scenes and instructions are drawn.

A suite is data, and an episode of it a number: `draw(name, seed, kind)` gives the same scene
everywhere. No two suites share a seed, so no evaluation repeats a training layout.
"""

from collections.abc import Sequence
import colorsys
import dataclasses
import math

import numpy as np

from rt2_jax.data.web import pictures
from rt2_jax.data.web.pictures import Picture
from rt2_jax.envs.tabletop import scene as scenes, tasks
from rt2_jax.envs.tabletop.scene import Camera, Clutter, Light, Scene, Surface, Tile
from rt2_jax.nearest import check

SEEDS_PER_SUITE = 10_000_000
_SIGNS = ('symbol', 'number')
# Categories that anybody can distinguish, with those that they overlap with.
_CATEGORIES = {
    'fruit': ('vegetable', 'food', 'plant'),
    'vegetable': ('fruit', 'food', 'plant'),
    'animal': ('toy',),
    'vehicle': ('toy',),
    'instrument': ('toy', 'tool'),
    'tool': ('household', 'instrument', 'furniture'),
    'clothing': (),
}


@dataclasses.dataclass(frozen=True)
class Suite:
    """How a suite's scenes are drawn.

    Attributes:
        name: its key in `SUITES`.
        summary: one line on what it measures.
        number: its seeds are SEEDS_PER_SUITE from number * SEEDS_PER_SUITE on.
        pictures: 'episodes' (those that the robot's episodes hold), 'web' (the others, signs apart)
            or 'signs' (numbers and symbols, which no episode holds either).
        wordings: how instructions name X and Y; an episode draws one: 'name', 'category',
            'language', or 'sign' (the name, of a picture drawn from the signs).
        patterns: looks of the table.
        vivid: whether the table's two colours contrast.
        strange: whether camera and light leave their usual places and clutter lies about.
    """

    name: str
    summary: str
    number: int
    pictures: str = 'episodes'
    wordings: tuple[str, ...] = ('name',)
    patterns: tuple[str, ...] = ('plain', 'clouds')
    vivid: bool = False
    strange: bool = False

    @property
    def seeds(self) -> range:
        """All the global seeds that belong to this suite."""
        start = self.number * SEEDS_PER_SUITE
        return range(start, start + SEEDS_PER_SUITE)


SUITES = {
    suite.name: suite
    for suite in (
        Suite('train', 'what the collected episodes are drawn from', 0),
        Suite('seen', 'pictures, tables and lights as in the episodes, new layouts', 1),
        Suite(
            'unseen_objects',
            'pictures that no episode holds, known from the web alone',
            2,
            pictures='web',
        ),
        Suite(
            'unseen_backgrounds',
            'tables with bold stripes, checks and clouds',
            3,
            patterns=('stripes', 'checks', 'clouds'),
            vivid=True,
        ),
        Suite(
            'unseen_environments', 'another camera, another light, clutter around', 4, strange=True
        ),
        Suite(
            'emergent',
            'numbers and symbols, names by category, names in other languages',
            5,
            wordings=('sign', 'category', 'language'),
        ),
    )
}


def suite(name: str) -> Suite:
    """Returns the suite called `name`; raises ValueError with the nearest valid name."""
    return SUITES[check('suite', name, SUITES)]


def global_seed(name: str, seed: int) -> int:
    """Returns the number that determines episode `seed` of a suite; raises ValueError out of range."""
    if not 0 <= seed < SEEDS_PER_SUITE:
        raise ValueError(f'Seed {seed} of suite {name!r} is outside [0, {SEEDS_PER_SUITE}).')
    return suite(name).seeds.start + int(seed)


def draw(name: str, seed: int, kind: str | None = None) -> Scene:
    """Draws episode `seed` of a suite.

    Args:
        name: the suite.
        seed: in [0, SEEDS_PER_SUITE).
        kind: 'pick', 'push' or 'turn'; None leaves it to the seed.

    Raises:
        ValueError: unknown suite or kind, or a seed out of range.
    """
    chosen = suite(name)
    number = global_seed(name, seed)
    if kind is None:
        kind = tasks.KINDS[np.random.default_rng([number]).integers(len(tasks.KINDS))]
    tasks.check_kind(kind)
    rng = np.random.default_rng([number, tasks.KINDS.index(kind)])
    wording = chosen.wordings[rng.integers(len(chosen.wordings))]
    count = int(rng.integers(2, scenes.MAX_TILES + 1))
    shown, words = _draw_pictures(rng, chosen, wording, count)
    direction = str(rng.choice(tasks.DIRECTIONS)) if kind == 'turn' else ''
    task = tasks.Task(
        kind=kind,
        direction=direction,
        group=wording,
        instruction=tasks.phrase(kind, words[0], words[1], direction),
        plan=tasks.phrase(kind, shown[0].name, shown[1].name, direction),
    )
    centres = scenes.place_tiles(rng, count, push=kind == 'push')
    tiles = tuple(
        Tile(
            picture,
            float(x),
            float(y),
            float(rng.uniform(-scenes.TILE_YAW, scenes.TILE_YAW)),
            _pale(rng),
        )
        for picture, (x, y) in zip(shown, centres, strict=True)
    )
    gripper = (
        float(rng.uniform(-0.1, 0.1)),
        float(rng.uniform(-0.1, 0.1)),
        float(rng.uniform(-0.15, 0.15)),
    )
    return Scene(
        task=task,
        tiles=tiles,
        gripper=gripper,
        surface=_draw_surface(rng, chosen),
        light=_draw_light(rng, chosen.strange),
        camera=_draw_camera(rng, chosen.strange),
        clutter=_draw_clutter(rng) if chosen.strange else (),
    )


def _pool(kind: str) -> list[Picture]:
    if kind == 'episodes':
        return list(pictures.robot_pictures())
    signs = kind == 'signs'
    return [p for p in pictures.web_pictures() if (p.category in _SIGNS) == signs]


def _choose(rng: np.random.Generator, pool: Sequence[Picture], count: int) -> list[Picture]:
    return [pool[i] for i in rng.permutation(len(pool))[:count]]


def _draw_pictures(
    rng: np.random.Generator, chosen: Suite, wording: str, count: int
) -> tuple[list[Picture], list[str]]:
    """Returns the pictures, X and Y first, and the words for X and Y."""
    if wording == 'category':
        return _draw_categories(rng, _pool(chosen.pictures), count)
    if wording == 'sign':
        shown = _choose(rng, _pool('signs'), count)
    elif wording == 'language':
        language = str(rng.choice(pictures.LANGUAGES[1:]))
        pool = [p for p in _pool(chosen.pictures) if p.names.get(language, p.name) != p.name]
        shown = _choose(rng, pool, count)
        return shown, [p.names[language] for p in shown[:2]]
    else:
        shown = _choose(rng, _pool(chosen.pictures), count)
    return shown, [p.name for p in shown[:2]]


def _draw_categories(
    rng: np.random.Generator, pool: list[Picture], count: int
) -> tuple[list[Picture], list[str]]:
    names = list(_CATEGORIES)
    first = names[rng.integers(len(names))]
    others = [n for n in names if n != first and n not in _CATEGORIES[first]]
    second = others[rng.integers(len(others))]
    barred = {first, second, *_CATEGORIES[first], *_CATEGORIES[second]}
    shown = [
        _choose(rng, [p for p in pool if p.category == name], 1)[0] for name in (first, second)
    ]
    shown += _choose(rng, [p for p in pool if p.category not in barred], count - 2)
    return shown, [f'the {first}', f'the {second}']


def _rgb(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    return colorsys.hsv_to_rgb(hue % 1.0, saturation, value)


def _pale(rng: np.random.Generator) -> tuple[float, float, float]:
    return _rgb(rng.uniform(), rng.uniform(0.0, 0.3), rng.uniform(0.88, 1.0))


def _draw_surface(rng: np.random.Generator, chosen: Suite) -> Surface:
    pattern = str(rng.choice(chosen.patterns))
    hue = rng.uniform()
    if chosen.vivid:
        first = _rgb(hue, rng.uniform(0.5, 0.9), rng.uniform(0.3, 0.6))
        second = _rgb(hue + rng.uniform(0.2, 0.8), rng.uniform(0.4, 0.9), rng.uniform(0.6, 0.9))
    else:
        saturation, value = rng.uniform(0.05, 0.4), rng.uniform(0.35, 0.65)
        first = _rgb(hue, saturation, value)
        second = _rgb(hue, saturation, value + 0.12)
    return Surface(pattern, first, second, float(rng.uniform(6, 14)), int(rng.integers(2**31)))


def _draw_light(rng: np.random.Generator, strange: bool) -> Light:
    # Usually from behind the camera, so that fronts are lit and shadows fall behind.
    if strange:
        angle = rng.uniform(0, 2 * math.pi)
        lean = rng.uniform(0.3, 0.6)
        tint = _rgb(rng.uniform(), rng.uniform(0.0, 0.35), 1.0)
        strength, ambient = rng.uniform(0.35, 0.75), rng.uniform(0.1, 0.35)
    else:
        angle, lean = rng.uniform(0.2, 0.8) * math.pi, rng.uniform(0.2, 0.3)
        tint, strength, ambient = (1.0, 1.0, 1.0), rng.uniform(0.4, 0.5), rng.uniform(0.25, 0.35)
    direction = (lean * math.cos(angle), lean * math.sin(angle), -1.0)
    red, green, blue = (float(strength * c) for c in tint)
    return Light(direction, (red, green, blue), float(ambient))


def _draw_camera(rng: np.random.Generator, strange: bool) -> Camera:
    shift, turn, zoom = ((0.06, 0.015), 0.09, 2.5) if strange else ((0.01, 0.004), 0.01, 0.4)
    position = np.array(scenes.CAMERA) + rng.uniform(-shift[0], shift[0], 3)
    look_at = np.array(scenes.LOOK_AT) + (*rng.uniform(-shift[1], shift[1], 2), 0.0)
    return Camera(
        tuple(position.tolist()),
        tuple(look_at.tolist()),
        float(rng.uniform(-turn, turn)),
        scenes.FOV + float(rng.uniform(0 if strange else -zoom, zoom)),
    )


def _draw_clutter(rng: np.random.Generator) -> tuple[Clutter, ...]:
    """Flat things anywhere on the table and taller ones around the workspace."""
    things = []
    for _ in range(int(rng.integers(4, scenes.MAX_CLUTTER + 1))):
        shape = str(rng.choice(('box', 'ellipsoid', 'cylinder')))
        colour = _rgb(rng.uniform(), rng.uniform(0.4, 0.9), rng.uniform(0.4, 0.9))
        radius = float(rng.uniform(0.012, 0.03))
        if rng.uniform() < 0.5:
            size = (radius, 0.001, 0.0) if shape == 'cylinder' else (radius, radius * 1.5, 0.001)
            place = (*rng.uniform(-0.22, 0.22, 2).tolist(), 0.001)
        else:
            height = float(rng.uniform(0.01, 0.03))
            size = (radius, height, 0.0) if shape == 'cylinder' else (radius, radius, height)
            side = float(rng.choice((-1, 1)))
            place = (side * float(rng.uniform(0.235, 0.27)), float(rng.uniform(-0.2, 0.25)), height)
        things.append(Clutter(shape, place, size, colour))
    return tuple(things)
