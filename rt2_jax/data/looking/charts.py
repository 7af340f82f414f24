"""Charts and contact sheets as plain pixels, drawn by OpenCV: uint8 [H, W, 3], RGB."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import cv2
import numpy as np

from rt2_jax import paths
from rt2_jax.data.looking import lettering

GREY, BLUE, PAPER = (130, 130, 130), (60, 110, 180), (255, 255, 255)
_SMALL, _PLAIN, _TITLE = 13, 15, 19  # sizes of letters, pixels
_MARGIN = 24


@dataclasses.dataclass(frozen=True)
class Bars:
    """A histogram.

    Attributes:
      title: above it.
      counts: of each bin.
      left, right: what the ends of the axis are called.
    """

    title: str
    counts: Sequence[int]
    left: str
    right: str


@dataclasses.dataclass(frozen=True)
class Strip:
    """Pictures side by side.

    Attributes:
      caption: above them.
      pictures: uint8 [H, W, 3] each, of any size.
      notes: under each.
    """

    caption: str
    pictures: Sequence[np.ndarray]
    notes: Sequence[str]


def blank(height: int, width: int) -> np.ndarray:
    return np.full([height, width, 3], PAPER, np.uint8)


def histograms(title: str, rows: Sequence[Sequence[Bars]], width=560, height=70) -> np.ndarray:
    """Histograms in rows and columns. A bar's height is the square root of its share."""
    columns = max(len(row) for row in rows)
    pitch = height + 58
    canvas = blank(56 + pitch * len(rows) + _MARGIN, columns * (width + _MARGIN) + _MARGIN)
    lettering.write(canvas, title, _MARGIN, 34, size=_TITLE)
    for r, row in enumerate(rows):
        for c, bars in enumerate(row):
            _draw_bars(canvas, bars, _MARGIN + c * (width + _MARGIN), 56 + r * pitch, width, height)
    return canvas


def _draw_bars(canvas, bars: Bars, x: int, y: int, width: int, height: int) -> None:
    title = lettering.fitted(bars.title, width, size=_PLAIN)
    lettering.write(canvas, title, x, y + 16, size=_PLAIN)
    base = y + 26 + height
    counts = np.asarray(bars.counts, np.float64)
    tallest = np.sqrt(counts / max(counts.max(), 1)) * height
    edges = np.linspace(x, x + width, len(counts) + 1).round().astype(int)
    gap = 1 if edges[1] - edges[0] > 3 else 0
    for left, right, size in zip(edges[:-1], edges[1:] - gap, tallest, strict=True):
        # A bin that holds anything at all is seen.
        top = base - max(int(round(size)), 2 if size else 0)
        canvas[top:base, left:right] = BLUE
    canvas[base : base + 1, x : x + width] = GREY
    end = x + width - lettering.width(bars.right, size=_SMALL)
    for words, left in ((bars.left, x), (bars.right, end)):
        lettering.write(canvas, words, left, base + 16, size=_SMALL, colour=GREY)


def contact_sheet(title: str, strips: Sequence[Strip], width=224) -> np.ndarray:
    """Strips of pictures, each scaled to `width` pixels."""
    columns = max(len(strip.pictures) for strip in strips)
    full = columns * (width + 8) + 2 * _MARGIN - 8
    blocks = [_titled(title, full)] + [_draw_strip(strip, full, width) for strip in strips]
    return np.concatenate(blocks + [blank(_MARGIN // 2, full)])


def _titled(title: str, width: int) -> np.ndarray:
    canvas = blank(52, width)
    words = lettering.fitted(title, width - 2 * _MARGIN, size=_TITLE)
    lettering.write(canvas, words, _MARGIN, 34, size=_TITLE)
    return canvas


def _draw_strip(strip: Strip, full: int, width: int) -> np.ndarray:
    scaled = []
    for picture in strip.pictures:
        height = round(picture.shape[0] * width / picture.shape[1])
        method = cv2.INTER_AREA if picture.shape[1] > width else cv2.INTER_NEAREST
        scaled.append(cv2.resize(picture, (width, height), interpolation=method))
    tallest = max(len(picture) for picture in scaled)
    canvas = blank(26 + tallest + 30, full)
    caption = lettering.fitted(strip.caption, full - 2 * _MARGIN, size=_PLAIN)
    lettering.write(canvas, caption, _MARGIN, 18, size=_PLAIN)
    for i, (picture, note) in enumerate(zip(scaled, strip.notes, strict=True)):
        x = _MARGIN + i * (width + 8)
        canvas[26 : 26 + len(picture), x : x + width] = picture
        words = lettering.fitted(note, width, size=_SMALL)
        lettering.write(canvas, words, x, 26 + tallest + 14, size=_SMALL, colour=GREY)
    return canvas


def save(path, canvas: np.ndarray) -> None:
    """Writes a PNG."""
    encoded = cv2.imencode('.png', np.ascontiguousarray(canvas[..., ::-1]))[1]
    paths.write(path, encoded.tobytes())
