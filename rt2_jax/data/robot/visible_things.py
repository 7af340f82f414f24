"""Which things a step's frame shows and where, as its data say it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

NAMES, PIXELS = 'observation/object_names', 'observation/object_pixels'


def visible(step: Mapping[str, Any]) -> list[tuple[str, np.ndarray]]:
    """Names and places of the things inside the frame, from left to right.

    Args:
        step: as `StepTable.raw` gives it, with the columns `NAMES` (by line) and `PIXELS` [n, 2] (u, v in
            [0, 1]; NaN where there is nothing).
    """
    names = step[NAMES].split('\n')
    pixels = step[PIXELS][: len(names)]
    inside = [(name, uv) for name, uv in zip(names, pixels) if ((0 <= uv) & (uv <= 1)).all()]
    return sorted(inside, key=lambda pair: pair[1][0])
