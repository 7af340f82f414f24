"""How the suites draw tables, lights, cameras and clutter.

What the episodes have is 'muted' and 'usual'. 'web' and 'elsewhere' are for frames without actions
that training asks about; cameras are further off there than in any test, lights lower or more tinted.
Every other table and view belongs to suites that nothing trains on. The patterns of 'patterned' are
not in the small web either; of 'bold', which is older, the web has stripes and checks.
tests/envs/test_suite_looks.py holds training to that.
"""

from __future__ import annotations

import colorsys
import dataclasses
import math

import numpy as np

from rt2_jax.envs.tabletop import scene as scenes
from rt2_jax.envs.tabletop.scene import Camera, Clutter, Light, Surface, Vector


@dataclasses.dataclass(frozen=True)
class Table:
    """Looks of a table: its patterns, and how its two colours are drawn.

    Attributes:
        patterns: as in `Surface`.
        colours: 'muted' (as in the episodes), 'strong' (as even as muted ones, but far more
            saturated), or 'contrast' (two that differ much).
    """

    patterns: tuple[str, ...]
    colours: str


TABLES = {
    'muted': Table(('plain', 'clouds'), 'muted'),
    'strong': Table(('plain', 'clouds'), 'strong'),
    'bold': Table(('stripes', 'checks', 'clouds'), 'contrast'),
    'patterned': Table(('dots', 'rings', 'zigzag'), 'contrast'),
    'web': Table(('web',), 'muted'),
}
Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Lights:
    """Ranges of lights from any side.

    Attributes:
        lean: how far the light leans, metres a metre of height.
        saturation: of its tint.
        strength: of the lamp, and `ambient` of the light from everywhere.
        ambient: see `strength`.
    """

    lean: Range
    saturation: Range
    strength: Range = (0.35, 0.75)
    ambient: Range = (0.1, 0.35)


_LIGHTS = {
    'strange': Lights((0.3, 0.6), (0.0, 0.35)),
    'shifted': Lights((0.3, 0.4), (0.1, 0.25), (0.4, 0.6), (0.2, 0.35)),
    'far': Lights((0.4, 0.7), (0.25, 0.45)),
    'low': Lights((0.75, 1.0), (0.0, 0.2)),
    'tinted': Lights((0.2, 0.3), (0.5, 0.7)),
}
# 'strange' is all at once, each a little or much; 'shifted' is camera or light, a little; 'far' is
# all at once, each beyond what the episodes have.
VIEWS = ('usual', 'strange', 'shifted', 'far', 'elsewhere')


def rgb(hue: float, saturation: float, value: float) -> Vector:
    """A colour, red, green and blue in [0, 1]."""
    return colorsys.hsv_to_rgb(hue % 1.0, saturation, value)


def draw_surface(rng: np.random.Generator, name: str) -> Surface:
    """Draws a table of TABLES."""
    table = TABLES[name]
    pattern = str(rng.choice(table.patterns))
    hue = rng.uniform()
    if table.colours == 'contrast':
        first = rgb(hue, rng.uniform(0.5, 0.9), rng.uniform(0.3, 0.6))
        second = rgb(hue + rng.uniform(0.2, 0.8), rng.uniform(0.4, 0.9), rng.uniform(0.6, 0.9))
    else:
        saturations = {'muted': (0.05, 0.4), 'strong': (0.6, 0.9)}
        saturation, value = rng.uniform(*saturations[table.colours]), rng.uniform(0.35, 0.65)
        first = rgb(hue, saturation, value)
        second = rgb(hue, saturation, value + 0.12)
    return Surface(pattern, first, second, float(rng.uniform(6, 14)), int(rng.integers(2**31)))


