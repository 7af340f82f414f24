"""The page to play with, in a real headless browser, answered by a real server with the packaged model."""

import json

import browser
import pytest
from running import running
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from rt2_jax.envs.tabletop import suites, wordings
from rt2_jax.policy import Policy
from rt2_jax.serving.demo import Demo
from rt2_jax.serving.service import Settings

OFFERED = "document.getElementById('offered').children.length > 0"
ENDED = "document.getElementById('log').children.length > {}"


@pytest.fixture(scope='module')
def server():
    policy = Policy.from_checkpoint('package:tabletop_pretrained', batch_sizes=(1,))
    with running(policy, demo=Demo, settings=Settings(alternatives=3)) as server:
        yield server


def speak(server, *messages, origin=None):
    """Opens a table, sends messages, and gives the socket."""
    address = f'127.0.0.1:{server.port}'
    socket = connect(f'ws://{address}/demo/play', origin=origin or f'http://{address}')
    for message in messages:
        socket.send(message if isinstance(message, str) else json.dumps(message))
    return socket


def receive(socket, kind):
    """The next message of a kind; those before it are left out."""
    while (message := json.loads(socket.recv(timeout=60)))['kind'] != kind:
        pass
    return message


def test_instructions_mean_tasks_of_the_scene():
    scene = suites.draw('seen', 3, 'pick')
    first, second = scene.names()[:2]
    for text in wordings.offered(scene):
        assert wordings.understood(text, scene), text
    task, order = wordings.understood(f'Please put the {second} next to the {first}!', scene)
    assert (task.kind, order[:2]) == ('push', (1, 0))
    task, order = wordings.understood(f'rotate {second} to the left', scene)
    assert (task.kind, task.direction, order[0]) == ('turn', 'left', 1)
    german = scene.tiles[1].picture.names['de']
    assert wordings.understood(f'take the {german}', scene)[1][0] == 1
    for text in ('dance', f'like {first}', 'pick the moon and stars', f'turn {first}', 'push'):
        assert wordings.understood(text, scene) is None, text


def test_a_wrong_message_is_answered_and_the_table_stays(server):
    with speak(server) as socket:
        receive(socket, 'welcome')
        for message in ('{', '[]', '{"do": "fly"}', '{"do": "act"}', '{"do": "scene", "suite": 3}'):
            socket.send(message)
            assert 'JSON with `do`' in receive(socket, 'error')['text']
        socket.send('{"do": "scene", "suite": "seen", "seed": 1e300}')
        assert 'suites' in receive(socket, 'error')['text']
        socket.send(json.dumps({'do': 'scene', 'suite': 'seen', 'seed': -1}))
        assert 'outside' in receive(socket, 'error')['text']
        socket.send(json.dumps({'do': 'scene', 'suite': 'seen', 'seed': 5}))
        assert receive(socket, 'scene')['objects']
        for text, why in (('', 'empty'), ('pick ' * 3000, 'characters'), ('pick ' * 300, 'token')):
            socket.send(json.dumps({'do': 'act', 'text': text}))
            assert why in receive(socket, 'error')['text']


def test_other_pages_cannot_use_the_table(server):
    with speak(server, origin='http://evil.example') as socket:
        with pytest.raises(ConnectionClosed, match='another place'):
            socket.recv(timeout=10)


@pytest.mark.skipif(not browser.PROGRAM, reason=browser.WITHOUT)
def test_a_person_plays(server, tmp_path):
    url = f'{server.http}/demo'
    with browser.browser(tmp_path) as chromium:
        tab, other = chromium.tab(), chromium.tab()
        for page in (tab, other):
            page.open(url)
            page.wait(OFFERED)
        name = tab.run("document.getElementById('question').placeholder").removeprefix('where is the ')
        tab.type('#question', f'where is the {name}')
        tab.press('Enter')
        tab.wait("points.length == 1")  # drawn into the picture

        tab.run("document.getElementById('attention').click()")
        tab.type('#instruction', '<img src=x onerror=alert(1)>')
        tab.press('Enter')
        tab.wait("document.getElementById('numbers').children.length == 8")
        assert tab.run("looks.numbers.length") == 8
        tab.press('Escape')
        tab.wait(ENDED.format(1))
        assert '<img src=x' in tab.text('#log') and 'stopped' in tab.text('#log')
        assert tab.run("document.querySelectorAll('#log img').length") == 0

        assert other.text('#log') == ''
        assert tab.complaints == other.complaints == []
