"""The server, spoken to as robots do: what it answers, whom, and when it does not."""

import concurrent.futures
import copy
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import requests
from running import running, tiny_policy, twelve_pictures
from websockets.exceptions import ConnectionClosed, InvalidStatus

from rt2_jax.data import images
from rt2_jax.serving import codec
from rt2_jax.serving.limits import API_KEY_VARIABLE, Limits, read_key
from rt2_jax.serving.service import Settings

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUESTION = 'Q: what is on the table? A:'


@pytest.fixture(scope='module')
def policy(tiny):
    return tiny_policy.__wrapped__(tiny)  # its own, whose programs are counted


@pytest.fixture(scope='module')
def compiled_before(policy):
    """Programs of the samplers of other files that ran in this process."""
    return policy.sampler._sample._cache_size()


@pytest.fixture(scope='module')
def server(policy, compiled_before):
    with running(policy) as found:
        yield found


@pytest.fixture(scope='module')
def pictures():
    return twelve_pictures()


def held(policy):
    """The policy, and an event that its batches wait for."""
    policy, gate = copy.copy(policy), threading.Event()
    run = policy.run

    def when_let_go(*arguments, **settings):
        assert gate.wait(20)
        return run(*arguments, **settings)

    policy.run = when_let_go
    return policy, gate


def post(server, path, message, **settings):
    return requests.post(f'{server.http}{path}', codec.dumps(message), timeout=20, **settings)


def test_an_action_is_the_one_decided_in_process(server, policy, pictures):
    wanted = policy.act(pictures[0], 'pick banana')
    with server.robot() as robot:
        found = robot.infer(pictures[0])
    np.testing.assert_array_equal(found['actions'], wanted.action[None, 1:])
    assert found['terminate'].tolist() == [wanted.action[0] > 0.5]
    assert found['log_prob'] == pytest.approx(wanted.log_prob, abs=1e-4)
    assert found['policy_timing']['infer_ms'] > 0
    # openpi's chunk broker slices every array of a reply along the horizon, which is one step here.
    assert {len(x) for x in found.values() if isinstance(x, np.ndarray)} == {1}
    reply = post(server, '/act', {'image': pictures[0], 'instruction': 'pick banana'})
    action = codec.loads(reply.text)
    assert action.dtype == np.float64 and action.shape == (7,)
    np.testing.assert_array_equal(action.astype(np.float32), wanted.action[1:])
    assert reply.headers['RT2-Terminate'] == str(int(wanted.action[0]))


def test_metadata_says_what_the_numbers_mean(server):
    with server.robot() as robot:
        found = robot.metadata
    assert found == requests.get(server.http, timeout=5).json()
    assert found['action_names'][0] == 'dx' and found['action_units'][3] == 'rad'
    assert (found['hz'], found['image_size'], found['frames']) == (3.0, 16, 1)
    assert found['gripper'] == {'kind': 'absolute', 'closed': 1.0, 'open': -1.0}


def test_previous_time_comes_with_the_second_reply(server, pictures):
    with server.robot() as robot:
        first, second = (robot.infer(pictures[0])['server_timing'] for _ in range(2))
    assert 'prev_total_ms' not in first and second['prev_total_ms'] >= first['infer_ms']


def test_questions_are_answered_in_words(server, policy, pictures):
    wanted = policy.answer_batch(pictures[:1], [QUESTION], raw=True)[0]
    assert wanted
    with server.robot() as robot:
        assert robot.infer(pictures[0], QUESTION)['text'] == wanted
    for question in ('what is on the table', QUESTION):
        reply = post(server, '/answer', {'image': pictures[0], 'question': question})
        assert reply.json() == {'text': wanted}
    refused = post(server, '/act', {'image': pictures[0], 'instruction': QUESTION})
    assert refused.status_code == 400 and '/answer' in refused.json()['error']


