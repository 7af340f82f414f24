"""A scene: an episode's start, as a frozen value drawn from a seed.

Lengths are metres, angles radians, in the frame of `stage`; colours are RGB in [0, 1].
"""

import dataclasses
import math

import numpy as np

from rt2_jax.data.web.pictures import Picture
from rt2_jax.envs.tabletop.tasks import Task

MAX_TILES = 4
MAX_CLUTTER = 8
REACH_X, REACH_Y = 0.145, 0.145  # of the tiles' centres
SPACING = 0.165  # least distance of two tiles' centres
TILE_YAW = 0.2
CAMERA = (0.0, -0.30, 0.68)
LOOK_AT = (0.0, 0.015, 0.0)
FOV = 32.5

Vector = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Tile:
    """A tile with a picture on top.

    Attributes:
        picture: on its top.
        x: of its centre; so is `y`.
        y: see `x`.
        yaw: counter-clockwise seen from above.
        colour: around the picture.
        scale: the picture's side, of the largest that fits.
        drawn_by: whose drawing it is, of pictures.DRAWN_BY.
    """

    picture: Picture
    x: float
    y: float
    yaw: float
    colour: Vector
    scale: float = 1.0
    drawn_by: str = 'openmoji'

    @property
    def name(self) -> str:
        """Of the picture."""
        return self.picture.name


@dataclasses.dataclass(frozen=True)
class Surface:
    """The table's look: one of looks.PATTERNS, of two colours; 'web' has its own, by the seed alone."""

    pattern: str
    first: Vector
    second: Vector
    cells: float
    seed: int


@dataclasses.dataclass(frozen=True)
class Light:
    """A directional key light with a shadow, and ambient light."""

    direction: Vector
    key: Vector
    ambient: float


@dataclasses.dataclass(frozen=True)
class Camera:
    """The camera's position, the point it looks at, its roll, and its field of view in degrees."""

    position: Vector = CAMERA
    look_at: Vector = LOOK_AT
    roll: float = 0.0
    fov: float = FOV

    def axes(self) -> np.ndarray:
        """Float64 [3, 3], in columns: where the camera's right, up and backward point."""
        backward = np.array(self.position) - np.array(self.look_at)
        backward /= np.linalg.norm(backward)
        right = np.cross([0, 1, 0] if abs(backward[2]) > 0.999 else [0, 0, 1], backward)
        right /= np.linalg.norm(right)
        up = np.cross(backward, right)
        c, s = math.cos(self.roll), math.sin(self.roll)
        return np.stack([c * right + s * up, c * up - s * right, backward], axis=1)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 3] to (u, v) [..., 2], fractions of the frame from its top left corner."""
        local = (points - np.array(self.position)) @ self.axes()
        scale = -0.5 / (math.tan(math.radians(self.fov) / 2) * local[..., 2:])
        return 0.5 + local[..., :2] * scale * (1, -1)


@dataclasses.dataclass(frozen=True)
class Clutter:
    """A thing without contacts, for the looks alone."""

    shape: str  # 'box', 'ellipsoid' or 'cylinder'
    position: Vector
    size: Vector
    colour: Vector


@dataclasses.dataclass(frozen=True)
class Scene:
    """An episode's start. `gripper` is (x, y, yaw); it starts open, at travel height."""

    task: Task
    tiles: tuple[Tile, ...]
    gripper: Vector
    surface: Surface
    light: Light
    camera: Camera
    clutter: tuple[Clutter, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Of the tiles."""
        return tuple(tile.name for tile in self.tiles)


def place_tiles(rng: np.random.Generator, count: int, push: bool) -> np.ndarray:
    """Draws the tiles' centres, float64 [count, 2]; tile 0 is X and, to push, tile 1 is Y.

    Two tiles keep `SPACING` apart. To push, X and Y start far enough apart that there is something
    to do, and the others keep out of the way of X and the fingers around it.
    """
    while True:
        centres = np.empty((0, 2))
        for _ in range(60):
            if len(centres) == count:
                return centres
            point = rng.uniform((-REACH_X, -REACH_Y), (REACH_X, REACH_Y))
            gap = np.linalg.norm(centres - point, axis=1)
            if (gap < SPACING).any():
                continue
            if push and len(centres) == 1 and gap[0] < 0.19:
                continue
            if push and len(centres) >= 2 and distance_to_path(point, *centres[:2]) < 0.125:
                continue
            centres = np.vstack([centres, point])


def distance_to_path(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    """The distance of a point [2] from the segment from `start` to `end`, metres."""
    along = end - start
    t = np.clip((point - start) @ along / (along @ along), 0, 1)
    return float(np.linalg.norm(point - start - t * along))
