"""vla-eval's protocol: the harness plays its benchmarks against the policy, by websocket.

The client speaks first, so it has an address of its own:

    ws://HOST:PORT/vla_eval?camera=NAME[,NAME ...]&convention=NAME&gripper=CLOSED,OPEN

Messages are msgpack maps {'type', 'payload', 'seq', 'timestamp'} (`codec.py` has their arrays):

    hello          'protocol_version' -> hello: what the policy sends and wants to see
    episode_start  forgets the episode before; no reply
    observation    a picture and an instruction -> action: 'actions' float64 [D], 'terminate'
    episode_end    as episode_start

What is refused is answered by `error`, and the connection stays open; nothing of it is remembered.
While the server warms up, connections wait.

Source: vla-eval 0.8.0 (allenai/vla-evaluation-harness, Apache 2.0): connection.py, specs.py, types.py,
protocol/messages.py, model_servers/serve.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math
import time
from typing import Any, cast

from absl import logging
import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from rt2_jax.nearest import nearest
from rt2_jax.policy import Policy
from rt2_jax.policy.answers import Answer
from rt2_jax.policy.conventions import Convention, to_internal
from rt2_jax.serving import codec, messages, openpi
from rt2_jax.serving.limits import Malformed, Refusal
from rt2_jax.serving.service import Service, Session

PROTOCOL_VERSION = 1  # of protocol/messages.py
PARAMETERS = ('camera', 'convention', 'gripper')
# The words of specs.py for the values that are closed and open.
_GRIPPER_FORMATS: dict[tuple[float, float], str] = {
    (1, -1): 'binary_close_positive',
    (-1, 1): 'binary_close_negative',
    (1, 0): 'binary_close_01',
    (0, 1): 'continuous_01',
}
_RAW = 'raw'  # "no convention enforced"
_POSITIONS = ('x', 'y', 'z')
_ROTATIONS = ('rx', 'ry', 'rz', 'roll', 'pitch', 'yaw')


@dataclasses.dataclass(frozen=True)
class Options:
    """What the address says of the benchmark.

    Attributes:
        cameras: names of the pictures that the policy sees, in its order; empty where only one comes.
        convention: of the actions.
        gripper: the values that are closed and open where they aren't the convention's.
    """

    cameras: tuple[str, ...]
    convention: Convention
    gripper: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.gripper is None:
            return
        if not all(map(math.isfinite, self.gripper)) or self.gripper[0] == self.gripper[1]:
            raise ValueError(f'gripper is {self.gripper}; two different numbers are needed.')
        if 'gripper' not in self.convention.describe():
            raise ValueError(
                "gripper is given, but the robot's embodiment card knows no gripper, or there is no card."
            )

    @classmethod
    def from_query(cls, query: Mapping[str, str], service: Service) -> Options:
        """The options of an address; Malformed for an unknown parameter or value."""
        for name in query:
            if name not in PARAMETERS:
                raise Malformed(f'Unknown parameter {name[:80]!r}{nearest(name[:80], PARAMETERS)}')
        convention = service.convention(query.get('convention'))
        try:
            gripper = _parse_gripper(query['gripper']) if 'gripper' in query else None
            names = query['camera'].split(',') if 'camera' in query else ()
            return cls(shown(names, service.policy), convention, gripper)
        except ValueError as error:
            raise Malformed(str(error)) from error

    def command(self, session: Session, action: np.ndarray) -> np.ndarray:
        """The numbers float64 [D] that the benchmark gets for an action [L]."""
        values, description = session.command(action), self.convention.describe()
        if self.gripper is None or self.gripper == _ends(description):
            return values
        closed, opened = self.gripper
        index = description['action_names'].index('gripper')
        closedness = (to_internal(values, description)[index] + 1) / 2
        values[index] = opened + closedness * (closed - opened)
        return values


def shown(names: Sequence[str], policy: Policy) -> tuple[str, ...]:
    """The benchmark's names of the pictures that a policy sees, in its order; its own by default.

    Raises:
        ValueError: others than it has cameras.
    """
    own = policy.cameras
    names = tuple(names) or (own if len(own) > 1 else ())
    if len(names) in (len(own) or 1, 0):
        return names
    seen = ', '.join(own) or 'one picture'
    raise ValueError(
        f'camera={",".join(names)} names {len(names)} of the pictures; the policy sees {seen}: as many '
        'of each are needed, in its order.'
    )


def describe(policy: Policy, options: Options) -> dict[str, Any]:
    """The payload of the hello; the harness keeps it in its results as `server_info`."""
    seen = {name: _spec('image', 0, 'rgb_hwc_uint8') for name in options.cameras}
    wanted, space = {}, policy.settings.state_space
    if len(options.cameras) > 1:
        wanted['send_wrist_image'] = True
    if space:
        wanted['send_state'] = True
        # LIBERO's rotation as robosuite and OpenVLA's copy of the data have it: its angle may exceed pi.
        # Others drop what they don't know.
        wanted['quat_no_antipodal'] = True
        seen['state'] = _spec('state', len(space.names), _RAW)
    return {
        'protocol_version': PROTOCOL_VERSION,
        'model_server': 'rt2_jax',
        'capabilities': {},
        'action_spec': action_spec(options),
        'observation_spec': {**seen, 'language': _spec('language', 0, 'language')},
        **({'observation_params': wanted} if wanted else {}),
        'policy': openpi.describe_policy(policy, options.convention),
    }


def action_spec(options: Options) -> dict[str, dict[str, Any]]:
    """What the actions' numbers are, in the words of specs.py.

    Cards don't say how rotations are written, so these are 'raw', and so is a gripper's change.
    """
    description, card = options.convention.describe(), options.convention.card
    names = [name.removeprefix('d') for name in description['action_names']]
    axes = [name for name in names if name in _POSITIONS]
    formats = {'position': f'{card.motion}_{"".join(axes)}' if card else _RAW, 'rotation': _RAW}
    spec = {}
    for part, members in {'position': _POSITIONS, 'rotation': _ROTATIONS}.items():
        if indices := [i for i, name in enumerate(names) if name in members]:
            spec[part] = _spec(part, len(indices), formats[part])
            spec[part]['range'] = [
                min(description['action_low'][i] for i in indices),
                max(description['action_high'][i] for i in indices),
            ]
            units = (f'{names[i]} in {description["action_units"][i]}' for i in indices)
            spec[part]['description'] = ', '.join(units)
    if gripper := description.get('gripper'):
        ends = options.gripper or _ends(description)
        absolute = gripper['kind'] == 'absolute'
        known = _GRIPPER_FORMATS.get(ends, _RAW) if absolute else _RAW
        spec['gripper'] = _spec('gripper', 1, known) | {'range': sorted(ends)}
        verbs = ('closed', 'open') if absolute else ('closes', 'opens')
        spec['gripper']['description'] = ', '.join(
            f'{value:g} {verb}' for value, verb in zip(ends, verbs, strict=True)
        )
    return spec


def action_payload(session: Session, action: np.ndarray, options: Options) -> dict[str, Any]:
    """The payload of the reply to an observation; `action` is [L], as the policy decided it."""
    payload: dict[str, Any] = {'actions': options.command(session, action)}
    if options.convention.space.terminate:
        payload['terminate'] = session.ends(action)
    return payload


def configuration(service: Service, query: Mapping[str, str]) -> dict[str, Any]:
    """The reply of GET /config; Malformed where it is asked to change something."""
    if query:
        names = ', '.join(name[:80] for name in query)
        raise Malformed(f"{names}: this server's configuration is set by its command, not here.")
    return {
        'applied': {},
        'config': {
            'max_batch_size': service.policy.batch_sizes[-1],
            'max_wait_time': service.settings.longest_wait,
            **dataclasses.asdict(service.settings),
            'limits': dataclasses.asdict(service.limits),
            'policy': openpi.describe_policy(service.policy, service.convention()),
        },
    }


async def serve(websocket: WebSocket, service: Service, options: Options) -> None:
    """Serves one client until it leaves; NotReady if the server stops before it is warm."""
    service.count_robots(1)
    try:
        await service.wait_until_warm()
        await websocket.accept()
        client = _Client(websocket, service, options)
        event = await websocket.receive()
        while event['type'] != 'websocket.disconnect':
            await client.answer(event.get('bytes'))
            event = await websocket.receive()
    except (WebSocketDisconnect, OSError):
        pass  # the client left in the middle
    finally:
        service.count_robots(-1)


class _Client:
    """One connection: whether it said hello, and what is remembered of its episode."""

    def __init__(self, websocket: WebSocket, service: Service, options: Options) -> None:
        self._websocket, self._service, self._options = websocket, service, options
        self._session = service.new_session(options.convention)
        self._greeted = False
        self._handlers = {
            'hello': self._hello,
            'episode_start': self._forget,
            'episode_end': self._forget,
            'observation': self._act,
            'error': self._log,
        }

    async def answer(self, message: bytes | None) -> None:
        """Answers one message, whatever it is; None is a text."""
        seq = 0
        try:
            with self._service.count_request('vla_eval') as labels:
                fields = _read(message)
                seq = fields['seq']
                handler = self._handlers.get(fields['type'])
                if handler is None:
                    name = str(fields['type'])[:40]
                    raise Malformed(f'Unknown type {name!r}{nearest(name, self._handlers)}')
                await handler(labels, fields['payload'], seq)
        except Refusal as refusal:
            await self._send('error', {'error': f'{type(refusal).__name__}: {refusal}'}, seq)

    async def _hello(self, labels: dict[str, str], payload: dict[str, Any], seq: int) -> None:
        labels['wants'] = 'hello'
        version = payload.get('protocol_version')
        if version != PROTOCOL_VERSION:
            text = (
                f'The client speaks version {str(version)[:40]} of the protocol; this server speaks '
                f"{PROTOCOL_VERSION}, that of vla-eval 0.8: pip install 'vla-eval>=0.8,<0.9'."
            )
            logging.warning('%s', text)  # the harness doesn't show it
            raise Malformed(text)
        self._greeted = True
        await self._send('hello', describe(self._service.policy, self._options), seq)

    async def _forget(self, labels: dict[str, str], payload: dict[str, Any], seq: int) -> None:
        labels['wants'] = 'reset'
        self._session = self._service.new_session(self._options.convention)

    async def _act(self, labels: dict[str, str], payload: dict[str, Any], seq: int) -> None:
        if not self._greeted:
            raise Malformed('An observation came before the hello, which agrees on the protocol.')
        read = functools.partial(
            messages.from_vla_eval,
            payload,
            self._service.limits,
            self._options.cameras,
            self._service.needs.state,
        )
        session = self._session.copy()
        with self._service.slot():
            _, answer, _ = await self._service.answer(labels, read, session)
            action = cast(Answer, answer).action
            await self._send('action', action_payload(session, action, self._options), seq)
        self._session = session

    async def _log(self, labels: dict[str, str], payload: dict[str, Any], seq: int) -> None:
        logging.warning('the vla-eval client says: %s', str(payload)[:400])

    async def _send(self, kind: str, payload: dict[str, Any], seq: int) -> None:
        message = {'type': kind, 'payload': payload, 'seq': seq, 'timestamp': time.time()}
        await self._websocket.send_bytes(codec.pack_vla_eval(message))


def _read(message: bytes | None) -> dict[str, Any]:
    """The fields of a message; Malformed if it is none."""
    if message is None:
        raise Malformed('A text came; a message of vla-eval is binary, of msgpack.')
    try:
        fields = codec.unpack_vla_eval(message)
    except ValueError as error:
        raise Malformed(str(error)) from error
    if not isinstance(fields, dict):
        raise Malformed(f'A message is a map; got {type(fields).__name__}.')
    for key, kind in {'type': str, 'payload': dict, 'seq': int}.items():
        if not isinstance(fields.get(key), kind):
            raise Malformed(
                f'{key!r} of the message is {str(fields.get(key))[:40]!r}; a {kind.__name__} is needed.'
            )
    return fields


def _parse_gripper(text: str) -> tuple[float, float]:
    try:
        closed, opened = map(float, text.split(','))
    except ValueError:
        raise ValueError(
            f'gripper is {text[:40]!r}; the values that are closed and open are needed, as 1,-1.'
        ) from None
    return closed, opened


def _ends(description: Mapping[str, Any]) -> tuple[float, float]:
    return description['gripper']['closed'], description['gripper']['open']


def _spec(name: str, dimensions: int, form: str) -> dict[str, Any]:
    """A DimSpec of specs.py."""
    return {'name': name, 'dims': dimensions, 'format': form}
