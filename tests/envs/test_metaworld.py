"""Meta-World: its tasks and words, and the real simulator in its own Python where that is there."""

import collections
import json
import re

import numpy as np
import pytest
from world_python import ROOT, in_python_of, needs

from rt2_jax import configuration
from rt2_jax.data.robot import rlds
from rt2_jax.envs.metaworld import collect, metaworld_tasks
from rt2_jax.text import prompts

TASKS = metaworld_tasks.TASKS


def test_the_tasks_are_split_as_published():
    sizes = collections.Counter(task.difficulty for task in TASKS.values())
    assert sizes == {'easy': 28, 'medium': 11, 'hard': 6, 'very_hard': 5}
    assert len(metaworld_tasks.SUITES['mt10']) == 10
    assert set(metaworld_tasks.SUITES['mt50']) == set(TASKS) and len(TASKS) == 50


def test_no_two_tasks_are_said_alike(tokenizer):
    """And all that is said fits the config's prompt."""
    said = [words for task in TASKS.values() for words in (*task.instructions, task.other_words)]
    assert len(set(said)) == len(said) == 200
    config = configuration.load(ROOT / 'configs' / 'metaworld.py', 'mt50')
    lengths = [len(tokenizer.encode(prompts.robot(words))) for words in said]
    assert max(lengths) < config.data.prompt_length
    longest = max((task.replace('-', ' ') for task in TASKS), key=len)
    places = ' thing 990 990 goal 990 990 hand 990 990'
    plan = prompts.plan(f'{longest}{places} top{places}')
    assert len(tokenizer.encode(plan)) + 5 < config.data.target_length


def test_bad_settings():
    with pytest.raises(ValueError, match="did you mean 'mt10'"):
        collect.Settings(episodes=1, suite='mt1')
    with pytest.raises(ValueError, match='seed must be 0 to 9'):
        collect.Settings(episodes=1, seed=10)


@needs('metaworld')
def test_the_expert_through_tokens(tmp_path):
    """Several tasks and their words; a task alone in words that no episode has."""
    suites = 'metaworld/mt10', 'metaworld/drawer-open_other_words'
    in_python_of(
        'metaworld',
        *('-m', 'rt2_jax.evaluate', f'--suite={",".join(suites)}', '--policy=expert_rounded'),
        *('--episodes=6', '--parallel=2', '--image_size=16', f'--output={tmp_path / "results.json"}'),
    )  # fmt: skip
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['manifest']['versions']['metaworld'] == '3.1.1'
    several, drawer = (results['policies']['expert_rounded'][suite] for suite in suites)
    assert several['success'] == 1 and drawer['success'] == 1
    assert set(several['tasks']) == set(metaworld_tasks.MT10[:6])
    assert set(several['groups']) == {'easy', 'hard'}
    for rollout in several['rollouts']:
        assert rollout['instruction'] in TASKS[rollout['task']].instructions
    assert {r['instruction'] for r in drawer['rollouts']} == {TASKS['drawer-open'].other_words}


# Prints, for first frames of reach, how much redder the goal's place is than the table; and a plan.
_GOALS = """
from rt2_jax.envs.metaworld import metaworld_env
env = metaworld_env.MetaworldEnvironment('reach', image_size=192, render_size=192, execution_noise=0)
for seed in range(3):
    images, points = env.reset(seed).observation.images, env.pixels()
    for name in metaworld_env.CAMERAS:
        u, v = (points[name][1] * 192).astype(int)
        red, green, _ = images[name][v, u].astype(int)
        print(red - green)
print(env.plan())
"""


@needs('metaworld')
def test_a_goal_is_drawn_where_it_is_said_to_be_from_the_first_frame_on():
    *redder, plan = in_python_of('metaworld', '-c', _GOALS).strip().splitlines()[-7:]
    assert len(redder) == 6 and min(map(int, redder)) > 60
    assert re.fullmatch(
        r'reach thing \d+ \d+ goal \d+ \d+ hand \d+ \d+ '
        r'top thing \d+ \d+ goal \d+ \d+ hand \d+ \d+',
        plan,
    )


@needs('metaworld')
def test_collected_episodes_are_read_by_the_card(tmp_path):
    command = '-m', 'rt2_jax.envs.metaworld.collect', '--suite=window-open', '--episodes=4'
    for name, processes in (('one', 1), ('two', 2)):
        flags = f'--output={tmp_path / name}', f'--processes={processes}', '--image_size=32'
        printed = in_python_of('metaworld', *command, *flags)
    assert '4 episodes' in printed and 'window-open 100.0%' in printed
    assert shards(tmp_path / 'one') == shards(tmp_path / 'two')
    source = rlds.open_source(tmp_path / 'one', 'metaworld', success_only=True)
    actions = np.stack([source.table.action(i) for i in range(len(source))])
    assert actions.shape[1] == 5 and np.abs(actions).max() == 1
    assert actions[:, 0].sum() == 4  # each episode terminates, and moves nothing then
    assert not actions[actions[:, 0] == 1, 1:4].any()
    raw = source.table.raw(0)
    assert raw['instruction'] in TASKS['window-open'].instructions and raw['success']
    assert source.frames(0).shape == (1, 32, 32, 3)
    assert raw['observation/plan'].startswith('window open thing ')
    assert raw['observation/object_names'] == 'thing\ngoal'


def shards(directory):
    return {path.name: path.read_bytes() for path in directory.glob('*.tfrecord-*')}