def test_a_robot_prompt_written_out_is_its_instruction(server, policy, pictures):
    with server.robot() as robot:
        short = robot.infer(pictures[0])
        whole = robot.infer(pictures[0], 'Q: what action should the robot take to pick banana? A:')
    np.testing.assert_array_equal(short['actions'], whole['actions'])


def test_doubly_encoded_requests_get_doubly_encoded_answers(server, pictures):
    message = {'image': pictures[0], 'instruction': 'pick banana', 'unnorm_key': 'tabletop'}
    plain = codec.loads(post(server, '/act', message).text)
    twice = post(server, '/act', {'encoded': codec.dumps(message)}).json()
    np.testing.assert_array_equal(codec.loads(twice), plain)


def test_compressed_pictures_are_decoded(server, policy, pictures):
    jpeg = images.encode_jpeg(pictures[0])
    wanted = policy.act(jpeg, 'pick banana')
    with server.robot() as robot:
        np.testing.assert_array_equal(robot.infer(jpeg)['actions'][0], wanted.action[1:])


def test_robots_are_batched_and_none_gets_anothers_answer(server, policy, pictures):
    wanted = [decision.action[1:] for decision in policy.act_batch(pictures, ['pick banana'] * 12)]
    assert len({x.tobytes() for x in wanted}) > 6, 'the pictures must tell the answers apart'
    before = server.metric('rt2_batch_size_count')

    def one(number):
        with server.robot() as robot:
            for turn in range(8):
                at = (number + turn) % 12
                if turn == 4:
                    assert 'text' in robot.infer(pictures[at], QUESTION)
                np.testing.assert_array_equal(robot.infer(pictures[at])['actions'][0], wanted[at])

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        list(pool.map(one, range(12)))
    assert server.metric('rt2_batch_size_count') - before < 0.7 * 12 * 9


@pytest.mark.parametrize(
    'change, says',
    [
        (
            {'observation/imag': 0},
            "Unknown key 'observation/imag'; did you mean 'observation/image'",
        ),
        ({'prompt': None}, "'prompt' must be a text"),
        ({'prompt': 'x' * 3000}, 'takes 2000'),
        ({'prompt': 'banana ' * 200}, 'tokens'),
        ({'observation/image': np.zeros([4, 4, 3], np.float32)}, 'uint8'),
        ({'observation/image': np.zeros([4, 4], np.uint8)}, '[H, W, 3]'),
        ({'observation/image': np.zeros([2, 4, 4, 3], np.uint8)}, '2 frames came'),
        ({'observation/image': np.zeros([1, 5000, 3], np.uint8)}, 'takes 2048 a side'),
        ({'observation/image': b'\xff\xd8\xff\xe0 no picture'}, 'neither a JPEG nor a PNG'),
        ({'observation/image': {'a': 1}}, 'got dict'),
        ({'observation/state': np.array([np.nan])}, 'NaN'),
        ({'deadline_ms': -1}, 'milliseconds'),
        ({'reset': 'yes'}, 'True or False'),
    ],
    ids=lambda x: x[:12] if isinstance(x, str) else next(iter(x)),
)
def test_what_is_wrong_with_a_message_is_said_and_closes_it(server, pictures, change, says):
    with server.robot() as robot:
        message = {'picture': pictures[0]} if 'observation/image' not in change else {}
        with pytest.raises(RuntimeError, match='Malformed|TooLarge') as error:
            robot.infer(**({'picture': None} | message | change))
        assert says in str(error.value)
        with pytest.raises(ConnectionClosed) as closed:
            robot.receive()
        assert closed.value.rcvd.code == 1011


