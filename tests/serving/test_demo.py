"""The page to play with: its messages, and a person in a real headless browser."""

import contextlib
import dataclasses
import json
import os
import sys
import time
import types

from absl import app
import numpy as np
import pytest
import requests
from running import Person, running, tiny_policy
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from rt2_jax import serve
from rt2_jax.benchmarks import browser
from rt2_jax.checkpoints.assets import CheckpointError
from rt2_jax.envs.tabletop import expert, suites
from rt2_jax.errors import MissingPackage
from rt2_jax.evaluation import closed_loop
from rt2_jax.policy import Policy
from rt2_jax.serving import demo, demo_page
from rt2_jax.serving.demo import Demo
from rt2_jax.serving.demo_page import Page
from rt2_jax.serving.service import Settings
from rt2_jax.text.actions import ActionSpace, ActionTokenizer

ACTS = os.environ.get('DEMO_WORKDIR', 'package:tabletop_policy')  # a policy that succeeds
needs_browser = pytest.mark.skipif(
    not browser.PROGRAM, reason=f'{browser.WITHOUT}; bash launch/test.sh tests/serving/test_demo.py'
)
MARKUP = '<img src=x>'


@pytest.fixture(scope='module')
def policy():
    # It never learnt to act, and must not end an episode at once.
    return Policy.from_checkpoint(
        'package:tabletop_pretrained', batch_sizes=(1,), terminate_threshold=1 - 1e-9
    )


@pytest.fixture(scope='module')
def server(policy):
    demos = []

    def make_demo(service):
        demos.append(Demo(service))
        return demos[0]

    with running(policy, demo=make_demo, settings=Settings(alternatives=3)) as server:
        server.demo = demos[0]
        yield server


@pytest.fixture(scope='module')
def chromium(tmp_path_factory):
    with browser.browser(tmp_path_factory.mktemp('profile')) as chromium:
        yield chromium


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def decisions(messages):
    return [m['written'] for m in messages if m['kind'] == 'decision']


def test_acts_as_an_evaluation(server, policy, monkeypatch):
    """The same frames, prompts, steps and end: the same actions."""
    monkeypatch.setattr(demo_page, '_STEP_SECONDS', 0)
    monkeypatch.setattr(demo_page, '_FRAMES', 2)
    for suite, seed in (('seen', 9), ('emergent', 5)):
        taken = []
        decide = closed_loop.learnt(policy, alternatives=3)

        def recorded(observations, envs):
            moves = decide(observations, envs)
            numbers = [policy.action_tokenizer.to_integers(move.action) for move in moves]
            taken.extend(' '.join(map(str, some)) for some in numbers)
            return moves

        (rollout,) = closed_loop.run(recorded, suite, [seed]).rollouts
        with Person(server) as person:
            offered = person.ask_for('scene', 'scene', suite=suite, seed=seed)['offered']
            person.send('act', text=offered[0])
            messages = person.until('end')
        assert decisions(messages) == taken
        assert rollout.instruction == messages[-1]['instruction'] == offered[0]
        assert messages[-1]['success'] is rollout.success
        assert rollout.steps == len(taken)


def test_what_a_step_is_told(server, policy):
    with Person(server) as person:
        person.send('scene', suite='seen', seed=9)
        person.send('look', on=True)
        person.send('act', text='pick octopus')
        messages = person.until('attention')
        decision, looks = messages[-2:]
        person.send('stop')
        end = person.until('end')[-1]
    assert end['success'] is None and end['text'] == 'stopped'
    assert [n['name'] for n in decision['numbers']] == [*policy.action_tokenizer.space.number_names]
    assert len(decision['written'].split()) == 8
    for number in decision['numbers']:
        probabilities = [p for _, p in number['alternatives']]
        assert 0 < sum(probabilities) <= 1.01 and probabilities == sorted(probabilities)[::-1]
        assert number['entropy'] >= 0
    assert np.shape(looks['numbers'])[0] == 8 and np.max(looks['mean']) == 255


