"""What instructions mean in a scene, what came of them, and another one on the table as it lies."""

import numpy as np
import pytest

from rt2_jax.envs.tabletop import expert, suites, tasks, wordings
from rt2_jax.envs.tabletop.env import TabletopEnv


def test_every_suite_understands_what_it_offers():
    for suite in suites.SUITES:
        for seed in range(25):  # among them a right arrow
            scene = suites.draw(suite, seed)
            offered = wordings.offered(scene)
            assert offered[0] == scene.task.instruction
            assert all(wordings.understood(text, scene) for text in offered)
            task, order = wordings.understood(scene.task.instruction, scene)
            assert task == scene.task and order == tuple(range(len(scene.tiles)))


def test_other_wordings():
    scene = suites.draw('seen', 3, 'pick')
    first, second = scene.names()[:2]
    task, order = wordings.understood(f'Please put the {second} next to the {first}!', scene)
    assert (task.kind, order[:2]) == ('push', (1, 0))
    assert task.plan == f'push {second} to {first}'
    task, order = wordings.understood(f'rotate {second} to the left', scene)
    assert (task.kind, task.direction, order[0]) == ('turn', 'left', 1)
    german = scene.tiles[1].picture.names['de']
    assert wordings.understood(f'take the {german}', scene)[1][0] == 1
    strange = (
        'dance',
        f'like {first}',
        'pick the moon and stars',
        f'turn {first}',
        'push',
        f'push {first}',
        '<b>pick</b>',
        '\ud800',
    )
    for text in strange:
        assert wordings.understood(text, scene) is None, text


@pytest.mark.parametrize(
    'kind, words', [('pick', 'cm above the table'), ('push', 'cm from'), ('turn', 'degrees to the')]
)
def test_outcome_says_what_the_expert_did(kind, words):
    env = TabletopEnv(render_mode=None)
    try:
        env.reset(seed=4, options={'task': kind})
        names = env.scene.names()
        assert not tasks.succeeded(env.task, env.start, env.state)
        terminated = False
        while not terminated:
            _, _, terminated, _, info = env.step(expert.act(env.state, env.start, env.task))
        assert info['success']
        text = wordings.outcome(env.task, names, env.start, env.state)
        assert words in text and names[0] in text
        if kind != 'pick':
            return
        before = env.scene.gripper
        observation = env.clear_hand()
        state = env.state
        assert not state.closed and state.tiles[0].z < 0.01
        np.testing.assert_allclose((state.x, state.y, state.yaw), before, atol=0.01)
        assert 'still lies' in wordings.outcome(env.task, names, env.start, state)
        np.testing.assert_array_equal(env.clear_hand()['image'], observation['image'])
        env.step(np.zeros(8))  # the next episode
    finally:
        env.close()
