"""The robots of the benchmark: what they count is what happened."""

import asyncio
import dataclasses

import pytest
from running import running, tiny_policy, twelve_pictures

from rt2_jax.benchmarks import fleet
from rt2_jax.serving.service import Settings


@pytest.fixture(scope='module')
def policy(tiny):
    return tiny_policy(tiny)


@pytest.fixture(scope='module')
def asked(policy):
    return fleet.exchanges(policy, twelve_pictures())


def test_robots_know_the_right_answers_and_notice_a_wrong_one(policy, asked):
    assert len(asked) > 6 and len({one.answer for one in asked}) == len(asked)
    run = lambda port, asked, hz: asyncio.run(fleet.run(port, asked, robots=6, hz=hz, seconds=0.5))
    with running(policy) as server:
        found = run(server.port, asked, 20)
        assert found['wrong'] == found['lost'] == found['refused'] == 0
        assert 6 < found['right'] <= 6 * 11 and found['wanted_per_second'] == 120
        assert found['milliseconds']['total']['p50'] >= found['milliseconds']['compute']['p50'] > 0
        assert run(server.port, asked, 0)['mean_batch'] > 1.5
        swapped = [dataclasses.replace(asked[0], answer=asked[1].answer)]
        found = run(server.port, swapped, 20)
        assert found['right'] == 0 and found['wrong'] > 0


def test_overloaded_answers_are_counted(policy, asked):
    with running(policy, settings=Settings(queue=1)) as server:
        found = asyncio.run(fleet.run(server.port, asked, robots=6, hz=0, seconds=0.3))
    assert found['overloaded'] > 0 and found['right'] > 0 and found['wrong'] == 0
