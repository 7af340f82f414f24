"""Variety in the small web's pictures: surfaces, clutter, light, and styles of drawing.

A policy meets tables, cameras and lights that no episode has; perception generalises to them if the
web varies more. The patterns, cameras and lights of the test suites are not drawn here
(rt2_jax/envs/tabletop/suites.py has those).

Lengths are in units of the frame's side unless they say pixels. A canvas is float32 [S, S, 3] in
0..255, changed in place.
"""

import functools

import cv2
import numpy as np

_SOFT = ('colours', 'blobs', 'polygons', 'patches', 'scribbles')
_BOLD = ('bands', 'plaid', 'bricks', 'checks', 'crosses')  # regular, of colours that differ much
SURFACES = (*_SOFT, *_BOLD)
_NUMBER = 320  # of fixed surfaces; a scene is a crop of one


def surface(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draws a background, float32 [size, size, 3] in 0..255; some end in a table's far edge."""
    canvas = _crop(rng, size)
    if rng.random() < 0.25:
        edge = rng.uniform(-0.1, 0.35) * size
        slope = rng.uniform(-0.2, 0.2)
        rows, columns = np.mgrid[:size, :size]
        beyond = rows < edge + slope * (columns - size / 2)
        canvas[beyond] = _crop(rng, size)[beyond]
    return canvas


def _crop(rng: np.random.Generator, size: int) -> np.ndarray:
    whole = _surface(int(rng.integers(_NUMBER)), size)
    top, left = rng.integers(0, size, 2)
    crop = whole[top : top + size, left : left + size]
    if rng.random() < 0.5:
        crop = crop.transpose(1, 0, 2)
    return crop[:, :: rng.choice((-1, 1))] * np.float32(rng.uniform(0.7, 1.1))


@functools.cache
def _surface(number: int, size: int) -> np.ndarray:
    """Returns one of the fixed surfaces, uint8 [2 size, 2 size, 3]."""
    rng = np.random.default_rng([11, number])
    side = 2 * size
    image: np.ndarray
    kind = SURFACES[number % len(SURFACES)]
    match kind:
        case 'colours':  # clouds per channel, at several scales
            channels = [_clouds(rng, side, (3, 9, 27, 81)) for _ in range(3)]
            image = 128 + rng.uniform(40, 160) * (np.stack(channels, -1) - 0.5)
            image += rng.uniform(-80, 80, 3)
        case 'blobs':
            weight = _clouds(rng, side, (int(rng.integers(3, 20)),)) > rng.uniform(0.35, 0.65)
            image = _blend_two(rng, weight.astype(np.float32))
        case 'polygons':
            image = np.full((side, side, 3), rng.uniform(30, 230, 3))
            for _ in range(int(rng.integers(10, 60))):
                points = rng.uniform(0, side, 2) + rng.uniform(-0.2, 0.2, (3, 2)) * side
                cv2.fillPoly(image, [points.astype(np.int32)], rng.uniform(20, 240, 3).tolist())
        case 'patches':
            cells = int(rng.integers(3, 14))
            image = cv2.resize(
                rng.uniform(30, 230, (cells, cells, 3)),
                (side, side),
                interpolation=cv2.INTER_NEAREST,
            )
        case 'scribbles':
            image = np.full((side, side, 3), rng.uniform(30, 230, 3))
            for _ in range(int(rng.integers(8, 50))):
                points = rng.uniform(0, side, 2) + np.cumsum(rng.normal(0, 0.08 * side, (9, 2)), 0)
                cv2.polylines(
                    image,
                    [points.astype(np.int32)],
                    False,
                    rng.uniform(20, 240, 3).tolist(),
                    int(rng.integers(1, 9)),
                    cv2.LINE_AA,
                )
        case _:
            image = _pattern(rng, kind, side)
    mean = image.mean((0, 1))
    image = mean + rng.uniform(0.7 if kind in _BOLD else 0.2, 1.0) * (image - mean)
    image += rng.normal(0, rng.uniform(0, 8), image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def _pattern(rng: np.random.Generator, kind: str, side: int) -> np.ndarray:
    """One of `_BOLD` turned to any angle, of two or three colours, float [side, side, 3]."""
    angle, cell = rng.uniform(0, np.pi), side * rng.uniform(0.05, 0.2)
    rows, columns = (np.mgrid[:side, :side] + 4 * side) / cell
    x = columns * np.cos(angle) + rows * np.sin(angle)
    y = rows * np.cos(angle) - columns * np.sin(angle)
    share = rng.uniform(0.25, 0.6)
    along, across = x % 1, y % 1
    match kind:
        case 'bands':  # of unlike widths
            which = np.where(x % 3 < 1 + share, x % 3 < share, 2 * (x % 3 < 2 + share / 2))
        case 'plaid':
            which = (along < share).astype(int) + (across < share)
        case 'bricks':
            joint = 0.25 * share
            which = (across < joint) | ((x / 2 + 0.5 * (np.floor(y) % 2)) % 1 < joint / 2)
        case 'checks':
            which = (along < 0.5) ^ (across < 0.5)
        case _:  # crosses
            far = np.abs(np.stack([along, across]) - 0.5)
            which = (far.min(0) < 0.2 * share) & (far.max(0) < 0.2 + 0.4 * share)
    colours = np.stack([_strong(rng, value) for value in rng.permutation([60, 140, 220])])
    return colours[which.astype(int)]


def _strong(rng: np.random.Generator, value: float) -> np.ndarray:
    """A colour whose largest channel is `value`, float [3]."""
    return value * rng.permutation([1.0, rng.uniform(0, 1), rng.uniform(0, 0.6)])


def _clouds(rng: np.random.Generator, side: int, scales: tuple[int, ...]) -> np.ndarray:
    """Smooth noise of several scales, about 0..1; coarser scales weigh more."""
    total, weights = np.zeros((side, side), np.float32), 0.0
    for cells in scales:
        coarse = rng.uniform(0, 1, (cells, cells)).astype(np.float32)
        weight = 1.0 / np.sqrt(cells)
        total += weight * cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
        weights += weight
    return total / weights


def _blend_two(rng: np.random.Generator, weight: np.ndarray) -> np.ndarray:
    first, second = rng.uniform(30, 240, (2, 3))
    return first + weight[..., None] * (second - first)


def clutter(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Draws two to seven flat and tall things of plain colours on the canvas."""
    size = canvas.shape[0]
    for _ in range(int(rng.integers(2, 8))):
        centre = rng.uniform(0, size, 2)
        colour = rng.uniform(20, 240, 3)
        radii = rng.uniform(0.03, 0.12, 2) * size
        angle = float(rng.uniform(0, 180))
        if rng.random() < 0.5:
            box = cv2.boxPoints((tuple(centre), tuple(2 * radii), angle))
            side = np.concatenate([box, box + (0, rng.uniform(0.0, 0.08) * size)])
            hull = cv2.convexHull(np.round(side).astype(np.int32))
            cv2.fillConvexPoly(canvas, hull, (0.6 * colour).tolist(), cv2.LINE_AA)
            cv2.fillConvexPoly(canvas, np.round(box).astype(np.int32), colour.tolist(), cv2.LINE_AA)
        else:
            cv2.ellipse(
                canvas, (tuple(centre), tuple(2 * radii), angle), colour.tolist(), -1, cv2.LINE_AA
            )


def light(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Lights the canvas unevenly and tints it, as lamps and cameras do."""
    size = canvas.shape[0]
    if rng.random() < 0.5:
        ramp = np.linspace(-1, 1, size, dtype=np.float32)
        direction = rng.uniform(-0.35, 0.35, 2).astype(np.float32)
        canvas *= (1 + direction[0] * ramp[:, None] + direction[1] * ramp[None])[..., None]
    if rng.random() < 0.2:  # a shadow falls over a part
        corners = rng.uniform(-0.3, 1.3, (4, 2)) * size
        shade: np.ndarray = np.zeros((size, size), np.float32)
        hull = cv2.convexHull(corners.astype(np.int32))
        cv2.fillConvexPoly(shade, hull, float(rng.uniform(0.15, 0.5)))
        shade = cv2.blur(shade, (int(rng.integers(1, 12)),) * 2)
        canvas *= 1 - shade[..., None]
    if rng.random() < 0.5:
        canvas *= rng.uniform(0.75, 1.2, 3).astype(np.float32)
    if rng.random() < 0.3:  # paler or stronger colours
        grey = canvas.mean(-1, keepdims=True)
        canvas += (np.float32(rng.uniform(0.5, 1.4)) - 1) * (canvas - grey)


def redraw(rgba: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Redraws in another style: as a line drawing, in grey, with other outlines or colours.

    Args:
        rgba: uint8 [P, P, 4], straight alpha; not changed.
        rng: draws the style.

    Returns:
        uint8 [P, P, 4].
    """
    style = rng.random()
    colours: np.ndarray = rgba[..., :3].astype(np.float32)
    grey = colours @ np.array((0.299, 0.587, 0.114), np.float32)
    alpha = rgba[..., 3]
    if style < 0.25:  # ink: dark lines stay, light areas are paper
        ink = np.clip((grey - 60) * 2.2, 0, 255)
        colours = np.repeat(ink[..., None], 3, -1)
    elif style < 0.45:  # shades of grey
        colours = np.repeat(grey[..., None], 3, -1)
    elif style < 0.6:  # without outlines: dark lines take the colour around them
        colours = cv2.dilate(colours, np.ones((3, 3), np.uint8))
    elif style < 0.75:  # bolder outlines
        colours = cv2.erode(colours, np.ones((2, 2), np.uint8))
    else:
        gain, bias = rng.uniform(0.75, 1.25, 3), rng.uniform(-25, 25)
        colours = colours * gain.astype(np.float32) + np.float32(bias)
        colours = grey[..., None] + np.float32(rng.uniform(0.6, 1.3)) * (colours - grey[..., None])
    return np.dstack([np.clip(colours, 0, 255).astype(np.uint8), alpha])
