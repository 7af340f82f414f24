"""vla-eval's protocol: its documented frames, from a client of ours."""

import asyncio
import concurrent.futures
import contextlib
import copy
import json
import pathlib
import threading
import time

import cv2
import msgpack
import numpy as np
import pytest
import requests
from running import deciding, running, tiny_policy, twelve_pictures
import websockets
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from rt2_jax.data.cards import BRIDGE_DATASET, FRACTAL
from rt2_jax.policy import Policy
from rt2_jax.policy.answers import Answer
from rt2_jax.serving import server as server_module, vla_eval
from rt2_jax.serving.limits import Limits

HELLO = {'harness_version': '0.8.0', 'protocol_version': 1}
TASK = {'task_description': 'pick banana'}


def png(pixels):
    """A picture as the harness sends it."""
    ok, encoded = cv2.imencode('.png', np.ascontiguousarray(pixels[..., ::-1]))
    assert ok
    return {
        '__image__': True, 'format': 'png', 'data': encoded.tobytes(), 'shape': list(pixels.shape)
    }  # fmt: skip


def array(values):
    """An array as the harness sends it."""
    values = np.asarray(values)
    return {
        '__ndarray__': True,
        'data': values.tobytes(),
        'dtype': values.dtype.str,
        'shape': list(values.shape),
    }


class Harness:
    """A client that writes the frames by hand."""

    def __init__(self, server, query='', greet=True):
        self._open = contextlib.ExitStack()
        address = f'ws://127.0.0.1:{server.port}/vla_eval{query}'
        self.socket = self._open.enter_context(connect(address, compression=None))
        self.seq = 0
        if greet:
            kind, self.server_info = self.ask('hello', HELLO)
            assert kind == 'hello'

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._open.close()

    def send(self, kind, payload):
        self.seq += 1
        message = {'type': kind, 'payload': payload, 'seq': self.seq, 'timestamp': time.time()}
        self.socket.send(msgpack.packb(message))

    def receive(self):
        """Type and payload of the next message."""
        reply = msgpack.unpackb(self.socket.recv(timeout=20))
        assert set(reply) == {'type', 'payload', 'seq', 'timestamp'}
        assert reply['seq'] in (self.seq, 0)
        return reply['type'], reply['payload']

    def ask(self, kind, payload):
        self.send(kind, payload)
        return self.receive()

    def act(self, pixels, **more):
        """The numbers of the action for a picture."""
        kind, payload = self.ask('observation', {'images': {'front': png(pixels)}, **TASK, **more})
        assert kind == 'action', payload
        fields = payload['actions']
        assert fields['__ndarray__'] is True
        return np.frombuffer(fields['data'], fields['dtype']).reshape(fields['shape'])


@pytest.fixture(scope='module')
def policy(tiny):
    return tiny_policy(tiny)


@pytest.fixture(scope='module')
def pictures():
    return twelve_pictures()


@pytest.fixture(scope='module')
def server(policy):
    with running(policy, limits=Limits(image_side=64)) as found:
        yield found


def test_actions_are_those_decided_in_process(server, policy, pictures):
    wanted = policy.act_batch(pictures, ['pick banana'] * len(pictures))
    with Harness(server) as harness:
        harness.send('episode_start', {'task': {'name': 'pick banana'}})
        for picture, answer in zip(pictures, wanted, strict=True):
            found = harness.act(picture, states=array(np.zeros([8])))
            assert found.dtype == np.float64 and found.shape == (7,)
            np.testing.assert_array_equal(found.astype(np.float32), answer.action[1:])
        harness.send('episode_end', {'metrics': {'success': True}})


