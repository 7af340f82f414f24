"""Places in a picture as text: points, offsets and boxes.

    410 530              a point: u to the right, v down
    500 620              an offset from one point to another; 500 500 is none
    104 22 560 481 cat   a box: top, left, bottom, right, then the name, as Pix2Seq orders them
                         (arXiv 2109.10852, section 3.1)

Numbers are thousandths of the picture's sides: PaLI-X's vocabulary has a token for each integer up
to 1000 (RT-2, arXiv 2307.15818, section 3.2). Points and offsets are written on a grid of `GRID`
thousandths, which 50 of these tokens carry; boxes are not.
"""

from collections.abc import Iterable, Sequence
import re

import numpy as np

SIDE = 1000  # thousandths of a side; as a number of a box it is the far edge
GRID = 20
SEPARATOR = ' ; '  # between boxes, as PaliGemma writes them

_POINT = re.compile(r'\d+ \d+')
_BOX = re.compile(r'(\d+) (\d+) (\d+) (\d+) (.+)')


def write_point(point: Iterable[float]) -> str:
    """Writes coordinates in [0, 1], as integers: the centre of their cell of the grid."""
    return ' '.join(str(_on_grid(SIDE * x)) for x in point)


def write_offset(start: Iterable[float], end: Iterable[float]) -> str:
    """Writes the offset from one point to another, coordinates in [0, 1], about 500."""
    half = SIDE // 2
    return ' '.join(str(_on_grid(half + half * (b - a))) for a, b in zip(start, end, strict=True))


def read_point(text: str) -> np.ndarray | None:
    """The two numbers of a point or an offset, int64 [2] in thousandths; None for another text."""
    text = text.strip()
    return np.array([int(x) for x in text.split()]) if _POINT.fullmatch(text) else None


def write_box(box: Sequence[float], name: str) -> str:
    """Writes a box: top, left, bottom, right in [0, 1]."""
    return ' '.join(str(round(SIDE * float(x))) for x in box) + f' {name}'


def read_boxes(text: str) -> list[tuple[np.ndarray, str]]:
    """The boxes of a text, float32 [4] in [0, 1], with their names; other parts are left out."""
    matches = (_BOX.fullmatch(part.strip()) for part in text.split(SEPARATOR))
    return [
        (np.array(match.groups()[:4], np.float32) / SIDE, match[5])
        for match in matches
        if match and max(int(x) for x in match.groups()[:4]) <= SIDE
    ]


def _on_grid(thousandths: float) -> int:
    cell = min(max(int(thousandths // GRID), 0), SIDE // GRID - 1)
    return cell * GRID + GRID // 2
