"""Language-Table: its config and schema, and the real simulator in its own Python where that is there."""

import json

from etils import epath
import numpy as np
import pytest
from world_python import ROOT, in_python_of, needs

from rt2_jax import configuration
from rt2_jax.data.robot import rlds
from rt2_jax.envs import world
from rt2_jax.envs.language_table import collect, language_table_simulator
from rt2_jax.text import prompts

CONFIG = ROOT / 'configs' / 'language_table.py'
FAMILIES = language_table_simulator.FAMILIES


def test_plans_and_the_longest_instruction_fit(tokenizer):
    config = configuration.load(CONFIG, 'all')
    longest = 'slide the yellow pentagon downwards and to the right diagonally a little bit'
    assert len(tokenizer.encode(prompts.robot_plan(longest))) < config.data.prompt_length
    plan = prompts.plan('push yellow pentagon 410 530 to 610 210 arm 310 610')
    assert len(tokenizer.encode(plan)) + 3 <= config.data.target_length


def test_the_schema_is_the_published_one_and_more():
    observation = collect.features(180)['steps'].feature['observation']
    published = {'rgb', 'effector_translation', 'effector_target_translation', 'instruction'}
    assert published < set(observation.keys())
    assert observation['rgb'].shape == (180, 320, 3)
    assert observation['instruction'].shape == (512,)


def test_instructions_are_tasks_in_lerobot(tmp_path):
    """Though the published schema has them as numbers, a letter each."""
    pytest.importorskip('av', reason="needs PyAV: pip install -e '.[lerobot]'")
    settings = collect.Settings(episodes=1, image_size=36, format='lerobot')
    letters = np.zeros([collect.LETTERS], np.int32)
    letters[:7] = list(b'push it')
    observation = {
        'rgb': np.zeros((36, 64, 3), np.uint8),
        **dict.fromkeys(('effector_translation', 'effector_target_translation'), np.zeros(2)),
        'instruction': letters,
        'gripper_pixel': np.zeros(2),
        'object_names': 'red moon',
        'object_pixels': np.zeros((8, 2)),
        'plan': 'push',
    }
    flags = dict.fromkeys(('is_first', 'is_last', 'is_terminal'), False)
    step = {'observation': observation, 'action': np.ones(2), 'reward': 0.0, **flags}
    about = {'success': True, 'task': 'separate', 'suite': 'all', 'seed': 0}
    episode = {'steps': [step] * 3, 'episode_id': '0', 'episode_metadata': about}
    files = collect._plan(settings).files(epath.Path(tmp_path))
    files.write(0, iter([episode]))
    files.finish()
    assert list(files.outcomes()) == [('separate', True, 3)]
    source = rlds.open_source(tmp_path, str(tmp_path / 'card.json'))
    assert source.table.instruction(0) == 'push it' and source.frames(0).shape == (1, 36, 64, 3)


def test_bad_settings(monkeypatch):
    with pytest.raises(ValueError, match="did you mean 'separate'"):
        collect.Settings(episodes=1, suite='seperate')
    with pytest.raises(ValueError, match="did you mean 'blocktoblock'"):
        configuration.load(CONFIG, 'blocktblock')
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ImportError, match='bash launch/worlds.sh language_table CLONE'):
        world.find_suite('language_table/all')


@needs('language_table')
def test_the_oracle_through_tokens(tmp_path):
    """A family each; an episode is the same whatever was played before it."""
    command = (
        *('-m', 'rt2_jax.evaluate', '--policy=expert_rounded', '--parallel=1', '--image_size=18'),
        '--suite=language_table/all',
    )
    found = {}
    for episodes in (2, 1):
        output = tmp_path / f'{episodes}.json'
        in_python_of('language_table', *command, f'--episodes={episodes}', f'--output={output}')
        results = json.loads(output.read_text())
        found[episodes] = results['policies']['expert_rounded']['language_table/all']['rollouts']
    assert [rollout['group'] for rollout in found[2]] == list(FAMILIES[:2])
    assert found[2][0] == found[1][0] and found[1][0]['success']
    assert found[1][0]['first_tile'] and found[1][0]['recognised']


@needs('language_table')
def test_collected_episodes_are_read_by_the_card(tmp_path):
    printed = in_python_of(
        'language_table',
        *('-m', 'rt2_jax.envs.language_table.collect', '--suite=separate', '--episodes=2'),
        *(f'--output={tmp_path / "apart"}', '--processes=1', '--image_size=36'),
    )
    assert '2 episodes' in printed
    source = rlds.open_source(tmp_path / 'apart', 'language_table_brisk')
    assert source.frames(0).shape == (1, 36, 64, 3)
    raw = source.table.raw(0)
    names = raw['observation/object_names'].split('\n')
    assert tuple(names) == language_table_simulator.BLOCKS
    pixels = raw['observation/object_pixels']
    assert pixels.shape == (8, 2) and ((0 < pixels) & (pixels < 1)).all()
    plan = raw['observation/plan'].split()
    assert ' '.join(plan[1:3]) in names and plan[5] == 'to' and plan[8] == 'arm'
    moved = pixels[names.index(' '.join(plan[1:3]))]
    told = np.array([int(plan[3]), int(plan[4])]) / 1000
    assert np.abs(told - moved).max() <= 0.0101
