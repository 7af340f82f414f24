"""A served policy in closed_loop: asks a server over the network, as robots do.

ws://HOST:PORT      openpi's websocket protocol: one frame a step, the server remembers the others
http://HOST:PORT    OpenVLA's POST /act: each request has all that the policy sees
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import concurrent.futures
import contextlib
import dataclasses
import os
import re
import time
from typing import Any
import urllib.parse

import numpy as np
import requests
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

from rt2_jax.data.robot_card import Gripper, RobotCard
from rt2_jax.errors import UserError
from rt2_jax.evaluation.closed_loop import Decide, Move
from rt2_jax.policy.conventions import to_internal
from rt2_jax.policy.observations import by_camera
from rt2_jax.serving import codec
from rt2_jax.serving.limits import API_KEY_VARIABLE
from rt2_jax.serving.openvla import TERMINATE

SCHEMES = ('ws', 'wss', 'http', 'https')
_SECONDS = 60.0
_NEEDED = ('frames', 'frame_stride', 'terminate', 'action_names', 'action_units')  # of the metadata
# Refusals after which the same message may be sent again.
_PASSES = re.compile('Overloaded|Expired')
_TRIES, _WAIT = 20, 0.5  # of a message that the server asks to send again, and seconds between


class ServerError(UserError, RuntimeError):
    """The server refuses an observation, or is gone."""


class Server:
    """A server of a policy.

    Actions come in the robot's own numbers, or in those that the server was started with, and are
    turned to the project's own by the server's metadata. The key is taken from the environment variable
    RT2_API_KEY.

    Args:
        url: of one of SCHEMES, '?convention=NAME' included (`rt2_jax/policy/conventions.py`).
        parallel: most requests at a time.
        card: of the robot of the world that is played.

    Attributes:
        metadata: what the server says of its policy.
        frames: that `closed_loop.run` keeps: with openpi's protocol the server remembers them.
        frame_stride: steps from one of them to the next.
        cameras: names of those that the policy sees; empty for one without a name.
        embodiment: the card for `closed_loop.run`, which follows a gripper that comes as changes.

    Raises:
        ValueError: no such address, or no server there.
    """

    def __init__(self, url: str, parallel: int, card: RobotCard) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.netloc:
            raise ValueError(f'{url!r} is no address such as ws://HOST:8000 or http://HOST:8000.')
        self._url = parts._replace(path=parts.path.rstrip('/'), query='').geturl()
        self._query = f'?{parts.query}' if parts.query else ''
        self._openpi = parts.scheme.startswith('ws')
        self._headers = {'Authorization': f'Api-Key {os.environ.get(API_KEY_VARIABLE, "")}'}
        self._pool = concurrent.futures.ThreadPoolExecutor(parallel)
        self._open = contextlib.ExitStack()
        # One conversation for each environment, since the server remembers a robot by its connection.
        self._robots: dict[int, Any] = {}
        try:
            self.metadata = self._describe()
        except (OSError, ValueError, requests.RequestException) as error:
            raise ValueError(f'{url} gives no description of its policy: {error}') from error
        if missing := [name for name in _NEEDED if name not in self.metadata]:
            raise ValueError(
                f'{url} describes its policy without {", ".join(missing)}: it is no server of rt2_jax, '
                'or an older one'
            )
        self.frames = 1 if self._openpi else self.metadata['frames']
        self.frame_stride = self.metadata['frame_stride']
        self.cameras = tuple(self.metadata.get('cameras', ()))
        self.embodiment = self._relative_gripper(card)

    def close(self) -> None:
        """Closes the connections."""
        self._open.close()
        self._pool.shutdown()

    def decide(self) -> Decide:
        """Actions of the server's policy, for `closed_loop.run`."""

        def decide(observations: Sequence[dict[str, Any]], envs: Sequence[Any]) -> list[Move]:
            moves = [
                self._pool.submit(self._ask, self._robot(env), observation)
                for env, observation in zip(envs, observations, strict=True)
            ]
            return [move.result() for move in moves]

        return decide

    def _relative_gripper(self, card: RobotCard) -> RobotCard | None:
        """The card with the gripper that the server's actions have, where that is a relative one."""
        if self.metadata.get('gripper', {}).get('kind') != 'relative':
            return None
        return dataclasses.replace(card, gripper=Gripper('relative', closed=1.0, open=-1.0))

    def _describe(self) -> dict[str, Any]:
        url = self._url.replace('ws', 'http', 1) if self._openpi else self._url
        reply = requests.get(f'{url}/{self._query}', headers=self._headers, timeout=_SECONDS)
        reply.raise_for_status()
        return reply.json()

    def _robot(self, env: Any) -> Any:
        """The conversation of an environment; ServerError if the server takes no more."""
        if id(env) not in self._robots:
            if self._openpi:
                try:
                    opening = connect(
                        f'{self._url}/{self._query}',
                        compression=None,
                        max_size=None,
                        additional_headers=self._headers,
                    )
                except (OSError, WebSocketException) as error:
                    raise ServerError(f'{self._url} takes no connection: {error}') from error
                connection = self._open.enter_context(opening)
                connection.recv()  # the metadata again
                self._robots[id(env)] = connection
            else:
                session = self._open.enter_context(requests.Session())
                session.headers.update(self._headers)
                self._robots[id(env)] = session
        return self._robots[id(env)]

    def _ask(self, robot: Any, observation: dict[str, Any]) -> Move:
        """An action float32 [L] and its plan; ServerError with the server's words if it refuses."""
        frames, instruction = observation['image'], observation['instruction']
        sent: dict[str, Any] = {
            name: views[0] if len(views) == 1 else views
            for name, views in by_camera(frames, self.cameras or ('image',)).items()
        }
        if 'state' in self.metadata:
            sent['state'] = observation['state']
        if self._openpi:
            action, terminate, plan = self._by_openpi(
                robot, sent, instruction, observation['is_first']
            )
        else:
            action, terminate = self._by_openvla(robot, sent, instruction)
            plan = ''  # its replies have none
        flag = [] if terminate is None else [float(terminate)]
        return Move(np.array([*flag, *to_internal(action, self.metadata)], np.float32), plan)

    def _by_openpi(
        self, robot: Any, sent: dict[str, Any], instruction: str, begins: bool
    ) -> tuple[np.ndarray, Any, str]:
        message = {f'observation/{name}': value for name, value in sent.items()}
        message |= {'prompt': instruction, 'reset': begins}
        packed = codec.packb(message)

        def ask() -> Any:
            robot.send(packed)
            return robot.recv(timeout=_SECONDS)

        reply = self._asked(ask, lambda reply: reply if isinstance(reply, str) else '')
        answer = codec.unpackb(reply)
        flag = answer['terminate'][0] if 'terminate' in answer else None
        return answer['actions'][0], flag, answer['plan']

    def _by_openvla(
        self, robot: requests.Session, sent: dict[str, Any], instruction: str
    ) -> tuple[np.ndarray, Any]:
        message = codec.dumps({**sent, 'instruction': instruction})
        reply = self._asked(
            lambda: robot.post(f'{self._url}/act{self._query}', message, timeout=_SECONDS),
            lambda reply: '' if reply.ok else reply.text or str(reply.status_code),
        )
        flag = reply.headers.get(TERMINATE)
        return codec.loads(reply.text), None if flag is None else int(flag)

    def _asked(self, ask: Callable[[], Any], refusal: Callable[[Any], str]) -> Any:
        """A reply that is no refusal; one of a server that has too much to do is waited out."""
        for tried in range(1, _TRIES + 1):
            try:
                reply = ask()
            except (OSError, ConnectionClosed, requests.RequestException) as error:
                raise ServerError(
                    f'{self._url} is gone: {type(error).__name__}: {error}'
                ) from error
            words = refusal(reply)
            if not words:
                return reply
            if not _PASSES.search(words) or tried == _TRIES:
                raise ServerError(f'{self._url} refuses: {words}')
            time.sleep(_WAIT)
