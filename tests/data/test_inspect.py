"""The report of a data set: what it counts, what it warns of, and that its pictures show something."""

import dataclasses
import json
import subprocess
import sys

import cv2
import numpy as np
import open_x
import pytest

from rt2_jax.data import cards, data_errors, inspect
from rt2_jax.data.looking import robot_report
from rt2_jax.data.robot import rlds
from rt2_jax.errors import MissingPackage

PICTURES = ('actions.png', 'frames.png', 'lengths.png')


def run(*arguments):
    command = [sys.executable, '-m', 'rt2_jax.data.inspect', *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_report_of_the_tabletop(whole_dataset, tmp_path):
    done = run(f'--dataset={whole_dataset}', f'--output={tmp_path}')
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / 'report.json').read_text())
    assert (
        report['counts']
        | {'episodes': 30, 'steps': 165, 'successful': 24, 'failed': 6, 'success_unknown': 0}
        == report['counts']
    )
    assert report['lengths'] == {'min': 3, 'median': 5.5, 'mean': 5.5, 'max': 8}
    assert report['instructions']['commonest']['pick thing 0'] == 8
    assert report['terminate'] == {'steps': 30, 'episodes_ending_without': 0, 'still': 0}
    assert report['degenerate'] == ['drx', 'dry']
    dx = report['bounds']['card']['dx']
    assert sum(dx['counts']) == 165 and (dx['low'], dx['high']) == (-1, 1)
    # +-0.4 m of +-1 m, 256 bins: 103 of them, less what 165 values leave out at both ends.
    assert 80 < dx['bins_of_98_percent'] < 103
    assert report['bounds']['q01-q99']['dx']['bins_of_98_percent'] == 256
    for words in ('6 of 30 episodes failed', 'drx hardly varies'):
        assert any(words in warning for warning in report['warnings']) and words in done.stdout
    for name in PICTURES:
        picture = cv2.imread(str(tmp_path / name))
        assert picture.shape[1] > 500 and 0.005 < (picture < 255).any(axis=2).mean() < 0.95


@pytest.mark.parametrize('name', ['language_table', 'bridge_dataset'])
def test_decoded_examples_and_what_is_wrong(name, tmp_path):
    texts = [None, '', None]
    episodes = [open_x.make_episode(name, n, text) for n, text in enumerate(texts)]
    for step in episodes[0]['steps']:
        if name == 'bridge_dataset':
            step['observation']['image_3'] = np.zeros([256, 256, 3], np.uint8)
    directory = open_x.write_dataset(
        tmp_path / name, name, [*episodes, episodes[0] | {'steps': []}]
    )
    report = inspect.inspect(directory, tmp_path / 'report')
    text = inspect.as_text(report)
    for words in ('1 of 4 episodes have steps without an instruction', '1 episodes have no steps'):
        assert f'WARNING: {words}' in text
    example = report['examples'][0]
    assert example['instruction'] == 'schiebe Würfel 0 nach ←' and example['instruction'] in text
    if name == 'bridge_dataset':
        assert 'image_3 is of one colour in 3 of 8 frames' in text
        assert report['counts']['null_first_steps_dropped'] == 3
        assert example['tokens'].split()[0] == '1' and len(example['tokens'].split()) == 8
        assert example['command']['action'][6] in (0.0, 1.0)
    else:
        assert len(example['tokens'].split()) == 2
        np.testing.assert_allclose(example['command']['action'], example['action'], atol=0.005)


def test_what_actions_lose_as_tokens(whole_dataset, tmp_path):
    report = inspect.inspect(whole_dataset, tmp_path)
    replayed = report['replay']['card']
    dx = replayed['dimensions']['dx']
    assert dx['unit'] == 'm' and 0 < dx['mean'] < dx['largest'] <= 1 / 255 + 1e-6  # half a bin
    assert dx['clipped'] == 0 and 0 < dx['off_mean'] < dx['off_largest'] <= 8 / 255
    gripper = replayed['dimensions']['gripper']  # 1 comes back as 0.996, the centre of its bin
    assert gripper['largest'] == pytest.approx(1 / 255, rel=1e-3) and 'off_mean' not in gripper
    assert report['replay']['q01-q99']['dimensions']['dx']['clipped'] > 0
    assert replayed['moving'] == 165 and replayed['zeroed'] == 0
    bins = {entry['bin']: entry['command'] for entry in report['gripper_bins']}
    assert bins == {1: -0.9961, 255: 0.9961}
    assert sum(entry['share'] for entry in report['gripper_bins']) == pytest.approx(1)
    text = inspect.as_text(report)
    assert 'gripper in 2 bins: 255 (' in text and '0.00% of 165 steps that move something' in text


def test_bins_that_are_too_wide(whole_dataset, tmp_path):
    space = dataclasses.replace(cards.TABLETOP.action_space, low=(-100,) * 7, high=(100,) * 7)
    wide = dataclasses.replace(cards.TABLETOP, action_space=space)
    replayed = robot_report.report_of(rlds.open_index(whole_dataset, wide))
    zeroed = replayed['replay']['card']['zeroed']
    assert zeroed > 0.5
    words = f'{zeroed:.1%} of the steps that move something move nothing as tokens'
    assert any(words in warning for warning in replayed['warnings'])


def test_steps_that_terminate_and_move_nothing(write, tmp_path):
    episodes = [write.episode(number) for number in range(3)]
    for episode in episodes[:2]:
        for name in ('world_vector', 'rotation_delta'):
            episode['steps'][-1]['action'][name] = np.zeros(3, np.float32)
    report = robot_report.report_of(rlds.open_index(write('still', episodes), 'tabletop'))
    assert report['terminate']['still'] == 2
    words = '2 of 3 steps that terminate (67%) move nothing'
    assert any(words in warning for warning in report['warnings'])


def test_a_strip_for_each_instruction(whole_dataset):
    source = rlds.open_source(whole_dataset, 'tabletop')

    def shown(episodes):
        strips = inspect.shown_steps(source, episodes, 3)
        assert all(len(strip) == 3 for strip in strips)
        return [source.table.instruction(strip[0]) for strip in strips]

    # Things 0 and 1 have 8 episodes each, things 2 and 3 have 7.
    assert shown(3) == ['pick thing 0', 'pick thing 1', 'pick thing 2']
    assert sorted(shown(8)) == [f'pick thing {n}' for n in range(4)]
    assert len(shown(12)) == 6  # two more


def test_no_card_of_that_name(whole_dataset, tmp_path):
    done = run(f'--dataset={whole_dataset}', f'--output={tmp_path}', '--card=fractal')
    assert done.returncode == 1 and "no embodiment card called 'fractal'" in done.stderr
    with pytest.raises(data_errors.DataSetError, match='no such directory'):
        inspect.inspect(tmp_path / 'nothing', tmp_path)


def test_a_missing_package_is_named_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    with pytest.raises(MissingPackage, match=r"pip install 'rt2_jax\[look\]'"):
        inspect.inspect(tmp_path / 'nothing', tmp_path / 'report')
    assert not (tmp_path / 'report').exists()
