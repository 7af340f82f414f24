"""Composes pictures of the small web: drawings laid on made-up backgrounds and cards.

Lengths are in units of the frame's side unless they say pixels, u to the right and v down. A scene is
a pure function of its random generator.
"""

import dataclasses
import functools

import cv2
import numpy as np

from rt2_jax.data.web import pictures, variety

COLOURS = {
    'white': (235, 235, 235),
    'grey': (128, 128, 128),
    'black': (40, 40, 40),
    'red': (205, 60, 50),
    'orange': (235, 140, 40),
    'yellow': (235, 215, 70),
    'green': (80, 160, 75),
    'blue': (65, 105, 200),
    'purple': (130, 80, 165),
    'brown': (130, 90, 60),
    'pink': (235, 150, 180),
}
# Drawings are scaled down from the nearest of these sizes: a warp alone would alias.
_MIPMAP_PIXELS = (16, 24, 36, 54, 80)
BACKGROUNDS = ('plain', 'gradient', 'stripes', 'checks', 'clouds', 'two clouds')
_BACKGROUNDS = 192


@dataclasses.dataclass(frozen=True)
class Placed:
    """A drawing in a scene: its centre (u, v), side, rotation in radians and card's colour.

    `style`, if any, seeds the way it is redrawn (variety.redraw).
    """

    picture: pictures.Picture
    centre: tuple[float, float]
    side: float
    rotation: float
    card: str | None = None
    style: int | None = None


@functools.cache
def _background(number: int, size: int) -> np.ndarray:
    """Returns one of the fixed backgrounds, uint8 [2 size, 2 size, 3], to be cropped from."""
    rng = np.random.default_rng([7, number])
    side = 2 * size
    first, second = rng.uniform(30, 245, (2, 3))
    ramp = np.linspace(-1, 1, side)
    x, y = np.meshgrid(ramp, ramp)
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    style = BACKGROUNDS[number % len(BACKGROUNDS)]
    if style == 'plain':
        weight = np.zeros_like(x)
    elif style == 'gradient':
        weight = 0.5 + 0.5 * along
    elif style == 'stripes':
        weight = 0.5 + 0.5 * np.sign(np.sin(along * rng.uniform(8, 40)))
    elif style == 'checks':
        cells = rng.uniform(4, 12)
        weight = 0.5 + 0.5 * np.sign(np.sin(x * cells) * np.sin(y * cells))
    else:
        weight = _clouds(rng, side, 6)
        if style == 'two clouds':
            weight = 0.6 * weight + 0.4 * _clouds(rng, side, 40)
    contrast = rng.uniform(0.15, 0.8)
    second = first + contrast * (second - first)
    image = first + weight[..., None] * (second - first)
    image += rng.normal(0, rng.uniform(0, 6), image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def _clouds(rng: np.random.Generator, side: int, cells: int) -> np.ndarray:
    coarse = rng.uniform(0, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Returns a new background, float32 [size, size, 3] in 0..255."""
    whole = _background(int(rng.integers(_BACKGROUNDS)), size)
    top, left = rng.integers(0, size, 2)
    crop = whole[top : top + size, left : left + size]
    return crop[:, :: rng.choice((-1, 1))] * np.float32(rng.uniform(0.75, 1.1))


def _blend(canvas: np.ndarray, rgba: np.ndarray, matrix: np.ndarray, corners: np.ndarray) -> None:
    """Draws `rgba` on `canvas` in place by an affine map of pixels; only its bounding box is touched."""
    size = canvas.shape[0]
    low = np.clip(np.floor(corners.min(0)).astype(int) - 1, 0, size)
    high = np.clip(np.ceil(corners.max(0)).astype(int) + 2, 0, size)
    if (high <= low).any():
        return
    shifted = matrix.copy()
    shifted[:, 2] -= low
    patch = cv2.warpAffine(
        rgba,
        shifted,
        (int(high[0] - low[0]), int(high[1] - low[1])),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
    )
    alpha = patch[..., 3:].astype(np.float32) * np.float32(1 / 255)
    region = canvas[low[1] : high[1], low[0] : high[0]]
    region += alpha * (patch[..., :3] - region)


def _affine(
    centre: np.ndarray, side: float, rotation: float, flatten: float, pixels: int
) -> tuple[np.ndarray, np.ndarray]:
    """The map [2, 3] from a square drawing's pixels to the canvas, and where its corners [4, 2] go.

    `flatten` < 1 shortens v as a low camera does.
    """
    scale = side / pixels
    cos, sin = np.cos(rotation), np.sin(rotation)
    linear = np.array([[cos, -sin], [sin, cos]]) * scale
    linear[1] *= flatten
    middle = np.full(2, (pixels - 1) / 2)
    matrix = np.concatenate([linear, (centre - linear @ middle)[:, None]], axis=1)
    square = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * pixels
    return matrix, square @ linear.T + centre


def draw(canvas: np.ndarray, placed: Placed, flatten: float = 1.0, thickness: float = 0.0) -> None:
    """Draws one picture, with its card if it has one, on a float32 [S, S, 3] canvas in place.

    `thickness` is the visible height of the card's front edge, in units of the frame's side.
    """
    size = canvas.shape[0]
    centre = np.asarray(placed.centre) * size
    if placed.card is not None:
        card = placed.side * size
        _, corners = _affine(centre, card, placed.rotation, flatten, 1)
        colour = np.asarray(COLOURS[placed.card], np.float64)
        points = np.round(corners * 16).astype(np.int32)
        if thickness:
            edge = np.concatenate([points, points + (0, int(thickness * size * 16))])
            cv2.fillConvexPoly(
                canvas, cv2.convexHull(edge), (0.55 * colour).tolist(), cv2.LINE_AA, 4
            )
        cv2.fillConvexPoly(canvas, points, colour.tolist(), cv2.LINE_AA, 4)
    side = placed.side * size * (0.86 if placed.card else 1.0)
    pixels = next((p for p in _MIPMAP_PIXELS if p >= side), _MIPMAP_PIXELS[-1])
    rgba = pictures.raster(placed.picture.code, pixels)
    if placed.style is not None:
        rgba = variety.redraw(rgba, np.random.default_rng(placed.style))
    matrix, corners = _affine(centre, side, placed.rotation, flatten, pixels)
    _blend(canvas, rgba, matrix, corners)


def distract(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Lays one to three thin bars over the canvas, in place, to teach partly hidden things."""
    size = canvas.shape[0]
    for _ in range(rng.integers(1, 4)):
        start = rng.uniform(-0.1, 1.1, 2) * size
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.5) * size
        end = start + length * np.array([np.cos(angle), np.sin(angle)])
        colour = rng.uniform(20, 250, 3).tolist()
        cv2.line(
            canvas,
            start.astype(int).tolist(),
            end.astype(int).tolist(),
            colour,
            int(rng.integers(1, 5)),
            cv2.LINE_AA,
        )


def finish(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Applies light, contrast and noise as a camera has them; returns uint8 [S, S, 3]."""
    tint = rng.uniform(0.88, 1.12, 3).astype(np.float32) * np.float32(rng.uniform(0.75, 1.15))
    offset = np.float32(rng.uniform(-12, 12))
    if rng.random() < 0.3:
        canvas = cv2.GaussianBlur(canvas, (3, 3), 0)
    return np.clip(canvas * tint + offset, 0, 255).astype(np.uint8)
