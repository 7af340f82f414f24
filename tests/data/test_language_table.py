"""RT-2's recipe for Language-Table, from files in the true schema to a policy that acts on them.

Only the model, its pictures and the number of steps are small.
"""

import os
import pathlib
import runpy
import subprocess
import sys

import numpy as np
import open_x
import pytest

from rt2_jax.data import sources
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.history import History
from rt2_jax.data.robot import rlds
from rt2_jax.policy import Policy
from rt2_jax.training import metrics

ROOT = pathlib.Path(__file__).parents[2]
NAME = 'language_table'
# What the arm is told, and the set-point's change in each step, metres.
WAYS = {
    'slide to the left': (0.0, 0.03),
    'slide to the right': (0.0, -0.03),
    'move the arm away': (0.03, 0.0),
    'bring the arm back': (-0.03, 0.0),
}
KINDS = ('robot', 'instruction', 'arm_position', 'time_steps', 'success')
TINY = dict(width=32, heads=2, mlp=64, depth=1, remat='none')
CHANGES = {
    'data.image_size': 32,
    'data.prompt_length': 32,
    'data.target_length': 16,
    'data.threads': 2,
    'batch_size': 32,
    'total_steps': 160,
    'log_every': 40,
    'checkpoint_every': 160,
    'optimizer.warmup': 20,
    'optimizer.lr': 0.01,
    'model.dtype': 'float32',
    'model.vocab': 4096,
    'model.vision.patch': 8,
    **{f'model.vision.{name}': value for name, value in TINY.items()},
    **{
        f'model.{part}.{name}': value
        for part in ('encoder', 'decoder')
        for name, value in {**TINY, 'head_dim': 16}.items()
    },
}


def make_episode(number):
    """The arm is a white square on the dark table; 4 to 6 steps."""
    instruction, way = list(WAYS.items())[number % len(WAYS)]
    episode = open_x.make_episode(NAME, number, instruction)
    at = np.random.default_rng(number).uniform((0.35, -0.1), (0.4, 0.1))
    for t, step in enumerate(episode['steps']):
        place = (at + t * np.array(way)).astype(np.float32)
        picture = np.full([360, 640, 3], 40, np.uint8)
        row, column = int(360 * (place[0] - 0.05) / 0.65), int(640 * (place[1] + 0.4) / 0.8)
        picture[max(0, row - 30) : row + 30, max(0, column - 30) : column + 30] = 250
        step['observation'] |= {'rgb': picture, 'effector_translation': place}
        step['action'] = np.array(way, np.float32)
    return episode


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    episodes = [make_episode(number) for number in range(16)]
    return open_x.write_dataset(tmp_path_factory.mktemp('data') / NAME, NAME, episodes)


@pytest.fixture(scope='module')
def workdir(directory, tmp_path_factory):
    """A run of the recipe by its command."""
    workdir = tmp_path_factory.mktemp('run')
    changes = CHANGES | {'data.robot.language_table.directory': directory}
    subprocess.run(
        [
            *(sys.executable, '-m', 'rt2_jax.train', f'--workdir={workdir}'),
            '--config=configs/rt2_pali_3b_language_table.py',
            *(f'--config.{name}={value}' for name, value in changes.items()),
        ],
        cwd=ROOT,
        check=True,
        env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    )
    return workdir


def test_the_recipe_is_two_frames_five_tasks_and_x_y(directory):
    config = runpy.run_path(ROOT / 'configs' / 'rt2_pali_3b_language_table.py')['get_config']()
    with config.unlocked():
        config.data.robot.language_table.directory = str(directory)
    robot, others = sources.open_sources(DataConfig.from_config(config.data))
    (acting, acts), (asking, asks) = robot.values()
    assert not others and acts.start == asks.start == 1.0
    examples = [source[i] for source in (acting, asking) for i in range(len(source))]
    assert {example.kind for example in examples} == set(KINDS)
    assert {example.frames.shape for example in examples} == {(2, 360, 640, 3)}
    for example in examples[: len(acting)]:
        instruction = example.prompt.removeprefix('Q: what action should the robot take to ')
        np.testing.assert_array_equal(example.action, np.float32(WAYS[instruction[:-4]]))


@pytest.mark.slow
def test_the_five_tasks_are_trained_together(workdir):
    rows = metrics.read(workdir)
    first, last = rows[0], rows[-1]
    for kind in KINDS:
        assert last[f'kind/{kind}/loss'] < 0.5 * first[f'kind/{kind}/loss'], kind
    assert last['kind/robot/accuracy'] > 0.95
    assert abs(last['action/language_table/dx_m']) < 0.005  # half a bin


@pytest.mark.slow
def test_the_policy_acts_with_two_frames(workdir, directory):
    policy = Policy.from_checkpoint(workdir)
    assert (policy.frames, policy.frame_stride) == (2, 1)
    steps = rlds.open_source(directory, NAME)
    for place, (instruction, way) in enumerate(WAYS.items()):
        history = History(policy.frames, policy.frame_stride)
        for i in steps.table.episode_steps(place):
            seen = history.add(steps.frames(i)[0])
            decision = policy.act(seen, instruction)
            np.testing.assert_allclose(decision.action, way, atol=1e-6)
    with pytest.raises(ValueError, match='sees 2 frame.s. at a time'):
        policy.act(steps.frames(0)[0], 'slide to the left')
