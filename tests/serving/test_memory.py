"""A policy of several frames under load: what a refused request leaves behind, which is nothing."""

import copy
import os
import threading

import numpy as np
import pytest
from running import HOW, published, running, twelve_pictures

from rt2_jax.data.cards import FRACTAL
from rt2_jax.policy import Policy
from rt2_jax.serving.codec import packb
from rt2_jax.serving.service import Settings

OTHER = np.zeros([40, 40, 3], np.uint8)


@pytest.fixture(scope='module')
def policy(tiny):
    """It sees three frames; what it decides is made up, so that nothing is compiled."""
    return Policy.from_config(
        tiny.config(), tiny.params(1), tiny.tokenizer, FRACTAL.action_space,
        frames=3, embodiment=FRACTAL, batch_sizes=(1,),
    )  # fmt: skip


class Watched:
    """A policy that notes what it saw, closes the gripper once, and can be held up.

    Attributes:
      policy: to serve.
      seen: observations of robots that it acted for, uint8 [3, S, S, 3], but for the picture OTHER.
    """

    def __init__(self, policy):
        self.policy, self.seen = copy.copy(policy), []
        self.entered, self.go = threading.Event(), threading.Event()
        self.go.set()
        self._other = policy.preprocess(np.stack([OTHER] * 3))
        self.policy.run, self.policy.warm_up = self._run, lambda *_, **__: None

    def _run(self, questions, **_):
        self.entered.set()
        assert self.go.wait(20)
        action = np.zeros([8], np.float32)
        for question in questions:
            if not np.array_equal(question.frames, self._other):
                action[7] = not self.seen
                self.seen.append(question.frames)
        decision = Decided(action)
        return [decision] * len(questions)

    def hold(self):
        self.entered.clear()
        self.go.clear()


class Decided:
    plan, log_prob, entropies = '', 0.0, np.zeros([8], np.float32)

    def __init__(self, action):
        self.action = action


def observations(policy, pictures, *numbers):
    """What it must see after frames of these numbers, the first of which begins an episode."""
    padded = [numbers[0], numbers[0], *numbers]
    return [
        policy.preprocess(np.stack([pictures[n] for n in padded[i : i + 3]]))
        for i in range(len(numbers))
    ]


@pytest.fixture(params=['overloaded', 'expired'])
def refusing(request, policy):
    """(server, what was watched, a function that has a request refused while others are busy)."""
    watched = Watched(policy)
    overloaded = request.param == 'overloaded'
    settings = Settings(queue=1 if overloaded else 8, convention='position')
    with running(watched.policy, settings=settings) as server, server.robot() as busy:

        def refused(ask):
            watched.hold()
            busy.send(OTHER)
            assert watched.entered.wait(20)
            ask({} if overloaded else {'deadline_ms': 20})
            watched.go.set()
            busy.receive()

        yield server, watched, refused


def test_a_refused_request_changes_nothing(refusing, policy):
    pictures = twelve_pictures()
    server, watched, refused = refusing
    with server.robot() as robot:
        assert robot.metadata['remembers'] == ['frames', 'gripper']

        def ask(number, **more):
            reply = robot.infer(pictures[number], **more)
            return reply['actions'][0, -1], reply['episode_step']

        def fails(number, **more):
            def attempt(hurry):
                with pytest.raises(RuntimeError, match='Nothing of the request is remembered'):
                    robot.infer(pictures[number], **more, **hurry)

            refused(attempt)

        assert ask(0) == (1, 1)  # it closes, and from then on holds
        fails(1)
        assert ask(1) == (1, 2)  # the same frame again
        fails(5)
        assert ask(2) == (1, 3)  # or another in its place
        fails(7, reset=True)
        assert ask(3) == (1, 4)  # the refused one began no episode
        assert ask(4, reset=True) == (-1, 1)
    wanted = observations(policy, pictures, 0, 1, 2, 3) + observations(policy, pictures, 4)
    np.testing.assert_array_equal(watched.seen, wanted)


@pytest.mark.parametrize(
    'start',
    [
        {'reset': True},
        {'episode_start': True},
        {'__ctrl__': 'reset'},
        {'__ctrl__': 'episode_start'},
    ],
    ids=str,
)
def test_an_episode_begins_where_a_message_says_so(policy, start):
    """With a frame or on its own; a changed instruction alone begins none."""
    pictures = twelve_pictures()
    watched = Watched(policy)
    with running(watched.policy) as server, server.robot() as robot:
        robot.infer(pictures[0])
        assert robot.infer(pictures[1], 'now push it')['episode_step'] == 2
        assert robot.infer(pictures[2], **start)['episode_step'] == 1
        robot.infer(pictures[3])
        robot.connection.send(packb(start))
        assert robot.receive() == {'reset': True}
        assert robot.infer(pictures[4])['episode_step'] == 1
        for wrong in ({'episode_start': 'yes'}, {'__ctrl__': 'resett'}):
            with server.robot() as other, pytest.raises(RuntimeError, match='reset|True or False'):
                other.infer(pictures[0], **wrong)
    episodes = [observations(policy, pictures, *numbers) for numbers in ([0, 1], [2, 3], [4])]
    np.testing.assert_array_equal(watched.seen, sum(episodes, []))


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get('OPENPI_PYTHON'), reason=HOW)
def test_the_published_client_under_load(refusing, policy):
    """Its reset() sends nothing: `reset` in the episode's first observation does. `HOW` runs it."""
    pictures = twelve_pictures()
    server, watched, refused = refusing
    with published('openpi', server.port) as ask:

        def step(number, **more):
            observation = {'image': pictures[number][None], 'instruction': 'pick banana'}
            return ask(observation, **more)

        def fails(number, **more):
            def attempt(hurry):
                with pytest.raises(RuntimeError, match='Nothing of the request is remembered'):
                    step(number, **more, **hurry)

            refused(attempt)

        step(0)
        fails(1)
        step(1)
        assert step(2, between_episodes=True)[-1] == 1  # still the first episode
        fails(3, between_episodes=True, reset=True)
        assert step(3, reset=True)[-1] == -1
        step(4)
    wanted = observations(policy, pictures, 0, 1, 2) + observations(policy, pictures, 3, 4)
    np.testing.assert_array_equal(watched.seen, wanted)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get('OPENPI_PYTHON'), reason=HOW)
def test_the_published_client_waits_for_a_server_that_warms_up(policy):
    """It connects while nothing is compiled, and acts as soon as it is. `HOW` runs it."""
    watched, compiled = Watched(policy), threading.Event()
    watched.policy.warm_up = lambda *_, **__: compiled.wait(60)
    picture = twelve_pictures()[0]
    with running(watched.policy, wait=False) as server, published('openpi', server.port) as ask:
        while server.metric('rt2_connections') == 0:
            assert not watched.seen
        compiled.set()
        action = ask({'image': picture[None], 'instruction': 'pick banana'})
        assert action.shape == (8,) and len(watched.seen) == 1
