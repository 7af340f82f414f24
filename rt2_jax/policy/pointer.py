"""A vision-language model finds the things of an instruction: MOO's detector (arXiv 2303.00905).

MOO asks OWL-ViT once, at an episode's first frame, and paints the middle of its box. Here a policy that
answers questions is asked "where is the X".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rt2_jax.text import places, pointed

if TYPE_CHECKING:
    from rt2_jax.policy.policy import Policy

QUESTION = 'where is the {}'


class Pointer:
    """Instructions with places for things.

    Args:
        model: answers questions about pictures by places.
    """

    def __init__(self, model: Policy) -> None:
        self._model = model

    def __call__(self, frame: np.ndarray, instruction: str) -> str:
        """The instruction with places, see `pointed.with_places`.

        Args:
            frame: uint8 [H, W, 3], in which the things are looked for.
            instruction: as an operator says it; one with places already stays as it is.
        """
        if pointed.has_places(instruction):
            return instruction
        return pointed.with_places(instruction, lambda name: self._where(frame, name))

    def _where(self, frame: np.ndarray, name: str) -> np.ndarray | None:
        """Coordinates in [0, 1]; None where the answer is no place."""
        point = places.read_point(self._model.answer(frame, QUESTION.format(name)))
        return None if point is None else point / places.SIDE
