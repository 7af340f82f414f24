"""A robot's own card in a JSON file, wherever a card's name is taken."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from rt2_jax import configuration
from rt2_jax.checkpoints import acting_robot, assets
from rt2_jax.data import cards, data_errors, named_mixtures, sources
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.robot import rlds

MINE = dataclasses.replace(cards.TABLETOP, name='my_arm', columns=(), frequency=7.0)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'my_arm.json'
    path.write_text(json.dumps(dataclasses.asdict(MINE)))
    return path


def test_a_card_is_found_by_name_or_file(file, tmp_path):
    assert cards.find(str(file)) == MINE
    assert cards.find('tabletop') == cards.TABLETOP
    run = tmp_path / 'embodiment.json'  # what a run writes holds its card
    run.write_text(json.dumps({'embodiment': dataclasses.asdict(MINE), 'sources': {}}))
    assert cards.find(str(run)) == MINE
    assert cards.known(str(tmp_path / 'none.json')) is None is cards.known('none')


def changed(**fields):
    return json.dumps(dataclasses.asdict(MINE) | fields)


GRIPPER = dataclasses.asdict(MINE.gripper)
PART = dict(path='action/world_vector', start=0, stop=3)
SPACE = dataclasses.asdict(MINE.action_space)
WRONG = {
    'not json': ('{"name": ', 'not JSON'),
    'no object': ('[1]', 'an object is needed'),
    'many brackets': ('[' * 100_000, 'not JSON'),
    'unknown field': (changed(griper=None), "unknown field 'griper'; did you mean 'gripper'"),
    'lacks fields': ('{"name": "my_arm"}', "'my_arm': it lacks the field images, instruction"),
    'wrong type': (changed(images='observation/image'), "'images' must be a list of texts, not"),
    'wrong number': (changed(frequency='fast'), "'frequency' must be a number, not 'fast'"),
    'part': (
        changed(action=[PART, PART | {'stp': 1}]),
        r"field action\[1\]: unknown field 'stp'; did you mean 'stop'",
    ),
    'gripper': (
        changed(gripper=GRIPPER | {'kind': 'relativ'}),
        'gripper: .*did you mean .relative',
    ),
    'name': (changed(name='my/arm'), 'letters, digits'),
    'space': (changed(action_space=SPACE | {'hihg': 1}), "field action_space: .*'hihg'"),
    'git-lfs': ('version https://git-lfs.github.com/spec/v1\n', 'run `git lfs pull`'),
}


@pytest.mark.parametrize('text, message', WRONG.values(), ids=WRONG)
def test_a_wrong_card_names_file_and_field(tmp_path, text, message):
    path = tmp_path / 'card.json'
    path.write_text(text)
    with pytest.raises(data_errors.CardError, match=f'card.json.*{message}'):
        cards.find(str(path))


def test_no_such_card():
    with pytest.raises(data_errors.CardError, match="did you mean 'tabletop'.*FILE.json"):
        cards.find('tabeltop')
    with pytest.raises(data_errors.CardError, match='no card at /nowhere/card.json'):
        cards.find('/nowhere/card.json')


def test_inspect_takes_a_file(dataset, file, tmp_path):
    command = [sys.executable, '-m', 'rt2_jax.data.inspect', f'--dataset={dataset}']
    done = subprocess.run(
        [*command, f'--card={file}', f'--output={tmp_path / "report"}'],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 'card my_arm' in done.stdout and '7 Hz' in done.stdout


def test_a_run_records_the_card_and_needs_no_file_later(dataset, file, tmp_path, tokenizer):
    config = configuration.defaults()
    config.embodiment = str(file)
    config.data.robot.mine = dict(
        directory=str(dataset), card=str(file), weight=1.0, plan_share=0.5
    )
    config.data.robot.mine.update(plans='instruction', bounds='q01-q99')
    robot, _ = sources.open_sources(DataConfig.from_config(config.data))
    assert {source.action_space for source, _ in robot.values()} != {MINE.action_space}
    spaces = {name: source.action_space for name, (source, _) in robot.items()}
    assert acting_robot.run_action_space(config, MINE, spaces) == spaces['mine']
    workdir = tmp_path / 'run'
    assets.write_assets(workdir, config, tokenizer, spaces)
    file.unlink()
    record = json.loads((workdir / 'embodiment.json').read_text())
    assert assets.recorded_card(record['embodiment']) == MINE
    assert set(record['cards']) == {'mine', 'mine_plans'}
    assert cards.find(str(workdir / 'embodiment.json')) == MINE
    assert acting_robot.source_cards(config, spaces) == {}  # what loading would be left with


def test_a_mixture_with_cards_of_its_own(file):
    sets = named_mixtures.robot_sets('rtx', '/data', cards={'toto': str(file)})
    assert sets['toto']['card'] == str(file) and 'bounds' not in sets['toto']
    with pytest.raises(ValueError, match='Unknown set of mixture'):
        named_mixtures.robot_sets('rtx', '/data', cards={'nothing': str(file)})


def test_a_set_may_not_take_the_name_of_anothers_source(dataset):
    config = configuration.defaults()
    fields = dict(directory=str(dataset), card='tabletop', weight=1.0)
    config.data.robot = {'arm': fields | dict(plan_share=0.5), 'arm_plans': fields}
    with pytest.raises(ValueError, match="'arm_plans'.*'arm'.*rename"):
        sources.open_sources(DataConfig.from_config(config.data))


def test_actions_of_a_file_are_those_of_its_card(dataset, file):
    ours, theirs = rlds.open_source(dataset, str(file)), MINE
    assert ours.index.card == theirs
    command = theirs.to_command(ours.table.action(3))
    np.testing.assert_allclose(
        theirs.to_action({k: v[None] for k, v in command.items()})[0], ours.table.action(3)
    )
