"""From what a robot sees to what a model takes: pictures cropped and resized."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rt2_jax.data import history
from rt2_jax.decoding.grammar import Kind
from rt2_jax.policy.policy_settings import Settings
from rt2_jax.policy.runner import Inputs


def resized(pictures: np.ndarray, kind: Kind, settings: Settings) -> np.ndarray:
    """Pictures as the model sees them for a kind of answer.

    Args:
        pictures: uint8 [F * V, H, W, 3], see `data/views.py`; for a question one is enough.
        kind: of the answer.
        settings: of the policy.

    Returns:
        uint8 [F * V, S, S, 3].

    Raises:
        ValueError: another number of pictures than the model sees at a time.
    """
    cameras = settings.cameras
    if kind == Kind.TEXT:
        pictures = history.of_still(pictures, settings.frames, max(1, len(cameras)))
    if len(pictures) != settings.pictures:
        each = f', a picture each of {", ".join(cameras)}' if len(cameras) > 1 else ''
        raise ValueError(
            f'This model sees {settings.frames} frame(s) at a time, {settings.frame_stride} step(s) '
            f'apart{each}; got {len(pictures)}. Policy.robot() keeps them.'
        )
    return settings.augment.evaluation(pictures, settings.image_size, settings.crops(kind))


def empty(kind: Kind, token: int, settings: Settings) -> Inputs:
    """Black pictures and a prompt of one token, to compile with."""
    side = settings.image_size
    return Inputs(np.zeros([settings.pictures, side, side, 3], np.uint8), [token], kind)


def by_camera(pictures: np.ndarray, cameras: Sequence[str]) -> dict[str, np.ndarray]:
    """Pictures of one or more frames [F * V, H, W, 3] by their cameras' names, [F, H, W, 3] each."""
    return {name: pictures[number :: len(cameras)] for number, name in enumerate(cameras)}
