"""Examples on one sheet: pictures in a grid, boxes drawn, what is asked and answered below."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

import cv2
import numpy as np

from rt2_jax.data.looking import lettering

WIDTH, HEIGHT = 288, 216  # of a picture's room, pixels
MARGIN = 16
LEADING = 20  # of the text
LINES = 6  # of text below a picture at most
PAPER, FAINT, ROOM = (255, 255, 255), (110, 110, 110), (240, 240, 240)
# Told apart by most people, on light and dark pictures (Okabe and Ito's palette, RGB).
COLOURS = ((213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (230, 159, 0))


@dataclasses.dataclass(frozen=True)
class Cell:
    """One example of the sheet.

    Attributes:
      frame: uint8 [H, W, 3].
      title: small print above the texts: number, kind, language.
      asked: the prompt.
      answered: the answer.
      boxes: float32 [4] each, top, left, bottom, right in [0, 1], with names.
    """

    frame: np.ndarray
    title: str
    asked: str
    answered: str
    boxes: Sequence[tuple[np.ndarray, str]] = ()


def draw(cells: Sequence[Cell], columns: int = 4) -> np.ndarray:
    """The sheet, uint8 [H, W, 3]."""
    columns = min(columns, len(cells))
    rows = [cells[k : k + columns] for k in range(0, len(cells), columns)]
    width = columns * (WIDTH + MARGIN) + MARGIN
    return np.concatenate([_row(row, width) for row in rows])


def _row(cells: Sequence[Cell], width: int) -> np.ndarray:
    texts = [_texts(cell) for cell in cells]
    height = HEIGHT + LEADING * max(map(len, texts)) + 2 * MARGIN
    strip = np.full([height, width, 3], PAPER, np.uint8)
    for number, (cell, lines) in enumerate(zip(cells, texts, strict=True)):
        left = MARGIN + number * (WIDTH + MARGIN)
        _picture(strip, cell, left, MARGIN)
        for line, (text, style) in enumerate(lines, start=1):
            lettering.write(strip, text, left, MARGIN + HEIGHT + line * LEADING, **style)
    return strip


def _texts(cell: Cell) -> list[tuple[str, dict[str, Any]]]:
    """What is written below a picture, and how."""
    asked = lettering.wrapped(cell.asked, WIDTH)[:2]
    answered = lettering.wrapped(cell.answered, WIDTH, weight=lettering.BOLD)
    room = LINES - 1 - len(asked)
    if len(answered) > room:
        answered = [*answered[: room - 1], f'{answered[room - 1]} ...']
    plain, bold = {'colour': FAINT}, {'weight': lettering.BOLD}
    return [(text, plain) for text in [cell.title, *asked]] + [(text, bold) for text in answered]


def _picture(strip: np.ndarray, cell: Cell, left: int, top: int) -> None:
    strip[top : top + HEIGHT, left : left + WIDTH] = ROOM
    height, width = cell.frame.shape[:2]
    scale = min(WIDTH / width, HEIGHT / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    x, y = left + (WIDTH - size[0]) // 2, top + (HEIGHT - size[1]) // 2
    strip[y : y + size[1], x : x + size[0]] = cv2.resize(cell.frame, size, interpolation=method)
    names = sorted({name for _, name in cell.boxes})
    for box, name in cell.boxes:
        _box(strip, box, name, COLOURS[names.index(name) % len(COLOURS)], x, y, size)


def _box(sheet, box, name: str, colour, x: int, y: int, size: tuple[int, int]) -> None:
    # The border lies inside the picture, or the largest boxes would not show.
    top, bottom = (y + round(float(v) * (size[1] - 2)) for v in (box[0], box[2]))
    left, right = (x + round(float(v) * (size[0] - 2)) for v in (box[1], box[3]))
    cv2.rectangle(sheet, (left, top), (right, bottom), colour, 2)
    width = lettering.width(name) + 6
    label = max(top, y), min(left, max(x, x + size[0] - width))
    cv2.rectangle(sheet, (label[1], label[0]), (label[1] + width, label[0] + 18), colour, -1)
    lettering.write(sheet, name, label[1] + 3, label[0] + 14, colour=PAPER)
