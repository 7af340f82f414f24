"""The pictures of several cameras: which a set shows, in what order, and as a robot sends them.

An example of F frames by V cameras has F * V pictures on the model's axis of frames: the oldest frame first,
and of each frame the cameras in the config's order. All have the size of the first camera's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rt2_jax.data import images
from rt2_jax.data.data_config import RobotSet
from rt2_jax.data.robot_card import RobotCard
from rt2_jax.nearest import check


def shown(card: RobotCard, settings: RobotSet) -> tuple[int, ...]:
    """Numbers among the card's `images` of the cameras that a set shows.

    Raises:
        ValueError: the card has no such camera; names those that it has.
    """
    if settings.cameras:
        return tuple(map(card.camera, settings.cameras))
    if not 0 <= settings.camera < len(card.images):
        raise ValueError(
            f'camera {settings.camera} of card {card.name!r}, which has '
            f'{len(card.images)}: {", ".join(card.images)}'
        )
    return (settings.camera,)


def interleave(views: Sequence[np.ndarray]) -> np.ndarray:
    """The frames of each camera, uint8 [F, H, W, 3], as an example's pictures [F * V, H, W, 3]."""
    if len(views) == 1:
        return views[0]
    return images.of_one_size([frame for frames in zip(*views, strict=True) for frame in frames], 0)


def observed(image: Any, cameras: Sequence[str] = ()) -> np.ndarray:
    """What a robot sends, to pictures uint8 [F * V, H, W, 3].

    Args:
        image: as `images.observed` takes it: one picture, or several in their order; or such by the
            cameras' names.
        cameras: those that the policy sees, in order.

    Raises:
        ValueError: no such pictures; a camera is missing, or isn't one that is seen.
    """
    if not isinstance(image, Mapping):
        return images.observed(image)
    if not cameras:
        raise ValueError('This policy sees one picture, which has no name; give it alone.')
    for name in image:
        check('camera', name, cameras)
    if missing := [name for name in cameras if name not in image]:
        raise ValueError(
            f'No picture of the camera {missing[0]!r}; this policy sees {", ".join(cameras)}. Got: '
            f'{", ".join(map(str, image)) or "none"}.'
        )
    views = [images.observed(image[name]) for name in cameras]
    if len({len(view) for view in views}) > 1:
        counts = (f'{name} {len(view)}' for name, view in zip(cameras, views, strict=True))
        raise ValueError(f'The cameras show different numbers of frames: {", ".join(counts)}.')
    return interleave(views)