def test_a_question_has_its_place(server):
    with Person(server) as person:
        name = person.ask_for('scene', 'scene', suite='seen', seed=9)['objects'][0]
        answer = person.ask_for('answer', 'ask', text=f'Where is the {name}?')
    (place,) = answer['places']
    assert answer['question'] == f'Where is the {name}?'
    assert answer['text'] == f'{1000 * place["u"]:.0f} {1000 * place["v"]:.0f}'


def test_a_wrong_message_is_answered_and_the_table_stays(server):
    with Person(server) as person:
        error = lambda message: (person.socket.send(message), person.until('error')[-1]['text'])[1]
        deep = '[' * 20_000
        for message in (
            '{',
            '[]',
            deep,
            '{"do": "fly"}',
            '{"do": "act"}',
            '{"do": "stop", "x": 1}',
        ):
            assert 'JSON with `do`' in error(message)
        assert 'is a text of' in error(b'\x00\x01')
        assert 'is a text of' in error('x' * 20_001)
        scene = lambda **fields: error(json.dumps({'do': 'scene', **fields}))
        assert 'suites' in scene(suite='seen', seed=1e300)
        assert 'suites' in scene(suite=['seen'], seed=3)
        assert 'suites' in scene(suite='train', seed=3)
        assert 'outside' in scene(suite='seen', seed=-1)
        assert person.ask_for('scene', 'scene', suite='seen', seed=5)['objects']
        for do, what in (('act', 'instruction'), ('ask', 'question')):
            for text, why in ((' ', 'is empty'), (3, 'must be'), ('pick ' * 3000, 'has 15000')):
                assert f'The {what} {why}' in person.ask_for('error', do, text=text)['text']
            assert 'Use fewer words' in person.ask_for('error', do, text='pick ' * 300)['text']
        assert 'half a character' in person.ask_for('error', 'act', text='pick \ud800')['text']
        person.send('act', text=MARKUP)
        person.send('stop')
        assert person.until('end')[-1]['instruction'] == MARKUP
        person.send('stop')  # nothing to stop
        with pytest.raises(ConnectionClosed):
            person.socket.send('x' * (17 * 2**20))
            person.until('never')


def test_other_pages_cannot_use_the_table(server):
    with Person(server, origin='http://evil.example') as person:
        with pytest.raises(ConnectionClosed, match='another place'):
            person.until('welcome')


def test_ten_share_a_policy_and_none_sees_another_robot(server, monkeypatch):
    monkeypatch.setattr(demo_page, '_STEP_SECONDS', 0)
    monkeypatch.setattr(demo_page, 'MAX_STEPS', 3)
    monkeypatch.setattr(demo_page, '_FRAMES', 1)

    def play(people):
        """All act at once; each person's scene and what their robot did."""
        scenes = [p.ask_for('scene', 'scene', suite='seen', seed=s) for s, p in enumerate(people)]
        for person, scene in zip(people, scenes):
            person.send('act', text=scene['offered'][0])
        return [(s['objects'], p.until('end')) for s, p in zip(scenes, people)]

    def seen(messages):
        return [{**m, 'milliseconds': 0} for m in messages]

    with contextlib.ExitStack() as stack:
        people = [stack.enter_context(Person(server)) for _ in range(10)]
        together = play(people)
        for seed, (objects, messages) in list(enumerate(together))[::3]:
            people[0].send('scene', suite='seen', seed=seed)
            people[0].send('act', text=messages[-1]['instruction'])
            people[0].until('scene')
            alone = people[0].until('end')
            assert seen(alone) == seen(messages), objects


def test_a_closed_tab_leaves_its_table_to_the_next(server, monkeypatch):
    monkeypatch.setattr(demo, 'TABLES', 1)
    wait_until(lambda: server.demo.open_tables == 0)  # tables of other tests
    for _ in range(3):
        with Person(server) as person:
            person.until('welcome')
            with Person(server) as other:
                with pytest.raises(ConnectionClosed, match='tables are taken'):
                    other.until('welcome')
            person.send('scene', suite='seen', seed=9)
            person.send('act', text='pick octopus')
            person.until('frame')  # and leaves in the middle of the movement
        wait_until(lambda: server.demo.open_tables == 0)
        assert server.demo.simulator.moving == 0