@pytest.mark.parametrize(
    'path, body, status, says',
    [
        ('/act', b'{', 400, 'not JSON'),
        ('/act', b'[1]', 400, 'a map'),
        ('/act', b'{"image": 1}', 400, "'instruction' is missing"),
        (
            '/act',
            b'{"image": 1, "instruction": "x", "unnorm_key": "tabletopp"}',
            400,
            "'tabletop'?",
        ),
        (
            '/act',
            b'{"image": 1, "instruction": "x", "unnorm_key": "bridge_dataset"}',
            400,
            '--source',
        ),
        ('/act', b'{"encoded": "{}", "image": 1}', 400, 'nothing else'),
        ('/act', b'x' * (16 * 2**20 + 1), 413, 'larger than'),
        ('/acts', b'', 404, "did you mean '/act'"),
    ],
    ids=lambda x: str(x)[:14],
)
def test_http_errors_are_json_with_a_status(server, path, body, status, says):
    reply = requests.post(f'{server.http}{path}', body, timeout=20)
    assert reply.status_code == status and says in reply.json()['error']


def test_the_deadline_of_a_waiting_request_passes_uncomputed(policy, pictures):
    policy, gate = held(policy)
    with running(policy) as server, server.robot() as first, server.robot() as second:
        first.send(pictures[0])
        while not server.metric('rt2_batch_size_count'):
            time.sleep(0.01)
        with pytest.raises(RuntimeError, match='Expired'):
            second.infer(pictures[1], deadline_ms=50)
        gate.set()
        assert 'actions' in first.receive()
        # It says nothing of the message, so the connection goes on.
        assert 'actions' in second.infer(pictures[1])
        assert server.metric('rt2_batch_size_count') == 2
        assert server.metric('rt2_requests_total{outcome="expired"') == 1


def test_a_full_queue_says_overloaded(policy, pictures):
    policy, gate = held(policy)
    with running(policy, settings=Settings(queue=1)) as server, server.robot() as first:
        first.send(pictures[0])
        while not server.metric('rt2_batch_size_count'):
            time.sleep(0.01)
        refused = post(server, '/act', {'image': pictures[0], 'instruction': 'pick banana'})
        assert refused.status_code == 503 and refused.headers['Retry-After'] == '1'
        with server.robot() as second:
            with pytest.raises(RuntimeError, match='Overloaded'):
                second.infer(pictures[1])
            gate.set()
            first.receive()
            assert 'actions' in second.infer(pictures[1])


def test_a_batch_that_fails_is_said_and_the_next_one_works(policy, pictures):
    broken = copy.copy(policy)
    broken.run = lambda batch, **_: 1 / 0
    with running(broken) as server:
        with (
            server.robot() as robot,
            pytest.raises(RuntimeError, match='Failed: The policy failed'),
        ):
            robot.infer(pictures[0])
        broken.run = policy.run
        with server.robot() as robot:
            assert 'actions' in robot.infer(pictures[0])


def test_healthy_only_when_all_is_compiled_and_until_the_end(policy, pictures):
    policy, gate = held(policy)
    warm_up, compiled = policy.warm_up, threading.Event()

    def slowly(*arguments):
        assert compiled.wait(20)
        warm_up(*arguments)

    policy.warm_up = slowly
    with running(policy, wait=False) as server:
        health = lambda: requests.get(f'{server.http}/healthz', timeout=5)
        assert health().status_code == 503
        assert health().text == 'Warming up\n'
        refused = post(server, '/act', {'image': pictures[0], 'instruction': 'pick banana'})
        assert refused.status_code == 503 and refused.headers['Retry-After'] == '5'
        with concurrent.futures.ThreadPoolExecutor() as pool:
            # A websocket is accepted at once, and its metadata come when all is compiled.
            connecting = pool.submit(server.robot)
            while server.metric('rt2_connections') == 0:
                time.sleep(0.01)
            assert not connecting.done()
            compiled.set()
            robot = connecting.result(20)
        while health().status_code == 503:
            time.sleep(0.01)
        assert health().text == 'OK\n'
        with robot:
            robot.send(pictures[0])
            while not server.metric('rt2_batch_size_count'):
                time.sleep(0.01)
            server.server.should_exit = True
            while health().status_code == 200:
                time.sleep(0.01)
            gate.set()
            # What was accepted is answered; then the connection ends as a restart's does.
            assert 'actions' in robot.receive()
            with pytest.raises(ConnectionClosed) as closed:
                robot.receive()
            assert closed.value.rcvd.code == 1012


