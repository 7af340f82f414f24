"""Closed loop over the network: the tabletop's suites, played against a server as in process."""

import json
import os

from absl import flags
from absl.testing import flagsaver
from in_process import defined_flags
import numpy as np
import pytest
from running import HOW, published, running, tiny_policy

pytest.importorskip('mujoco', reason="the tabletop needs pip install 'rt2_jax[sim]'")

from rt2_jax import evaluate
from rt2_jax.data import cards
from rt2_jax.evaluation import closed_loop, remote_policy
from rt2_jax.policy import Policy
from rt2_jax.policy.from_flags import FlagError
from rt2_jax.serving.service import Settings


@pytest.fixture(scope='module')
def policy(tiny):
    return tiny_policy(tiny)


@pytest.fixture(scope='module')
def server(policy):
    with running(policy) as found:
        yield found


@pytest.fixture(scope='module', autouse=True)
def parsed_flags():
    with defined_flags(evaluate):
        flags.FLAGS(['evaluate', '--output=unused'])
        yield


def played(decide, episodes, image_size, parallel=2):
    found = closed_loop.run(
        decide, 'seen', range(episodes), parallel=parallel, image_size=image_size
    )
    return [rollout.to_json() for rollout in found.rollouts]


@pytest.mark.parametrize('scheme', ['ws', 'http'])
def test_evaluation_over_the_network_is_evaluation_in_process(server, policy, tmp_path, scheme):
    output = tmp_path / 'results.json'
    with flagsaver.flagsaver(
        server=f'{scheme}://127.0.0.1:{server.port}',
        suite=['seen'], episodes=3, parallel=2, image_size=32, output=str(output), workdir=None,
    ):  # fmt: skip
        evaluate.main(['evaluate'])
    results = json.loads(output.read_text())
    rollouts = results['policies']['checkpoint']['seen']['rollouts']
    assert rollouts == played(closed_loop.learnt(policy), 3, 32)
    assert results['manifest']['served']['source'] == 'tabletop'


def test_wrong_addresses_and_flags_are_said(server, tmp_path):
    wrong = {
        'ftp://127.0.0.1:1': 'no address such as',
        'ws://127.0.0.1:1': 'no description',
        f'http://127.0.0.1:{server.port}/act': 'no description',
    }
    for url, says in wrong.items():
        with flagsaver.flagsaver(server=url, suite=['seen'], workdir=None):
            with pytest.raises(FlagError, match=says):
                evaluate.main(['evaluate'])
    with flagsaver.flagsaver(server='ws://127.0.0.1:1', suite=['web'], workdir=None):
        with pytest.raises(FlagError, match='leave out'):
            evaluate.main(['evaluate'])


def test_a_busy_server_is_waited_for_and_a_lost_one_is_named(policy, monkeypatch):
    monkeypatch.setattr(remote_policy, '_WAIT', 0.05)
    observation = {
        'image': np.zeros((1, 32, 32, 3), np.uint8), 'state': None, 'instruction': 'pick banana',
        'is_first': True,
    }  # fmt: skip
    for scheme in ('ws', 'http'):
        with running(policy, settings=Settings(queue=1)) as server:
            address = f'{scheme}://127.0.0.1:{server.port}'
            client = remote_policy.Server(address, 4, cards.TABLETOP)
            moves = client.decide()([observation] * 4, [object() for _ in range(4)])
            assert len({move.action.tobytes() for move in moves}) == 1
        robots = [object()]
        with pytest.raises(remote_policy.ServerError, match=f'{address} (is gone|takes no)'):
            client.decide()([observation], robots)
        client.close()


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get('OPENPI_PYTHON'), reason=HOW)
@pytest.mark.parametrize('protocol', ['openpi', 'openvla'])
def test_the_published_clients_play_as_well_as_in_process(protocol, policy):
    """200 closed-loop steps or more; `HOW` says how to run it."""
    workdir = os.environ.get('OPENPI_WORKDIR')
    policy = Policy.from_checkpoint(workdir, batch_sizes=(1,)) if workdir else policy
    wanted = played(closed_loop.learnt(policy), episodes := 24, 128, parallel=1)
    with running(policy) as server, published(protocol, server.port) as ask:
        found = played(lambda observations, _: list(map(ask, observations)), episodes, 128, 1)
    steps = sum(rollout['steps'] for rollout in found)
    print(f'{protocol}: {steps} steps, {sum(r["success"] for r in found)} of {episodes} succeeded')
    assert found == wanted and steps >= 200
