"""The state of the tabletop: where the gripper and the tiles are.

Metres and radians, in the frame of `stage`.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Pose:
    """A tile: its centre (bottom at z = 0), its yaw, and the cosine of its tilt."""

    x: float
    y: float
    z: float
    yaw: float
    upright: float


@dataclasses.dataclass(frozen=True)
class State:
    """The gripper's pose, the measured gap between its fingers, its last command, and the tiles."""

    x: float
    y: float
    z: float
    yaw: float
    opening: float
    closed: bool
    tiles: tuple[Pose, ...]
