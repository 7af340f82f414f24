"""A server in a thread, with a tiny policy, and published clients: what the tests of serving share."""

import contextlib
import copy
import dataclasses
import functools
import json
import os
import pathlib
import socket
import subprocess
import threading
import time

import cv2
import numpy as np
import requests
from websockets.sync.client import connect

from rt2_jax.data.cards import TABLETOP
from rt2_jax.policy import Policy
from rt2_jax.serving.codec import packb, unpackb
from rt2_jax.serving.server import Server
from rt2_jax.serving.service import Service

CLIENT = pathlib.Path(__file__).with_name('published_client.py')
HOW = (
    'the published clients want an environment of their own: python -m venv ENV; ENV/bin/pip install '
    'openpi-client typing_extensions json-numpy requests; OPENPI_PYTHON=ENV/bin/python pytest -m slow '
    'tests/serving; OPENPI_WORKDIR=DIR has them play a checkpoint'
)


@dataclasses.dataclass
class Running:
    """A server that runs, and how to speak to it."""

    server: Server
    port: int
    thread: threading.Thread

    @property
    def http(self) -> str:
        return f'http://127.0.0.1:{self.port}'

    def robot(self, query: str = '', **settings) -> 'Robot':
        return Robot(f'ws://127.0.0.1:{self.port}/{query}', **settings)

    def metric(self, line: str) -> float:
        """The value of one line of /metrics."""
        text = requests.get(f'{self.http}/metrics', timeout=5).text
        return sum(float(x.split()[-1]) for x in text.splitlines() if x.startswith(line))


class Robot:
    """A client of openpi's protocol, as the published one is."""

    def __init__(self, address, **settings):
        self._open = contextlib.ExitStack()
        opening = connect(address, compression=None, **settings)
        self.connection = self._open.enter_context(opening)
        self.metadata = unpackb(self.connection.recv(timeout=10))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._open.close()

    def send(self, picture, prompt='pick banana', **more):
        self.connection.send(packb({'observation/image': picture, 'prompt': prompt, **more}))

    def receive(self):
        reply = self.connection.recv(timeout=20)
        if isinstance(reply, str):
            raise RuntimeError(reply)
        return unpackb(reply)

    def infer(self, picture, prompt='pick banana', **more):
        self.send(picture, prompt, **more)
        return self.receive()


class Person:
    """Someone who plays, without a browser."""

    def __init__(self, server, origin=None):
        address = f'127.0.0.1:{server.port}'
        self._open = contextlib.ExitStack()
        opening = connect(f'ws://{address}/demo/play', origin=origin or f'http://{address}')
        self.socket = self._open.enter_context(opening)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._open.close()

    def send(self, do, **fields):
        self.socket.send(json.dumps({'do': do, **fields}))

    def until(self, kind):
        """The messages up to the first of a kind."""
        messages = []
        while not messages or messages[-1]['kind'] != kind:
            messages.append(json.loads(self.socket.recv(timeout=60)))
        return messages

    def ask_for(self, kind, do, **fields):
        """Sends a message, and gives the first of a kind that comes then."""
        self.send(do, **fields)
        return self.until(kind)[-1]


@contextlib.contextmanager
def running(policy, *, api_key=None, wait=True, demo=None, port=0, **settings):
    """A server of `policy`, with the page `demo(service)` if there is one; `settings` are the service's."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(('127.0.0.1', port))
    listener.listen()
    service = Service(policy, **settings)
    server = Server(service, api_key=api_key, demo=demo and demo(service))
    thread = threading.Thread(target=server.serve_until_stopped, args=[listener])
    thread.start()
    found = Running(server, listener.getsockname()[1], thread)
    try:
        while wait and not server.service.ready:
            assert thread.is_alive(), 'the server ended'
            time.sleep(0.01)
        yield found
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), 'the server did not end'


@contextlib.contextmanager
def deciding(policy, decisions, **settings):
    """A server of a policy that decides these, one a request."""
    policy, left = copy.copy(policy), iter(decisions)
    policy.run = lambda questions, **_: [next(left) for _ in questions]
    policy.warm_up = lambda *_, **__: None
    with running(policy, **settings) as server:
        yield server


@functools.cache
def tiny_policy(tiny, **data) -> Policy:
    """A policy with random weights that is compiled in seconds, once for all tests; `data` of its config."""
    config = tiny.config().unlock()
    config.data.update(data)
    policy = Policy.from_config(
        config.lock(), tiny.params(1), tiny.tokenizer, TABLETOP.action_space, batch_sizes=(4,),
        embodiment=TABLETOP,
    )  # fmt: skip
    policy.source, policy.sources = 'tabletop', ('bridge_dataset', 'tabletop')
    return policy


def twelve_pictures() -> list[np.ndarray]:
    """Pictures that the tiny policy acts on differently."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), np.uint8)
    return [cv2.resize(picture, (40, 40), interpolation=cv2.INTER_NEAREST) for picture in coarse]


@contextlib.contextmanager
def published(protocol, port):
    """A function: an observation to the action that the published client gets."""
    command = [os.environ['OPENPI_PYTHON'], str(CLIENT), protocol, str(port)]
    # Nothing of this environment is seen by the other.
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:

        def ask(observation, **more):
            asked = {'image': observation['image'][0], 'prompt': observation['instruction']}
            asked['more'] = more
            message = packb(asked)
            process.stdin.write(len(message).to_bytes(8, 'big') + message)
            process.stdin.flush()
            head = process.stdout.read(8)
            assert head, 'the client died'
            found = unpackb(process.stdout.read(int.from_bytes(head, 'big')))
            if 'error' in found:
                raise RuntimeError(found['error'])
            return np.array([found['terminate'], *found['action']], np.float32)

        yield ask
        process.stdin.close()