def test_pictures_come_in_each_format(server, policy, pictures):
    pixels = pictures[0]
    wanted = policy.act(pixels, 'pick banana').action
    jpeg = cv2.imencode('.jpg', pixels[..., ::-1])[1].tobytes()
    raw = {'format': 'raw', 'data': pixels.tobytes(), 'dtype': '|u1'}
    with Harness(server) as harness:
        for picture in (
            png(pixels),
            png(pixels) | raw,
            array(pixels),
            png(pixels) | {'format': 'jpeg', 'data': jpeg},
        ):
            kind, payload = harness.ask('observation', {'images': {'front': picture}, **TASK})
            assert kind == 'action' and payload['terminate'] == (wanted[0] > 0.5)
            if picture.get('format') != 'jpeg':
                np.testing.assert_array_equal(
                    np.frombuffer(payload['actions']['data']).astype(np.float32), wanted[1:]
                )


def test_the_hello_says_what_is_sent_and_wanted(server):
    with Harness(server, '?camera=agentview') as harness:
        info = harness.server_info
    assert info['protocol_version'] == 1
    assert info['action_spec']['position']['format'] == 'delta_xyz'
    assert info['action_spec']['gripper'] == {
        'name': 'gripper', 'dims': 1, 'format': 'binary_close_positive',
        'range': [-1, 1], 'description': '1 closed, -1 open',
    }  # fmt: skip
    # How a card's rotations are written is not known, and so not claimed.
    assert info['action_spec']['rotation']['format'] == 'raw'
    assert info['observation_spec']['agentview']['format'] == 'rgb_hwc_uint8'
    assert set(info['observation_spec']) == {'agentview', 'language'}
    assert info['policy']['source'] == 'tabletop' and info['policy']['convention'] == 'robot'


def test_the_camera_is_named_by_the_address(server, policy, pictures):
    images = {'wrist': png(pictures[1]), 'agentview': png(pictures[0])}
    with Harness(server, '?camera=agentview') as harness:
        kind, payload = harness.ask('observation', {'images': images, **TASK})
        wanted = policy.act(pictures[0], 'pick banana').action[1:]
        assert kind == 'action'
        np.testing.assert_array_equal(
            np.frombuffer(payload['actions']['data']).astype(np.float32), wanted
        )
        kind, payload = harness.ask('observation', {'images': {'wrist': images['wrist']}, **TASK})
        assert kind == 'error' and "No picture of the camera 'agentview'" in payload['error']
        assert "Got: 'wrist'." in payload['error']
    with Harness(server) as harness:
        kind, payload = harness.ask('observation', {'images': images, **TASK})
        assert kind == 'error' and '2 pictures came' in payload['error']
        assert "Got: 'wrist', 'agentview'." in payload['error']


def observation(picture, **more):
    return 'observation', {'images': {'front': picture}, **TASK, **more}


SMALL = np.zeros([8, 8, 3], np.uint8)
WRONG = {
    'no images': (('observation', TASK), "The key 'images' is missing. Got: 'task_description'"),
    'no picture': (('observation', {'images': {}, **TASK}), "'images' is empty"),
    'one array': (('observation', {'images': array(SMALL), **TASK}), 'got ndarray'),
    'no text': (('observation', {'images': {'front': png(SMALL)}}), "'task_description' is missing"),
    'empty text': (observation(png(SMALL), task_description=' '), 'is empty'),
    'cut': (observation(png(SMALL) | {'data': png(SMALL)['data'][:40]}), 'damaged'),
    'text for bytes': (observation(png(SMALL) | {'data': 'x'}), 'not bytes'),
    'four channels': (observation(png(SMALL) | {'shape': [8, 8, 4]}), '[H, W, 3]'),
    'no such format': (observation(png(SMALL) | {'format': 'pngg'}), "did you mean 'png'"),
    'depth': (observation(array(np.zeros([8, 8, 3], np.float32))), 'uint8'),
    'objects': (observation(array(SMALL) | {'dtype': '|O'}), "'|O'"),
    'too large': (observation(png(np.zeros([65, 8, 3], np.uint8))), 'TooLarge'),
    'restart': (observation(png(SMALL), episode_restart='yes'), "'episode_restart' is yes"),
    'type': (('observatoin', {}), "did you mean 'observation'"),
    'payload': (('observation', [1]), "a dict is needed"),
    'version': (('hello', {'protocol_version': 2}), 'this server speaks 1'),
}  # fmt: skip


