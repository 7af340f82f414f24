"""Sheets of pictures in rows, with text below each: uint8 [H, W, 3], RGB.

The text is written by OpenCV, whose own letters cover what an image set may be captioned in
(Chinese, Japanese, Korean, Cyrillic, ...) on machines without fonts.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import cv2
from etils import epath
import numpy as np

from rt2_jax import paths
from rt2_jax.data.looking import lettering

WIDTH, HEIGHT = 288, 216  # of a picture at most, pixels
MARGIN = 16
PAPER, FAINT, EMPTY = (255, 255, 255), (110, 110, 110), (240, 240, 240)
# Distinct for most people, on light and dark pictures (Okabe and Ito's palette, RGB).
COLOURS = ((213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (230, 159, 0))
_LEADING = 20  # pixels a line of text
_LINES = 6  # of text below a picture at most
_TITLE = 19  # size of the letters, pixels


@dataclasses.dataclass(frozen=True)
class Cell:
    """A picture with text below it.

    Attributes:
        picture: uint8 [H, W, 3], of any size.
        notes: faint lines, each wrapped to two at most.
        answer: a bold text below them.
        boxes: float32 [4] each, top, left, bottom, right in [0, 1], with names.
    """

    picture: np.ndarray
    notes: Sequence[str] = ()
    answer: str = ''
    boxes: Sequence[tuple[np.ndarray, str]] = ()


@dataclasses.dataclass(frozen=True)
class Row:
    """Pictures side by side, with an optional caption above them."""

    cells: Sequence[Cell]
    caption: str = ''


def draw(rows: Sequence[Row], title: str = '', width: int = WIDTH, height: int = 0) -> np.ndarray:
    """Draws a sheet.

    Args:
        rows: from top to bottom.
        title: above them.
        width: of a picture, pixels.
        height: of a picture at most, pixels; 0 leaves it to the pictures.
    """
    sheet_width = max(len(row.cells) for row in rows) * (width + MARGIN) + MARGIN
    blocks = [_line(title, sheet_width, _TITLE)] if title else []
    for row in rows:
        if row.caption:
            blocks.append(_line(row.caption, sheet_width))
        blocks.append(_draw_row(row.cells, sheet_width, width, height))
    return np.concatenate(blocks)


def save(path: epath.PathLike, sheet: np.ndarray) -> None:
    """Writes a PNG."""
    encoded = cv2.imencode('.png', np.ascontiguousarray(sheet[..., ::-1]))[1]
    paths.write(path, encoded.tobytes())


def _blank(height: int, width: int) -> np.ndarray:
    return np.full([height, width, 3], PAPER, np.uint8)


def _line(text: str, width: int, size: int = lettering.SIZE) -> np.ndarray:
    strip = _blank(size + 13, width)
    fitted = lettering.fitted(text, width - 2 * MARGIN, size=size)
    lettering.write(strip, fitted, MARGIN, size + 6, size=size)
    return strip


def _draw_row(cells: Sequence[Cell], sheet_width: int, width: int, height: int) -> np.ndarray:
    height = height or max(round(len(c.picture) * width / c.picture.shape[1]) for c in cells)
    texts = [_texts(cell, width) for cell in cells]
    strip = _blank(height + _LEADING * max(map(len, texts)) + 2 * MARGIN, sheet_width)
    for number, (cell, lines) in enumerate(zip(cells, texts, strict=True)):
        left = MARGIN + number * (width + MARGIN)
        _draw_picture(strip[MARGIN : MARGIN + height, left : left + width], cell)
        for line, (text, colour, weight) in enumerate(lines, start=1):
            baseline = MARGIN + height + line * _LEADING
            lettering.write(strip, text, left, baseline, colour=colour, weight=weight)
    return strip


def _texts(cell: Cell, width: int) -> list[tuple[str, lettering.Colour, int]]:
    """The lines below a picture, with colour and weight."""
    notes = [line for note in cell.notes for line in lettering.wrapped(note, width)[:2]]
    answer = lettering.wrapped(cell.answer, width, weight=lettering.BOLD) if cell.answer else []
    room = _LINES - len(notes)
    if len(answer) > room:
        answer = [*answer[: room - 1], f'{answer[room - 1]} ...']
    return [(line, FAINT, lettering.PLAIN) for line in notes] + [
        (line, lettering.INK, lettering.BOLD) for line in answer
    ]


def _draw_picture(area: np.ndarray, cell: Cell) -> None:
    """Fits a picture and its boxes into a part of a sheet."""
    area[:] = EMPTY
    height, width = cell.picture.shape[:2]
    scale = min(area.shape[1] / width, area.shape[0] / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    x, y = (area.shape[1] - size[0]) // 2, (area.shape[0] - size[1]) // 2
    picture = area[y : y + size[1], x : x + size[0]]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    picture[:] = cv2.resize(cell.picture, size, interpolation=method)
    names = sorted({name for _, name in cell.boxes})
    for box, name in cell.boxes:
        _draw_box(picture, box, name, COLOURS[names.index(name) % len(COLOURS)])


def _draw_box(picture: np.ndarray, box: np.ndarray, name: str, colour: lettering.Colour) -> None:
    # The border lies inside the picture, or the largest boxes would not show.
    height, width = (side - 2 for side in picture.shape[:2])
    top, bottom = (round(float(v) * height) for v in (box[0], box[2]))
    left, right = (round(float(u) * width) for u in (box[1], box[3]))
    drawn = np.ascontiguousarray(picture)
    cv2.rectangle(drawn, (left, top), (right, bottom), colour, 2)
    label = lettering.width(name) + 6
    left = max(0, min(left, width - label))
    cv2.rectangle(drawn, (left, top), (left + label, top + 18), colour, -1)
    lettering.write(drawn, name, left + 3, top + 14, colour=PAPER)
    picture[:] = drawn
