"""Worlds: what evaluate plays, and that the tabletop's results are what they were."""

import importlib.util
import json
import pathlib
import re
import sys

from absl import flags
from absl.testing import flagsaver
from in_process import defined_flags
import numpy as np
import pytest

from rt2_jax import evaluate
from rt2_jax.envs import world
from rt2_jax.errors import MissingPackage
from rt2_jax.evaluation import closed_loop, kept_episodes, result_lines
from rt2_jax.policy.from_flags import FlagError

README = pathlib.Path(world.__file__).with_name('README.md')
needs_tabletop = pytest.mark.skipif(
    not importlib.util.find_spec('mujoco'), reason="the tabletop needs pip install 'rt2_jax[sim]'"
)


@pytest.fixture(scope='module', autouse=True)
def parsed_flags():
    with defined_flags(evaluate):
        flags.FLAGS(['evaluate', '--output=unused'])
        yield


@pytest.fixture
def dot_world(tmp_path, monkeypatch):
    """The README's own world, as a module that can be imported."""
    code = re.search(r'```python\n(.*?)```', README.read_text(), re.DOTALL)[1]
    (tmp_path / 'dot_lab').mkdir()
    (tmp_path / 'dot_lab' / 'dot_world.py').write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield 'dot_lab.dot_world/middle'
    for name in ('dot_lab', 'dot_lab.dot_world'):
        sys.modules.pop(name, None)


def evaluated(tmp_path, **settings):
    output = tmp_path / 'results.json'
    with flagsaver.flagsaver(output=str(output), **settings):
        evaluate.main(['evaluate'])
    return json.loads(output.read_text())


def test_a_world_in_one_file_is_played(dot_world, tmp_path, capsys):
    """By its expert, exact and through tokens, with a video; nothing of the package is touched."""
    pytest.importorskip('imageio_ffmpeg', reason="videos need pip install 'rt2_jax[sim]'")
    film = tmp_path / 'film.mp4'
    for policy in ('expert', 'expert_rounded'):
        results = evaluated(
            tmp_path, suite=[dot_world], policy=policy, episodes=5, parallel=2, video=str(film)
        )
        figures = results['policies'][policy][dot_world]
        assert figures['success'] == figures['terminated_by_policy'] == 1
        assert list(figures['tasks']) == ['middle'] and 'recognition' not in figures
        assert [rollout['seed'] for rollout in figures['rollouts']] == list(range(5))
    assert film.stat().st_size > 1000
    assert 'ended by the policy: 100%' in capsys.readouterr().out


def test_the_step_limit_and_the_flag_are_kept_by_who_plays(dot_world):
    still = lambda flag: closed_loop.Move(np.array([flag, 0, 0], np.float32))
    for flag, steps in ((0, 20), (1, 1)):
        decide = lambda observations, envs, flag=flag: [still(flag)] * len(envs)
        (rollout,) = closed_loop.run(decide, dot_world, [4], image_size=8).rollouts
        assert (rollout.steps, rollout.terminated) == (steps, flag == 1) and not rollout.success


def test_an_interrupted_evaluation_goes_on(dot_world, tmp_path, monkeypatch):
    """What was played is kept, and taken where the same command comes again; another is refused."""
    whole = evaluated(tmp_path, suite=[dot_world], policy='expert', episodes=6, parallel=1)
    world_class = world.find_suite(dot_world)[0].make
    begin = world_class.reset
    played = []

    def reset(self, seed, task=None, last=3):
        played.append(seed)
        if seed > last:
            raise KeyboardInterrupt
        return begin(self, seed, task)

    monkeypatch.setattr(world_class, 'reset', reset)
    again = dict(suite=[dot_world], policy='expert', episodes=6, parallel=1)
    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path, **again)
    with pytest.raises(FlagError, match='with another image_size. The same command'):
        evaluated(tmp_path, **again, image_size=16)
    monkeypatch.setattr(world_class, 'reset', lambda *args: reset(*args, last=9))
    played.clear()
    figures, before = (
        results['policies']['expert'][dot_world]
        for results in (evaluated(tmp_path, **again), whole)
    )
    assert played == [4, 5] and figures['rollouts'] == before['rollouts']
    assert not list(tmp_path.glob('*.episodes'))


def test_an_episode_that_was_played_again_counts_once(tmp_path):
    """As for a video; it may have gone another way."""
    kept = kept_episodes.KeptEpisodes(tmp_path / 'results.json', 0, {})
    for success in (True, False):
        kept.add('middle', closed_loop.Rollout(3, 'middle', 'all', 'go', success))
    again = kept_episodes.KeptEpisodes(tmp_path / 'results.json', 0, {})
    (rollout,) = again.of('middle')
    assert rollout.seed == 3 and not rollout.success


BROKEN = {
    'close = None': 'Dot lacks close',
    'over = None': 'Dot lacks over',
    'reset = lambda *_: None': 'reset of Dot gave NoneType, not a world.Episode',
    'step = lambda *_: 1': 'step of Dot gave int, not a world.Observation',
    'draw = lambda *_: np.zeros((4, 4))': "the picture 'image' is float64 .4, 4., not uint8",
}