def test_errors_leave_the_connection_open_and_nothing_behind(server, policy, pictures):
    wanted = policy.act(pictures[0], 'pick banana').action[1:]
    with Harness(server) as harness:
        for name, (message, says) in WRONG.items():
            kind, payload = harness.ask(*message)
            assert kind == 'error' and says in payload['error'], (name, payload)
        for bytes_or_text in (b'\xc1', b'', 'hello', msgpack.packb([1])):
            harness.socket.send(bytes_or_text)
            kind, payload = harness.receive()
            assert kind == 'error' and payload['error'].startswith('Malformed: ')
        harness.send('error', {'error': 'the simulator fell over'})  # logged, not answered
        np.testing.assert_array_equal(harness.act(pictures[0]).astype(np.float32), wanted)
    assert server.metric('rt2_requests_total{outcome="malformed",protocol="vla_eval"') > 0


def test_an_observation_needs_a_hello(server, pictures):
    with Harness(server, greet=False) as harness:
        kind, payload = harness.ask(*observation(png(pictures[0])))
        assert kind == 'error' and 'before the hello' in payload['error']
        assert harness.ask('hello', HELLO)[0] == 'hello'
        harness.act(pictures[0])


@pytest.mark.parametrize(
    'query, says',
    {
        '?camra=agentview': "did you mean 'camera'",
        '?convention=robt': "did you mean 'robot'",
        '?gripper=1': 'the values that are closed and open',
        '?gripper=1,1': 'two different numbers',
    }.items(),
)
def test_wrong_addresses_are_refused(server, query, says):
    with pytest.raises(InvalidStatus, match='400') as refused:
        Harness(server, query)
    assert says in json.loads(refused.value.response.body)['error']


def test_health_and_configuration(server):
    assert requests.get(f'{server.http}/health', timeout=5).status_code == 200
    reply = requests.get(f'{server.http}/config', timeout=5).json()
    assert reply['applied'] == {} and reply['config']['max_batch_size'] == 4
    assert reply['config']['policy']['source'] == 'tabletop'
    refused = requests.get(f'{server.http}/config?max_batch_size=8', timeout=5)
    assert refused.status_code == 400 and 'set by its command' in refused.json()['error']


def decisions(card, changes):
    """Decisions whose gripper is these, in the project's own sense."""
    space, zeros = card.action_space, np.zeros(card.action_space.length)
    still = [0.0] * (space.terminate + len(space.names) - 1)
    return [
        Answer(np.float32([*still, change]), 0.0, zeros, '', zeros, zeros, zeros)
        for change in changes
    ]


@pytest.mark.parametrize(
    'card, query, changes, wanted',
    [
        (BRIDGE_DATASET, '', [1, -1], [0, 1]),
        (BRIDGE_DATASET, '?gripper=0,1', [1, -1], [0, 1]),
        (BRIDGE_DATASET, '?gripper=1,-1', [1, -1], [1, -1]),
        (BRIDGE_DATASET, '?gripper=-1,1', [1, -1], [-1, 1]),
        (FRACTAL, '?gripper=0,1', [1, 0, -1], [0, 0.5, 1]),
        (FRACTAL, '?gripper=1,-1&convention=position', [0, 1, 0, -1], [-1, 1, 1, -1]),
    ],
)
def test_the_gripper_that_a_benchmark_wants(tiny, pictures, card, query, changes, wanted):
    policy = Policy.from_config(
        tiny.config(), tiny.params(1), tiny.tokenizer, card.action_space, embodiment=card
    )
    with deciding(policy, decisions(card, changes)) as server, Harness(server, query) as harness:
        found = [harness.act(pictures[0])[-1] for _ in changes]
        spec = harness.server_info['action_spec']['gripper']
    np.testing.assert_allclose(found, wanted, atol=1e-7)
    assert spec['range'] == [min(wanted), max(wanted)]
    assert spec['format'] == ('raw' if 'closes' in spec['description'] else spec['format'])


