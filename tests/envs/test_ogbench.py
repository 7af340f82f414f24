"""OGBench: its goals and words, and the real simulator in its own Python where that is there."""

import json

import numpy as np
import pytest
from world_python import ROOT, in_python_of, needs

from rt2_jax import configuration
from rt2_jax.data.robot import rlds
from rt2_jax.envs.ogbench import collect, ogbench_tasks
from rt2_jax.text import prompts

SUITES = ogbench_tasks.SUITES


def goals(suite, other_words=False, count=40):
    for task in SUITES[suite].tasks:
        for seed in range(count):
            yield ogbench_tasks.draw_goal(suite, task, other_words, np.random.default_rng(seed))


@pytest.mark.parametrize('suite', SUITES)
def test_what_is_said_names_what_is_meant(suite, tokenizer):
    """In words of training or in others, never in both; all of them fit the config's prompt."""
    config = configuration.load(ROOT / 'configs' / 'ogbench.py', suite)
    things = SUITES[suite].things
    said = {}
    for other_words in (False, True):
        for goal in goals(suite, other_words):
            if goal.task in ('place', 'stack'):
                x, y = things[goal.x], goal.place or things[goal.y]
                assert 0 <= goal.instruction.find(x) < goal.instruction.find(y)
            else:
                assert things[goal.x] in goal.instruction or other_words
            assert (goal.y >= 0) == (goal.task == 'stack') and goal.x != goal.y
            assert said.setdefault(goal.instruction, other_words) == other_words
    lengths = [len(tokenizer.encode(prompts.robot(words))) for words in said]
    assert max(lengths) < config.data.prompt_length


@pytest.mark.parametrize('suite', SUITES)
def test_cubes_lie_apart_and_away_from_the_goal(suite):
    for number, goal in enumerate(goals(suite, count=20)):
        cubes = ogbench_tasks.draw_layout(goal, suite, np.random.default_rng(number))
        assert cubes.shape == (SUITES[suite].cubes, 2)
        far = np.linalg.norm(cubes[:, None] - cubes, axis=-1) + np.eye(len(cubes))
        assert far.min() >= ogbench_tasks.APART
        if goal.place:
            to_place = np.linalg.norm(cubes - ogbench_tasks.PLACES[goal.place], axis=1)
            assert to_place.min() >= ogbench_tasks.FROM_PLACE


def test_bad_settings():
    with pytest.raises(ValueError, match="did you mean 'cube-double'"):
        collect.Settings(episodes=1, suite='cube-doubl')
    with pytest.raises(ValueError, match='detours is a probability'):
        collect.Settings(episodes=1, detours=2)
    with pytest.raises(ValueError, match="did you mean 'scene'"):
        configuration.load(ROOT / 'configs' / 'ogbench.py', 'scen')


def test_a_collection_knows_the_version_of_all_that_plays_it():
    """Of what worlds share, too: their camera, their arm, their detours."""
    plan = collect._plan(collect.Settings(episodes=1))
    names = {path.name for path in plan.code}
    assert names == {'ogbench', 'arm_environment.py', 'disturbed_play.py', 'mujoco_camera.py'}
    assert all(path.exists() for path in plan.code)


@needs('ogbench')
def test_the_expert_through_tokens(tmp_path):
    """Cubes by their colours; a scene in words that no episode has."""
    suites = 'ogbench/cube-double', 'ogbench/scene_other_words'
    in_python_of(
        'ogbench',
        *('-m', 'rt2_jax.evaluate', f'--suite={",".join(suites)}', '--policy=expert_rounded'),
        *('--episodes=2', '--parallel=1', '--image_size=16', f'--output={tmp_path / "results.json"}'),
    )  # fmt: skip
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['manifest']['versions']['ogbench'] == '1.2.2'
    cubes, scene = (results['policies']['expert_rounded'][suite] for suite in suites)
    for figures in (cubes, scene):
        assert figures['success'] == figures['recognition']['share'] == 1
    assert set(cubes['tasks']) == {'place', 'stack'} and cubes['goal']['share'] == 1
    assert set(scene['tasks']) == {'cube-in-drawer', 'drawer-open'}
    for rollout in cubes['rollouts']:
        assert (
            rollout['first_tile'] == rollout['group'] and rollout['group'] in rollout['instruction']
        )


@needs('ogbench')
def test_collected_episodes_are_read_by_the_card(tmp_path):
    printed = in_python_of(
        'ogbench',
        *('-m', 'rt2_jax.envs.ogbench.collect', '--suite=cube-double', '--episodes=2'),
        *(f'--output={tmp_path / "cubes"}', '--processes=1', '--image_size=32'),
    )
    assert '2 episodes' in printed and 'place 100.0%, stack 100.0%' in printed
    source = rlds.open_source(tmp_path / 'cubes', 'ogbench', success_only=True)
    actions = np.stack([source.table.action(i) for i in range(len(source))])
    assert actions.shape[1] == 6 and np.abs(actions).max() == 1
    assert actions[:, 0].sum() == 2  # each episode terminates, and moves nothing then
    assert not actions[actions[:, 0] == 1, 1:5].any()
    raw = source.table.raw(0)
    assert raw['observation/object_names'].split('\n') == ['red cube', 'blue cube']
    assert np.ravel(raw['observation/object_places']).shape == (6,)
    assert source.frames(0).shape == (1, 32, 32, 3)