@pytest.mark.parametrize('change', BROKEN)
def test_a_world_that_is_not_one_says_what_is_wrong(dot_world, change):
    played = world.find_suite(dot_world)[0]
    sys.modules['dot_lab.dot_world'].np = np
    name, code = change.split(' = ')
    setattr(played.make, name, eval(code, {'np': np}))
    with pytest.raises(world.WorldError, match=BROKEN[change]):
        closed_loop.run(closed_loop.scripted(), dot_world, [0], image_size=8)


def test_success_may_be_a_number_of_numpy(dot_world, tmp_path):
    Dot = world.find_suite(dot_world)[0].make
    Dot.success = property(lambda self: np.abs(self.place).max() < 0.1)
    Dot.clipped = np.int64(0)
    results = evaluated(tmp_path, suite=[dot_world], policy='expert', episodes=2)
    assert results['policies']['expert'][dot_world]['success'] == 1


def test_a_policy_of_another_robot_is_refused(dot_world, tiny_checkpoint, tmp_path):
    with pytest.raises(FlagError, match='the robot of dot needs terminate, dx, dy'):
        evaluated(tmp_path, suite=[dot_world], workdir=str(tiny_checkpoint), episodes=1)


def test_results_of_a_world_without_objects_are_said_by_group():
    groups = {'easy': {'success': 1.0, 'interval': [0.5, 1.0]}}
    figures = {
        'success': 0.75, 'interval': [0.5, 0.9], 'episodes': 8, 'mean_steps': 9.0,
        'decision_ms': {'p50': 1.0}, 'terminated_by_policy': 0.5, 'groups': groups,
    }  # fmt: skip
    assert result_lines.describe('w/s', figures).endswith('policy: 50%; easy 100% (50% to 100%)')
    assert result_lines.table({'w/s': figures}).endswith('w/s  75% (50% to 90%)')


@needs_tabletop
def test_wrong_names_are_said(dot_world, tmp_path):
    wrong = {
        'metawrld/mt10': "did you mean 'metaworld'",
        'no_lab.arm_world/stack': 'no module no_lab',
        'rt2_jax.paths/stack': 'the module has no WORLD',
        dot_world + 's': "did you mean 'middle'",
        'held_uot': "did you mean 'held_out'",
        '.lab/middle': 'Unknown world',
    }
    for suite, says in wrong.items():
        with pytest.raises(FlagError, match=says):
            evaluated(tmp_path, suite=[suite], policy='expert')
    wrong_files = dict(suite=[dot_world], policy='expert')
    with pytest.raises(FlagError, match='ends in .mp4'):
        evaluated(tmp_path, **wrong_files, video=str(tmp_path / 'film.txt'))
    with pytest.raises(FlagError, match='execution_noise=nan'):
        evaluated(tmp_path, **wrong_files, execution_noise=float('nan'))
    with pytest.raises(FlagError, match='suites of dot and tabletop: one call'):
        evaluated(tmp_path, suite=['seen', dot_world], policy='expert')


def test_a_world_that_is_not_installed_says_the_command(monkeypatch):
    place = world.WORLDS['metaworld']._replace(package='no_such_simulator')
    monkeypatch.setitem(world.WORLDS, 'metaworld', place)
    with pytest.raises(MissingPackage, match='no_such_simulator: bash launch/worlds.sh metaworld'):
        world.find_suite('metaworld/mt10')


# What the expert's episodes were before there was a protocol: by suite and noise, of each seed the
# instruction, steps, goals out of reach, the tile approached first, and the one that X was pushed to.
BEFORE = {
    ('seen', 0.0): [
        ('push bell to backpack', 5, 0, 'bell', 'backpack'),
        ('pick pretzel', 5, 0, 'pretzel', ''),
        ('turn hammer left', 4, 0, 'hammer', ''),
    ],
    ('emergent', 0.0): [
        ('pick number five', 5, 0, 'number five', ''),
        ('push the animal to the tool', 5, 0, 'elephant', 'wrench'),
        ('turn cadeau right', 5, 0, 'gift', ''),
    ],
    ('unseen_objects', 0.1): [
        ('push cloud to lion', 5, 2, 'cloud', 'lion'),
        ('turn flamingo left', 13, 4, 'flamingo', ''),
        ('pick top hat', 7, 0, 'top hat', ''),
    ],
}


@needs_tabletop
@pytest.mark.parametrize('suite, noise', BEFORE)
def test_the_same_seeds_give_the_same_rollouts_on_the_tabletop(suite, noise):
    run = closed_loop.run(
        closed_loop.scripted(), suite, range(3), image_size=16, execution_noise=noise
    )
    assert [
        (r.instruction, r.steps, r.out_of_reach, r.first_tile, r.brought_to) for r in run.rollouts
    ] == BEFORE[suite, noise]
    assert all(r.success and r.terminated and r.recognised for r in run.rollouts)
    named = closed_loop.run(closed_loop.scripted(), f'tabletop/{suite}', [1], image_size=16)
    plain = closed_loop.run(closed_loop.scripted(), suite, [1], image_size=16)
    assert named.rollouts[0].to_json() == plain.rollouts[0].to_json()