def test_what_the_page_cannot_do_is_said_before_it_starts(tokenizer, monkeypatch, tmp_path):
    tokenizer = ActionTokenizer(ActionSpace.language_table(), tokenizer)
    service = types.SimpleNamespace(policy=types.SimpleNamespace(action_tokenizer=tokenizer))
    with pytest.raises(ValueError, match='--demo plays on the tabletop.* dx, dy'):
        Demo(service)
    key = tmp_path / 'key'
    key.write_text('secret')
    monkeypatch.setattr(serve, 'FLAGS', types.SimpleNamespace(api_key_file=str(key)))
    with pytest.raises(app.UsageError, match='--demo is a page without a key'):
        serve.demo_class()
    monkeypatch.setitem(sys.modules, 'rt2_jax.serving.demo', None)  # as without the simulator
    with pytest.raises(MissingPackage, match=r"pip install 'rt2_jax\[sim\]'"):
        serve.demo_class()


def test_where_to_find_the_page(server):
    assert server.demo.addresses('127.0.0.1', 80) == 'A page to play with: http://127.0.0.1:80/demo'
    assert 'http://[::1]:80/demo' in server.demo.addresses('::1', 80)
    everywhere = server.demo.addresses('0.0.0.0', 80)
    assert 'http://localhost:80/demo' in everywhere and 'no key' in everywhere


def test_server_that_stops_says_goodbye(tiny):
    with running(tiny_policy(tiny), demo=Demo, wait=False) as server:
        person = Person(server)
        assert person.until('state')[-1]['ready'] is False  # the table is there before the model
        assert person.ask_for('scene', 'scene', suite='seen', seed=1)['frame'].startswith('data:')
        person.send('act', text='pick pretzel')
        begin = time.monotonic()
        assert person.ask_for('scene', 'scene', suite='seen', seed=1)['objects']
        assert (
            time.monotonic() - begin < 10
        )  # an instruction that waits for the model can be stopped
        person.send('act', text='pick pretzel')
        person.until('decision')
        server.server.should_exit = True
        with pytest.raises(ConnectionClosed) as closed:
            person.until('never')
    assert closed.value.rcvd.code == 1012


def test_page_allows_nothing_from_elsewhere(server):
    page = requests.get(f'{server.http}/demo', timeout=5)
    rules = page.headers['Content-Security-Policy']
    assert "default-src 'none'" in rules and 'unsafe' not in rules
    assert 'http' not in rules and 'innerHTML' not in page.text
    assert '://' not in page.text.replace('://${location.host}', '').replace(
        'http://www.w3.org', ''
    )
    with pytest.raises(InvalidStatus):
        connect(f'ws://127.0.0.1:{server.port}/demo/other')


def open_page(chromium, server):
    tab = chromium.tab()
    tab.open(f'{server.http}/demo')
    tab.wait("ready && document.getElementById('offered').children.length > 0")
    return tab


def entries(tab):
    return tab.run("[...document.querySelectorAll('#log li')].map(line => line.textContent)")


