"""Text on pictures, by OpenCV: version 5 has letters of many languages, version 4 those of ASCII."""

from __future__ import annotations

import functools
from typing import Any
import unicodedata

import cv2
import numpy as np

Colour = tuple[int, int, int]
INK: Colour = (24, 24, 24)
SIZE = 15  # pixels
PLAIN, BOLD = 400, 600

_HERSHEY = cv2.FONT_HERSHEY_SIMPLEX
_HERSHEY_SIZE = 32  # pixels, at a scale of 1


def write(
    picture: np.ndarray,
    text: str,
    left: int,
    baseline: int,
    *,
    size: int = SIZE,
    colour: Colour = INK,
    weight: int = PLAIN,
) -> None:
    """Writes a line on a picture uint8 [H, W, 3]; its baseline's left end is at (left, baseline)."""
    start = left, baseline
    if face := _face():
        cv2.putText(picture, text, start, colour, face, size, weight=weight)
    else:
        scale = size / _HERSHEY_SIZE
        cv2.putText(picture, _ascii(text), start, _HERSHEY, scale, colour, 1, cv2.LINE_AA)


def width(text: str, *, size: int = SIZE, weight: int = PLAIN) -> int:
    """The width of a line, in pixels."""
    if face := _face():
        return cv2.getTextSize((1, 1), text, (0, 0), face, size, weight=weight)[2]
    return cv2.getTextSize(_ascii(text), _HERSHEY, size / _HERSHEY_SIZE, 1)[0][0]


def fitted(text: str, most: int, *, size: int = SIZE) -> str:
    """The text, cut off with dots if it is wider than `most` pixels."""
    if width(text, size=size) <= most:
        return text
    while text and width(text + '...', size=size) > most:
        text = text[:-1]
    return text + '...'


def wrapped(text: str, most: int, *, size: int = SIZE, weight: int = PLAIN) -> list[str]:
    """Lines of at most `most` pixels, broken between words, or within one that is longer."""
    lines = ['']

    def fits(line: str) -> bool:
        return width(line, size=size, weight=weight) <= most

    for word in text.split():
        longer = f'{lines[-1]} {word}'.strip()
        if fits(longer):
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append('')
        for letter in word:
            if lines[-1] and not fits(lines[-1] + letter):
                lines.append('')
            lines[-1] += letter
    return lines


def _ascii(text: str) -> str:
    """Letters without their accents; a question mark in place of any other than ASCII's."""
    letters = [x for x in unicodedata.normalize('NFKD', text) if not unicodedata.combining(x)]
    return ''.join(letters).encode('ascii', 'replace').decode()


@functools.cache
def _face() -> Any:
    return cv2.FontFace('sans') if hasattr(cv2, 'FontFace') else None