def draw_view(rng: np.random.Generator, name: str) -> tuple[Light, Camera, tuple[Clutter, ...]]:
    """Draws a light, a camera and clutter: one of VIEWS."""
    if name == 'shifted':
        if rng.uniform() < 0.5:
            return _light(rng, 'usual'), _moved(rng, (0.02, 0.035), (0.0, 0.02), 0.5), ()
        return _light(rng, 'shifted'), _camera(rng, 'usual'), ()
    if name == 'far':
        camera = _moved(rng, (0.05, 0.08), (0.06, 0.12), 3.0)
        return _light(rng, 'far'), camera, _clutter(rng)
    if name == 'elsewhere':
        light = _light(rng, str(rng.choice(('usual', 'low', 'tinted'))))
        if rng.uniform() < 0.4:
            return light, _camera(rng, 'usual'), ()
        return light, _moved(rng, (0.12, 0.2), (0.15, 0.4), 3.0), ()
    light, camera = _light(rng, name), _camera(rng, name)
    return light, camera, _clutter(rng) if name == 'strange' else ()


def _light(rng: np.random.Generator, name: str) -> Light:
    # Usually from behind the camera, so that fronts are lit and shadows fall behind.
    if name == 'usual':
        angle, lean = rng.uniform(0.2, 0.8) * math.pi, rng.uniform(0.2, 0.3)
        tint, strength, ambient = (1.0, 1.0, 1.0), rng.uniform(0.4, 0.5), rng.uniform(0.25, 0.35)
    else:
        looks = _LIGHTS[name]
        angle, lean = rng.uniform(0, 2 * math.pi), rng.uniform(*looks.lean)
        tint = rgb(rng.uniform(), rng.uniform(*looks.saturation), 1.0)
        strength, ambient = rng.uniform(*looks.strength), rng.uniform(*looks.ambient)
    direction = (lean * math.cos(angle), lean * math.sin(angle), -1.0)
    red, green, blue = (float(strength * c) for c in tint)
    return Light(direction, (red, green, blue), float(ambient))


def _camera(rng: np.random.Generator, name: str) -> Camera:
    strange = name == 'strange'
    shift, turn, zoom = ((0.06, 0.015), 0.09, 2.5) if strange else ((0.01, 0.004), 0.01, 0.4)
    position = np.array(scenes.CAMERA) + rng.uniform(-shift[0], shift[0], 3)
    look_at = np.array(scenes.LOOK_AT) + (*rng.uniform(-shift[1], shift[1], 2), 0.0)
    return Camera(
        tuple(position.tolist()),
        tuple(look_at.tolist()),
        float(rng.uniform(-turn, turn)),
        scenes.FOV + float(rng.uniform(0 if strange else -zoom, zoom)),
    )


def _moved(rng: np.random.Generator, distance: Range, roll: Range, zoom: float) -> Camera:
    """A camera that was carried away by at least the lower `distance`, and rolled either way.

    It sees no less of the table: near it widens its view, by `zoom` degrees and what it came closer.
    """
    way = rng.normal(size=3)
    position = np.array(scenes.CAMERA) + rng.uniform(*distance) * way / np.linalg.norm(way)
    look_at = np.array(scenes.LOOK_AT)
    usual = np.linalg.norm(np.array(scenes.CAMERA) - look_at)
    half = math.tan(math.radians(scenes.FOV) / 2) * usual / np.linalg.norm(position - look_at)
    fov = max(scenes.FOV, 2 * math.degrees(math.atan(half))) + float(rng.uniform(0, zoom))
    angle = float(rng.uniform(*roll) * rng.choice((-1, 1)))
    return Camera(tuple(position.tolist()), tuple(look_at.tolist()), angle, fov)


def _clutter(rng: np.random.Generator) -> tuple[Clutter, ...]:
    """Flat things anywhere on the table and taller ones around the workspace."""
    things = []
    for _ in range(int(rng.integers(4, scenes.MAX_CLUTTER + 1))):
        shape = str(rng.choice(('box', 'ellipsoid', 'cylinder')))
        colour = rgb(rng.uniform(), rng.uniform(0.4, 0.9), rng.uniform(0.4, 0.9))
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