def test_where_an_episode_begins_nothing_is_remembered(tiny, pictures):
    """A gripper that was closed is open again, and so it is after CALVIN's episode_restart."""
    policy = Policy.from_config(
        tiny.config(), tiny.params(1), tiny.tokenizer, FRACTAL.action_space, embodiment=FRACTAL
    )
    query = '?convention=position'
    with (
        deciding(policy, decisions(FRACTAL, [1, 0, 0, 1, 0, 1, 0])) as server,
        Harness(server, query) as harness,
    ):
        grippers = [harness.act(pictures[0])[-1] for _ in range(2)]
        harness.send('episode_start', {'task': {}})
        grippers += [harness.act(pictures[0])[-1] for _ in range(2)]
        grippers += [harness.act(pictures[0], episode_restart=True)[-1]]
        grippers += [harness.act(pictures[0])[-1]]
        harness.send('episode_end', {})
        grippers += [harness.act(pictures[0])[-1]]
    assert grippers == [1, 1, -1, 1, -1, 1, -1]


def test_a_client_that_simulates_for_long_is_not_dropped(policy, pictures, monkeypatch):
    """The harness steps its simulator in the thread that would answer pings."""
    monkeypatch.setattr(server_module, '_PING', 0.1)

    async def play(port):
        address = f'ws://127.0.0.1:{port}/vla_eval'
        async with websockets.connect(address, ping_interval=None) as connection:
            await connection.send(
                msgpack.packb({'type': 'hello', 'payload': HELLO, 'seq': 0, 'timestamp': 0.0})
            )
            await connection.recv()
            time.sleep(1)  # not asyncio's
            kind, payload = observation(png(pictures[0]))
            message = {'type': kind, 'payload': payload, 'seq': 1, 'timestamp': 0.0}
            await connection.send(msgpack.packb(message))
            return msgpack.unpackb(await connection.recv())['type']

    with running(policy) as server:
        assert asyncio.run(play(server.port)) == 'action'


def test_a_connection_waits_until_all_is_compiled(policy):
    """The harness gives up after few tries; it may start before the server is ready."""
    policy, compiled = copy.copy(policy), threading.Event()
    policy.warm_up = lambda *_: compiled.wait(20)
    with running(policy, wait=False) as server, concurrent.futures.ThreadPoolExecutor() as pool:
        connecting = pool.submit(Harness, server)
        while server.metric('rt2_connections') == 0:
            time.sleep(0.01)
        assert requests.get(f'{server.http}/health', timeout=5).status_code == 503
        assert not connecting.done()
        compiled.set()
        with connecting.result(20) as harness:
            assert harness.server_info['model_server'] == 'rt2_jax'


def test_a_server_that_stops_before_says_so(policy):
    policy, compiled = copy.copy(policy), threading.Event()
    policy.warm_up = lambda *_: compiled.wait(20)
    with running(policy, wait=False) as server, concurrent.futures.ThreadPoolExecutor() as pool:
        connecting = pool.submit(Harness, server)
        while server.metric('rt2_connections') == 0:
            time.sleep(0.01)
        server.server.should_exit = True
        with pytest.raises(InvalidStatus, match='503'):
            connecting.result(20)
        compiled.set()


def test_the_readme_has_a_command_for_each_benchmark():
    text = (pathlib.Path(vla_eval.__file__).with_name('README.md')).read_text()
    for camera in ('agentview', 'primary', 'rgb_static'):
        assert f'/vla_eval?camera={camera}' in text
    for name in vla_eval.PARAMETERS:
        assert f'`{name}`' in text
