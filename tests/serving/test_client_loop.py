"""The client loop of rt2_jax/data/README.md, in process and against a server: the same actions."""

import pathlib
import re
import sys
import types

import numpy as np
import pytest
from running import Robot, running

from rt2_jax.policy import Policy
from rt2_jax.serving import codec

README = pathlib.Path(__file__).parents[2] / 'rt2_jax' / 'data' / 'README.md'


@pytest.fixture
def loop(monkeypatch):
    """What the README's code defines. Where openpi-client is missing, the tests' own client is taken."""

    class Client(Robot):
        def __init__(self, host, port):
            super().__init__(f'ws://{host}:{port}/')

        def infer(self, observation):
            self.connection.send(codec.packb(observation))
            return self.receive()

    module = types.ModuleType('openpi_client.websocket_client_policy')
    module.WebsocketClientPolicy = Client
    monkeypatch.setitem(sys.modules, 'openpi_client', types.ModuleType('openpi_client'))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (code,) = re.findall(r'```python\n(import time.*?)```', README.read_text(), re.DOTALL)
    names = {}
    exec(code, names)
    return names


def test_both_ways_of_asking_give_the_same_actions(loop, tiny_checkpoint):
    pictures = list(np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8))

    def asked(ask):
        actions, flags = zip(*(ask(picture, 'pick banana') for picture in pictures), strict=True)
        return np.array(actions), flags

    here = asked(loop['in_process'](tiny_checkpoint))
    with running(Policy.from_checkpoint(tiny_checkpoint, batch_sizes=(1,))) as server:
        there = asked(loop['served']('127.0.0.1', server.port))
    assert here[0].shape == (6, 7) and here[1] == there[1]
    np.testing.assert_allclose(here[0], there[0], rtol=1e-6)


def test_an_episode_ends_by_the_flag_or_by_time(loop):
    flags = iter([False, False, True])
    moves = []
    ask = lambda image, instruction: (instruction, next(flags))
    assert loop['play'](ask, moves.append, lambda: None, 'pick', 1000, 1)
    assert moves == ['pick', 'pick']  # what comes beside the flag isn't carried out
    flags = iter([False, True])
    assert loop['play'](ask, moves.append, lambda: None, 'push', 1000, 1, last=True)
    assert moves[2:] == ['push', 'push']
    assert not loop['play'](lambda *_: (0, False), moves.append, lambda: None, 'pick', 1000, 0.003)
    assert len(moves) == 7
