"""From what a robot sees and feels to what a model takes: pictures cropped and resized, a state in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rt2_jax.data import history, views
from rt2_jax.decoding.grammar import Kind
from rt2_jax.policy.policy_settings import Settings
from rt2_jax.policy.runner import Inputs
from rt2_jax.text.grid import Grid


class Observer:
    """Observations for a model of these settings. Thread-safe but for the count of what is clipped.

    Attributes:
        grid: of the state's numbers, which counts those that are clipped; None where prompts have none.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        space = settings.state_space
        self.grid = Grid(space, 'state') if space else None

    def pictures(self, image: Any) -> np.ndarray:
        """What `Policy.act` is given as an image, to pictures uint8 [F * V, H, W, 3]."""
        return views.observed(image, self._settings.cameras)

    def resized(self, pictures: np.ndarray, kind: Kind) -> np.ndarray:
        """Pictures as the model sees them for a kind of answer: uint8 [F * V, S, S, 3].

        Raises:
            ValueError: another number of pictures than it sees at a time; one is enough for a question.
        """
        settings, cameras = self._settings, self._settings.cameras
        if kind == Kind.TEXT:
            pictures = history.of_still(pictures, settings.frames, max(1, len(cameras)))
        if len(pictures) != settings.pictures:
            each = f', a picture each of {", ".join(cameras)}' if len(cameras) > 1 else ''
            raise ValueError(
                f'This model sees {settings.frames} frame(s) at a time, {settings.frame_stride} step(s) '
                f'apart{each}; got {len(pictures)}. Policy.robot() keeps them.'
            )
        return settings.augment.evaluation(pictures, settings.image_size, settings.crops(kind))

    def state(self, state: Any, kind: Kind) -> str:
        """A state [K] as prompts have it; '' for a policy without one, and for questions.

        Raises:
            ValueError: it is missing, has other numbers than the policy learnt from, or isn't asked for.
        """
        if self.grid is None:
            if state is not None:
                raise ValueError('This policy learnt without a state; leave it out.')
            return ''
        if kind == Kind.TEXT:
            return ''
        if state is None:
            names = ', '.join(self.grid.space.names)
            raise ValueError(
                f'The state is missing: {len(self.grid.space.names)} numbers ({names}) of the robot, '
                'which this policy learnt to act by.'
            )
        return self.grid.text(state)

    def empty(self, kind: Kind, token: int) -> Inputs:
        """Black pictures and a prompt of one token, to compile with."""
        side = self._settings.image_size
        pictures = np.zeros([self._settings.pictures, side, side, 3], np.uint8)
        return Inputs(pictures, [token], kind)


def by_camera(pictures: np.ndarray, cameras: Sequence[str]) -> dict[str, np.ndarray]:
    """Pictures of one or more frames [F * V, H, W, 3] by their cameras' names, [F, H, W, 3] each."""
    return {name: pictures[number :: len(cameras)] for number, name in enumerate(cameras)}
