"""What clients of the two protocols call the parts of an observation: one table for each.

The policy sees one camera, so of the keys of a dialect one is looked at; the others are taken and
ignored. Sources: openpi's examples/{libero,droid,aloha_sim}, OpenVLA's vla-scripts/deploy.py and
OpenVLA-OFT's experiments/robot/openvla_utils.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from rt2_jax.nearest import nearest
from rt2_jax.serving.refusals import Malformed


@dataclasses.dataclass(frozen=True)
class Dialect:
    """The keys of one family of clients.

    Attributes:
      name: whose.
      camera: the picture that the policy sees.
      ignored: what the clients send besides.
      channels_first: pictures are [3, H, W].
      chunks: a reply of POST /act is a list of actions, here of one.
    """

    name: str
    camera: str
    ignored: tuple[str, ...] = ()
    channels_first: bool = False
    chunks: bool = False


# 'images/cam_high' may come as {'images': {'cam_high': ...}}; so may 'observation/...'.
NESTED = ('images', 'observation')
WEBSOCKET = (
    Dialect('LIBERO', 'observation/image', ('observation/wrist_image', 'observation/state')),
    Dialect(
        'DROID',
        'observation/exterior_image_1_left',
        (
            'observation/exterior_image_2_left',
            'observation/wrist_image_left',
            'observation/joint_position',
            'observation/cartesian_position',
            'observation/gripper_position',
        ),
    ),
    Dialect(
        'ALOHA',
        'images/cam_high',
        ('images/cam_low', 'images/cam_left_wrist', 'images/cam_right_wrist', 'state'),
        channels_first=True,
    ),
)
ACT = (
    Dialect('OpenVLA', 'image'),
    Dialect(
        'OpenVLA-OFT',
        'full_image',
        ('wrist_image', 'left_wrist_image', 'right_wrist_image', 'state'),
        chunks=True,
    ),
)


def ignored(dialects: Sequence[Dialect]) -> tuple[str, ...]:
    """All keys that are taken and not looked at."""
    return tuple(key for dialect in dialects for key in dialect.ignored)


def flattened(message: Mapping[Any, Any]) -> dict[Any, Any]:
    """The message with 'images/cam_high' for {'images': {'cam_high': ...}}."""
    flat: dict[Any, Any] = {}
    for key, value in message.items():
        if key in NESTED and isinstance(value, dict):
            flat |= {f'{key}/{inner}': entry for inner, entry in value.items()}
        else:
            flat[key] = value
    return flat


def recognise(
    message: Mapping[Any, Any], dialects: Sequence[Dialect], others: Collection[str]
) -> Dialect | None:
    """The dialect whose camera a message holds, None if it holds no camera.

    Args:
      message: as `flattened` gives it.
      dialects: of the protocol.
      others: keys that every dialect may have.

    Raises:
      Malformed: an unknown key, with the nearest one that is looked at, or several cameras.
    """
    cameras = [dialect.camera for dialect in dialects]
    valid = {*cameras, *others, *ignored(dialects)}
    for key in message:
        if key not in valid:
            name = key if isinstance(key, str) else repr(key)
            raise Malformed(f'Unknown key {name[:80]!r}{nearest(name[:80], [*cameras, *others])}')
    present = [dialect for dialect in dialects if dialect.camera in message]
    if len(present) > 1:
        raise Malformed(
            f'{" and ".join(repr(dialect.camera) for dialect in present)} are both cameras that the '
            'policy would see; send one of them.'
        )
    return present[0] if present else None


def channels_last(picture: Any) -> Any:
    """An array [..., 3, H, W] as [..., H, W, 3]; anything else as it is."""
    if isinstance(picture, np.ndarray) and picture.ndim in (3, 4) and picture.shape[-3] == 3:
        return np.moveaxis(picture, -3, -1)
    return picture