@needs_browser
def test_a_person_plays_by_keyboard(server, chromium):
    other = open_page(chromium, server)
    tab = open_page(chromium, server)  # in front
    name = tab.run("document.getElementById('question').placeholder")
    tab.type('#question', name)
    tab.press('Enter')
    tab.wait('places.length == 1')  # drawn into the picture
    assert tab.run("document.getElementById('overlay').getContext('2d')"
                   ".getImageData(0, 0, 2000, 2000).data.some(x => x > 0)")  # fmt: skip

    tab.type('#instruction', MARKUP)
    tab.press('Tab')
    assert tab.run('document.activeElement.textContent') == 'Go'
    tab.type('#instruction', MARKUP)
    tab.press('Enter')
    tab.wait("document.getElementById('numbers').children.length == 8")
    tab.run("document.getElementById('attention').click()")
    tab.wait('looks && looks.numbers.length == 8')
    before = tab.run("document.getElementById('frame').src")
    tab.wait(f"document.getElementById('frame').src != {json.dumps(before)}")
    tab.press('Escape')
    tab.wait("document.querySelectorAll('#log li').length == 2")
    assert 'stopped' in entries(tab)[0] and MARKUP in entries(tab)[0]
    assert tab.run("document.querySelectorAll('img').length") == 1

    hostile = f'{MARKUP * 9}<script>alert(1)</script>'
    tab.type('#instruction', hostile)
    tab.press('Enter')
    tab.wait("document.getElementById('message').textContent.includes('Use fewer words')")
    tab.type('#instruction', '')
    tab.press('Enter')
    tab.wait("document.getElementById('message').textContent.includes('is empty')")
    assert entries(other) == []
    assert tab.complaints == other.complaints == []


@needs_browser
def test_a_page_waits_for_the_server(policy, chromium):
    """The server stops: the page says so, and plays on when there is one again."""
    with running(policy, demo=Demo, settings=Settings(alternatives=3)) as server:
        tab = open_page(chromium, server)
    tab.wait("document.getElementById('message').textContent.includes('onnecting again')")
    tab.type('#instruction', 'pick octopus')
    tab.press('Enter')
    assert 'onnecting again' in tab.text('#message')
    with running(policy, port=server.port, demo=Demo, settings=Settings(alternatives=3)):
        tab.wait("ready && document.getElementById('message').textContent == ''")
        tab.press('Enter')
        tab.wait("document.getElementById('numbers').children.length == 8")
    assert all('WebSocket' in text or 'ERR_CONNECTION' in text for text in tab.complaints)


@needs_browser
def test_the_page_fits_a_phone(server, chromium):
    tab = open_page(chromium, server)
    tab.resize(390, 844)
    assert tab.run('document.documentElement.scrollWidth') <= 390
    assert tab.complaints == []


@needs_browser
def test_a_success_is_shown(server, chromium, monkeypatch):
    """With the expert's actions in place of the policy's."""
    answer = Page._answer

    async def experts(page, request):
        env, answered = page._table._env, await answer(page, request)
        return dataclasses.replace(answered, action=expert.act(env.state, env.start, env.task))

    monkeypatch.setattr(Page, '_answer', experts)
    tab = open_page(chromium, server)
    for number, (seed, words) in enumerate(((9, 'cm above the table'), (10, 'near enough'))):
        tab.run(f"document.getElementById('seed').value = {seed}; scene()")
        offered = json.dumps(suites.draw('seen', seed).task.instruction)
        tab.wait(f"document.querySelector('#offered button').textContent == {offered}")
        tab.run("document.querySelector('#offered button').click()")
        tab.wait(f"document.querySelectorAll('#log li').length == {number + 1}")
        assert entries(tab)[0].startswith('Success: ') and words in entries(tab)[0]
    assert tab.text('#score') == '2 of 2 instructions done.'
    assert tab.complaints == []


@needs_browser
def test_a_person_sees_the_success(chromium):
    try:
        policy = Policy.from_checkpoint(ACTS, batch_sizes=(1,))
    except CheckpointError as error:
        pytest.skip(str(error))
    with running(policy, demo=Demo, settings=Settings(alternatives=3)) as server:
        tab = open_page(chromium, server)
        name = tab.run("document.getElementById('offered').firstChild.textContent.split(' ')[1]")
        tab.type('#instruction', f'pick {name}')
        tab.press('Enter')
        tab.wait("document.querySelectorAll('#log li').length == 1")
        assert entries(tab)[0].startswith(f'Success: pick {name} (the {name} is '), entries(tab)
        assert tab.text('#score') == '1 of 1 instructions done.'
        assert tab.text('#plan').startswith('Plan: ') is policy.plan
        assert tab.complaints == []
