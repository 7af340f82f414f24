"""The policy that comes with the package follows instructions, and answers questions."""

import re

import pytest

from rt2_jax.envs.tabletop.env import TabletopEnv
from rt2_jax.policy import Policy

EPISODES = 6


@pytest.fixture(scope='module')
def policy():
    return Policy.from_checkpoint('package:tabletop_policy', batch_sizes=(1,))


@pytest.mark.parametrize('suite', ['seen', 'unseen_objects'])
def test_it_follows_instructions(policy, suite):
    env = TabletopEnv(suite)
    successes = 0
    for seed in range(EPISODES):
        observation, _ = env.reset(seed=seed)
        done = truncated = False
        while not (done or truncated):
            action = policy.act(observation['image'], observation['instruction']).action
            observation, success, done, truncated, _ = env.step(action)
        successes += success
    env.close()
    assert successes >= 4


def test_its_plan_says_where_the_named_picture_is(policy):
    env = TabletopEnv('seen')
    observation, _ = env.reset(seed=0)
    first = env.scene.names()[0]
    decision = policy.act(observation['image'], observation['instruction'])
    env.close()
    assert first in observation['instruction']
    assert re.search(rf'{first} \d+ \d+ .*gripper \d+ \d+', decision.plan)