def test_nothing_is_compiled_after_the_warm_up(server, policy, compiled_before, pictures):
    """All other tests of this file ran on the same policy; see Policy.warm_up's own test."""
    compiled = policy.sampler._sample._cache_size()
    assert compiled == compiled_before + 2  # an action and a text, in the one batch size
    with server.robot() as robot:
        robot.infer(pictures[0])
        robot.infer(pictures[0], QUESTION)
    assert policy.sampler._sample._cache_size() == compiled


def test_a_key_is_asked_of_everybody(policy, pictures, tmp_path):
    (tmp_path / 'key').write_text('s3cret\n')
    key = read_key(str(tmp_path / 'key'))
    with running(policy, api_key=key) as server:
        assert requests.get(f'{server.http}/healthz', timeout=5).status_code == 200
        for wrong in ({}, {'Authorization': 'Api-Key s3cre'}, {'Authorization': 's3cret'}):
            assert (
                requests.get(f'{server.http}/metrics', headers=wrong, timeout=5).status_code == 401
            )
            with pytest.raises(InvalidStatus, match='401'):
                server.robot(additional_headers=wrong)
        for scheme in ('Api-Key', 'Bearer'):
            with server.robot(additional_headers={'Authorization': f'{scheme} s3cret'}) as robot:
                assert 'actions' in robot.infer(pictures[0])


@pytest.mark.parametrize(
    'start, says',
    [
        (b'POST /act HTTP/1.1\r\n', b'408'),
        (b'POST /act HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{', b'body took more than'),
    ],
    ids=['headers', 'body'],
)
def test_slow_senders_are_not_waited_for(policy, start, says):
    with running(policy, limits=Limits(seconds_to_send=0.2)) as server:
        with socket.create_connection(('127.0.0.1', server.port), timeout=10) as slow:
            slow.sendall(start)
            answer = b''.join(iter(lambda: slow.recv(4096), b''))
    assert answer.startswith(b'HTTP/1.1 408') and says in answer


def test_metrics_count_requests_by_what_they_want_and_how_they_end(server, pictures):
    line = 'rt2_requests_total{outcome="answered",protocol="openpi",wants="%s"}'
    before = {wants: server.metric(line % wants) for wants in ('action', 'text')}
    with server.robot() as robot:
        robot.infer(pictures[0])
        robot.infer(pictures[0], QUESTION)
        assert server.metric('rt2_connections') == 1
    assert all(server.metric(line % wants) == before[wants] + 1 for wants in before)
    for stage in ('prepare', 'queue', 'infer', 'total'):
        assert server.metric(f'rt2_request_seconds_count{{stage="{stage}"}}') > 0


def test_sigterm_ends_the_command_with_zero(tiny_checkpoint, pictures):
    command = [sys.executable, '-m', 'rt2_jax.serve', f'--workdir={tiny_checkpoint}', '--port=0']
    environment = os.environ | {'JAX_DISABLE_MOST_OPTIMIZATIONS': '1', API_KEY_VARIABLE: 'k'}
    with subprocess.Popen(
        [*command, '--largest_batch=1'],
        cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            port = None
            for line in process.stderr:
                port = port or (found := re.search(r'listening.*:(\d+)', line)) and int(found[1])
                if line.rstrip().endswith('ready'):
                    break
            reply = requests.post(
                f'http://127.0.0.1:{port}/act',
                codec.dumps({'image': pictures[0], 'instruction': 'pick banana'}),
                headers={'Authorization': 'Bearer k'},
                timeout=20,
            )
            assert reply.status_code == 200, reply.text
            assert codec.loads(reply.text).shape == (7,)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_limits_must_be_some():
    with pytest.raises(ValueError, match='image_side is 0'):
        Limits(image_side=0)
