"""The keys that families of clients call pictures and states by.

A policy of one camera reads one picture of a family's keys, and ignores the others. One that names its
cameras reads `observation/NAME` or `images/NAME` by websocket, and NAME by POST /act, where OpenVLA-OFT's
clients call the first one `full_image`. One that acts by a state reads that, too.
Sources: openpi's examples/{libero,droid,aloha_sim}, OpenVLA's vla-scripts/deploy.py and OpenVLA-OFT's
experiments/robot/openvla_utils.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
import dataclasses
import functools
from typing import Any

from rt2_jax.nearest import nearest
from rt2_jax.policy import Policy
from rt2_jax.serving.limits import Malformed

# Each says that an episode begins with this message: True, or the control word.
STARTS = ('reset', 'episode_start', '__ctrl__')
CONTROL_WORDS = ('reset', 'episode_start')
WEBSOCKET_KEYS = ('prompt', 'deadline_ms', *STARTS)
ACT_KEYS = ('instruction', 'unnorm_key', *STARTS)
# 'images/cam_high' may come as {'images': {'cam_high': ...}}; so may 'observation/...'.
NESTED = ('images', 'observation')


@dataclasses.dataclass(frozen=True)
class Dialect:
    """The keys of one family of clients.

    Attributes:
        name: of the family.
        camera: key of the picture that the policy sees, or of the first.
        ignored: other keys that the clients send.
        channels_first: pictures are [3, H, W].
        chunks: the reply of POST /act is a list of actions, here of one.
        role: `camera` is called so whatever the camera's name is.
        state: key of the robot's state, for a policy that acts by it.
        more: keys of the pictures of its further cameras, in order.
        needs_state: whether the policy acts by the state.
    """

    name: str
    camera: str
    ignored: tuple[str, ...] = ()
    channels_first: bool = False
    chunks: bool = False
    role: bool = False
    state: str = 'state'
    more: tuple[str, ...] = ()
    needs_state: bool = False

    @property
    def needed(self) -> tuple[str, ...]:
        """The keys of all that the policy sees and feels."""
        return (self.camera, *self.more, *((self.state,) if self.needs_state else ()))


WEBSOCKET = (
    Dialect(
        'LIBERO',
        'observation/image',
        ('observation/wrist_image', 'observation/state'),
        state='observation/state',
    ),
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
        state='observation/state',
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
        role=True,
    ),
)


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a policy acts by, beside an instruction.

    Attributes:
        cameras: names of the cameras that it sees, in order; empty for one without a name.
        state: whether it acts by the robot's state.
    """

    cameras: tuple[str, ...] = ()
    state: bool = False

    @classmethod
    def of(cls, policy: Policy) -> Needs:
        """Those of a policy."""
        return cls(policy.cameras, policy.settings.state_space is not None)

    def dialects(self, family: tuple[Dialect, ...]) -> tuple[Dialect, ...]:
        """The dialects of WEBSOCKET or ACT, as this policy reads them."""
        return _read_by(self, family) if self.cameras or self.state else family


@functools.cache  # it is asked for with every message
def _read_by(needs: Needs, family: tuple[Dialect, ...]) -> tuple[Dialect, ...]:
    read: dict[str, Dialect] = {}
    for dialect in family:
        folder, _, name = dialect.camera.rpartition('/')
        first, *others = needs.cameras or (name,)
        if dialect.role and dialect.camera in needs.cameras:
            continue  # it would mean two pictures
        camera = dialect.camera if dialect.role else f'{folder}/{first}' if folder else first
        more = tuple(f'{folder}/{name}' if folder else name for name in others)
        # Two families that have the same keys, now, are one.
        asked = dataclasses.replace(dialect, camera=camera, more=more, needs_state=needs.state)
        read.setdefault(camera, asked)
    keys = {key for dialect in read.values() for key in dialect.needed}
    known = dict.fromkeys(key for dialect in family for key in (dialect.camera, *dialect.ignored))
    ignored = tuple(key for key in known if key not in keys)
    return tuple(dataclasses.replace(dialect, ignored=ignored) for dialect in read.values())


def ignored_keys(dialects: Sequence[Dialect]) -> tuple[str, ...]:
    """All keys that are taken and not read."""
    return tuple(dict.fromkeys(key for dialect in dialects for key in dialect.ignored))


def flatten(message: Mapping[Any, Any]) -> dict[Any, Any]:
    """The message with 'images/cam_high' for {'images': {'cam_high': ...}}."""
    flat: dict[Any, Any] = {}
    for key, value in message.items():
        if key in NESTED and isinstance(value, dict):
            flat |= {f'{key}/{inner}': entry for inner, entry in value.items()}
        else:
            flat[key] = value
    return flat


def find_dialect(
    message: Mapping[Any, Any], dialects: Sequence[Dialect], others: Collection[str]
) -> Dialect | None:
    """The dialect whose camera a message holds, None if it holds no camera.

    Args:
        message: as `flatten` gives it.
        dialects: of the protocol.
        others: keys that every dialect may have.

    Raises:
        Malformed: an unknown key, with the nearest one that is read, or several cameras.
    """
    read = list(dict.fromkeys(key for dialect in dialects for key in dialect.needed))
    valid = {*read, *others, *ignored_keys(dialects)}
    for key in message:
        if key not in valid:
            name = key if isinstance(key, str) else repr(key)
            raise Malformed(f'Unknown key {name[:80]!r}{nearest(name[:80], [*read, *others])}')
    present = [dialect for dialect in dialects if dialect.camera in message]
    if len(present) > 1:
        raise Malformed(
            f'{" and ".join(repr(dialect.camera) for dialect in present)} are both cameras that the '
            'policy would see; send one of them.'
        )
    return present[0] if present else None
