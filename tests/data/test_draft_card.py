"""Drafting the card of a data set that has none: against our own cards, and on sets that can't have one."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import open_x
import pytest
import tensorflow_datasets as tfds

from rt2_jax.data import cards, draft_card
from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.drafting import episode_sample, guessed_action, guessed_gripper
from rt2_jax.data.looking import robot_report
from rt2_jax.data.robot import rlds, rlds_writer
from rt2_jax.data.robot_card import RobotCard

f = tfds.features
# Nothing in these files tells which end of the gripper is closed: the values are drawn at random.
SENSE_UNKNOWN = ('taco_play',)


@pytest.mark.parametrize('name', [name for name in open_x.NAMES if name != open_x.SIM])
def test_a_draft_agrees_with_our_own_card(name, tmp_path):
    episodes = [open_x.make_episode(name, number) for number in range(6)]
    directory = open_x.write_dataset(tmp_path / name, name, episodes)
    drafted, card = draft_card.draft(directory), cards.find(name)
    ours = drafted.card
    assert ours.name == name and drafted.sampled == drafted.declared == 6
    assert ours.images == card.images and ours.instruction == card.instruction
    assert ours.action == card.action and ours.motion == card.motion
    assert ours.action_space.names == card.action_space.names
    assert ours.success == card.success and ours.drop_zero_first == card.drop_zero_first
    if name != 'language_table':  # that nothing ends its episodes is a convention, not in the data
        assert (ours.terminate, ours.terminate_rule) == (card.terminate, card.terminate_rule)
    if card.gripper is None:
        assert ours.gripper is None
        return
    assert ours.gripper.kind == card.gripper.kind
    ends = {ours.gripper.closed, ours.gripper.open}
    assert ends == {card.gripper.closed, card.gripper.open}
    if name not in SENSE_UNKNOWN:
        assert ours.gripper.closed == card.gripper.closed


def test_the_command_writes_a_card_that_is_taken_as_one(whole_dataset, tmp_path):
    file = tmp_path / 'my_arm.json'
    command = [sys.executable, '-m', 'rt2_jax.data.draft_card', f'--dataset={whole_dataset}']

    def run(*more):
        return subprocess.run([*command, f'--output={file}', *more], capture_output=True, text=True)

    done = run('--frequency=3')
    assert done.returncode == 0, done.stderr
    source = rlds.open_source(whole_dataset, str(file))
    theirs = rlds.open_source(whole_dataset, 'tabletop')
    card = source.index.card
    assert card.frequency == 3 and card.terminate_rule == 'flag'
    np.testing.assert_array_equal(source.index.arrays['action'], theirs.index.arrays['action'])
    np.testing.assert_array_equal(
        source.index.arrays['episode_success'], theirs.index.arrays['episode_success']
    )
    for low, high in zip(card.action_space.low, card.action_space.high, strict=True):
        assert low == -high
    assert 0.38 < card.action_space.high[0] <= 0.41  # +-0.4 m, uniform
    for words in (
        'drafted from 30 of 30 episodes',
        'absolute, 1 is closed, -1 is open',
        'CHECK that the name is right',
        'CHECK it never moves here',
        '24 of 30 episodes succeed (80 %)',
        'named by --frequency',
    ):
        assert words in done.stdout
    assert 'is there already; --overwrite replaces it' in run().stderr
    before = json.loads(file.read_text())
    assert run('--overwrite').returncode == 0
    assert json.loads(file.read_text()) == before | {'frequency': 5.0}


def test_a_sample_is_spread_over_the_set(whole_dataset, tmp_path):
    sample = episode_sample.take(whole_dataset, tmp_path / 'sample', most=7)
    assert sample.declared == 30 and sample.episodes == 7
    seeds = [int(value) - 2**40 for value in sample.numbers['episode_metadata/seed']]
    assert seeds == [0, 5, 10, 14, 19, 24, 29]
    copy, whole = (rlds.open_source(x, 'tabletop') for x in (sample.directory, whole_dataset))
    np.testing.assert_array_equal(copy[0].frames, whole[0].frames)


def test_what_a_record_lacks_is_said(dataset):
    shard = next(dataset.glob('*00001-of-00003'))
    content = bytearray(shard.read_bytes())
    content[200] ^= 0xFF
    shard.write_bytes(content)
    drafted = draft_card.draft(dataset)
    assert drafted.sampled == 29 and 'record 0: the checksum is wrong' in drafted.unreadable[0]
    assert '1 unreadable, the first' in draft_card.as_text(drafted)


def write(directory, episodes=3, **changed):
    """A small set of its own schema; `changed` features take the place of the usual ones, None none."""
    usual = {
        'picture': (f.Image(shape=(16, 16, 3), encoding_format='png'), lambda t: PICTURE),
        'words': (f.Text(), lambda t: 'put the cup down'),
        'action': (open_x.floats(7), lambda t: np.full(7, 0.1 * t, np.float32)),
        'is_last': (open_x.flag(), lambda t: t == 3),
    }
    chosen = {name: pair for name, pair in (usual | changed).items() if pair}
    features = rlds_writer.features_dict({'steps': {name: x for name, (x, _) in chosen.items()}})
    encode = rlds_writer.EpisodeEncoder(features)
    episode = {'steps': [{name: make(t) for name, (_, make) in chosen.items()} for t in range(4)]}
    directory.mkdir()
    shard = directory / rlds_writer.shard_name('own', 'train', 0, 1)
    rlds_writer.write_shard(shard, [encode(episode)] * episodes)
    about = dict(name='own', version='1.0.0', description='', shard_lengths=[episodes])
    rlds_writer.finish(directory, features, **about)
    return directory


PICTURE = np.random.default_rng(0).integers(0, 255, [16, 16, 3], np.uint8)
NUMBERS = (f.Tensor(shape=(16, 16, 3), dtype=np.uint8), lambda t: PICTURE)
LABEL = (f.Text(), lambda t: 'kitchen-3')


@pytest.mark.parametrize(
    'changed, message',
    [
        (dict(picture=None), 'no feature is a camera: there are steps/action'),
        (dict(picture=NUMBERS), r"'steps/picture' is uint8 \[16, 16, 3\]; a camera must be one tfds"),
        (dict(words=None), 'no feature looks like an instruction: there are no texts'),
        (dict(words=LABEL), r"the texts are words \('kitchen-3'\); name one: --instruction=PATH"),
        (
            dict(action=None, moves=(open_x.floats(7), lambda t: np.ones(7, np.float32))),
            r'no feature is called action; those with few numbers are .*moves \[7\].*--action=PATH',
        ),
    ],
    ids=['no images', 'images as numbers', 'no strings', 'no sentences', 'no actions'],
)  # fmt: skip
def test_what_cannot_be_guessed_names_what_it_could_be(tmp_path, changed, message):
    with pytest.raises(DataSetError, match=f'own: .*{message}'):
        draft_card.draft(write(tmp_path / 'own', **changed))


def test_a_person_names_what_cannot_be_guessed(tmp_path):
    moves = (open_x.floats(3), lambda t: np.array([0.1, -0.2, t % 2], np.float32))
    directory = write(tmp_path / 'own', words=LABEL, action=None, moves=moves)
    card = draft_card.draft(directory, instruction='words', action=['moves']).card
    assert card.instruction == 'words' and card.action[0].path == 'moves'
    assert card.action_space.names == ('dx', 'dy', 'gripper')
    with pytest.raises(
        DataSetError, match="--action: there is no feature 'steps/move'; did you mean"
    ):
        draft_card.draft(directory, instruction='words', action=['move'])


@pytest.mark.parametrize('card', cards.CARDS.values(), ids=lambda card: card.name)
def test_a_file_holds_the_card_with_each_list_in_a_line(card):
    text = draft_card.as_json(dataclasses.replace(card, frame='[ a, b ] { "c" }'))
    assert RobotCard.from_json(text) == dataclasses.replace(card, frame='[ a, b ] { "c" }')
    assert f'"low": {list(card.action_space.low)},\n' in text


def test_a_flag_that_never_marks_an_end_is_not_taken(tmp_path):
    never = (open_x.floats(), lambda t: np.float32(0))
    drafted = draft_card.draft(write(tmp_path / 'own', terminate_episode=never))
    assert (drafted.card.terminate, drafted.card.terminate_rule) == ('', 'last_step')
    assert 'terminate_episode is not used: it marks the last step of 0 of 3 episodes' in (
        draft_card.as_text(drafted)
    )
    endless = write(tmp_path / 'endless', is_last=(open_x.flag(), lambda t: False))
    assert draft_card.draft(endless).card.terminate_rule == 'none'


def test_no_data_set(tmp_path):
    (tmp_path / 'empty').mkdir()
    for folder, message in (('empty', 'is no TFDS data set'), ('none', "did you mean 'none1'")):
        (tmp_path / 'none1').mkdir(exist_ok=True)
        with pytest.raises(DataSetError, match=message):
            draft_card.draft(tmp_path / folder)


@pytest.mark.parametrize(
    'path, episodes, expected',
    [
        ('gripper', [[1, 1, 0, 0]] * 5, ('absolute', 0.0, 1.0, 0.05)),  # it begins open
        ('gripper', [[0, 0, 1, 1]] * 5, ('absolute', 1.0, 0.0, 0.05)),
        ('gripper', [[0, 0, 1, 0, -1]] * 5, ('relative', 1.0, -1.0, 0.0)),  # first it closes
        ('gripper', [[0, 0, -1, 0, 1]] * 5, ('relative', -1.0, 1.0, 0.0)),
        ('open_gripper', [[0, 1]] * 5, ('absolute', 0.0, 1.0, 0.05)),  # the name counts more
        ('width', [[0.08, 0.07, 0.05, 0.03, 0.02, 0.0]] * 5, ('absolute', 0.0, 0.08, 0.0)),
        ('gripper', [[1, 1, 1]], ('absolute', 0.0, 1.0, 0.05)),  # it never moves
    ],
)
def test_what_a_gripper_means(path, episodes, expected):
    gripper, _ = guessed_gripper.guess(path, [np.array(x, float) for x in episodes])
    assert (gripper.kind, gripper.closed, gripper.open, gripper.binary) == expected


def test_ranges_are_symmetric_and_leave_out_what_is_far():
    spread = np.linspace(-0.03, 0.05, 1000)
    assert guessed_action.range_of(spread, True) == (-0.05, 0.05)
    assert guessed_action.range_of(np.append(spread, 9.0), True) == (-0.05, 0.05)
    assert guessed_action.range_of(np.float32([0, 0.3]), True) == (-0.3, 0.3)  # 0.30000001
    rare = np.append(np.zeros(1000), 0.2)  # moves in fewer than 1 % of the steps
    assert guessed_action.range_of(rare, True) == (-0.2, 0.2)
    assert guessed_action.range_of(spread + 1, False) == (0.97, 1.05)
    assert guessed_action.range_of(np.zeros(9), True) == (0, 0)


def test_positions_are_no_changes(tmp_path):
    track = lambda t: np.array(
        [0.5 + 0.01 * t, 0.3 - 0.01 * t, 0.2, 0.1 * t, 0, 0, t % 2], np.float32
    )
    directory = write(tmp_path / 'own', action=(open_x.floats(7), track))
    drafted = draft_card.draft(directory)
    space = drafted.card.action_space
    assert drafted.card.motion == 'absolute' and space.names[:4] == ('x', 'y', 'z', 'rx')
    assert space.low[0] > 0
    assert dataclasses.asdict(drafted.card)['gripper'] is not None


def test_positions_about_zero_are_known_by_the_state(tmp_path):
    """Joint targets with a mean of 0 look like changes, but lie where the state is."""
    joints = lambda t: np.array([0.4, -0.3, 0.2, 0.1], np.float32) * (-1) ** (t // 2)
    directory = write(
        tmp_path / 'own',
        action=(open_x.floats(4), lambda t: joints(t) + np.float32(0.01)),
        state=(open_x.floats(4), joints),
    )
    drafted = draft_card.draft(directory)
    about = next(guess for guess in drafted.guesses if guess.field == 'action')
    assert drafted.card.motion == 'absolute' and 'as state, 0.' in about.why
    for motion, warned in (('absolute', False), ('delta', True)):
        index = rlds.open_index(directory, dataclasses.replace(drafted.card, motion=motion))
        warnings = robot_report.report_of(index)['warnings']
        assert any("motion must be 'absolute'" in text for text in warnings) == warned


@pytest.mark.parametrize('name', ['jaw', 'suction', 'claw', 'hand'])
def test_grippers_by_other_names(tmp_path, name):
    directory = write(
        tmp_path / 'own',
        action=(open_x.floats(3), lambda t: np.float32([0.1, 0.1 * t, 0.2])),
        **{f'action_{name}': (open_x.floats(1), lambda t: np.float32([t % 2]))},
    )
    card = draft_card.draft(directory, action=['action', f'action_{name}']).card
    assert card.gripper is not None and card.action_space.names[-1] == 'gripper'


def test_a_number_of_two_values_is_perhaps_a_gripper(tmp_path):
    directory = write(
        tmp_path / 'own',
        action=(open_x.floats(3), lambda t: np.float32([0.1, 0.1 * t, 2.0 * t])),
        action_tool=(open_x.floats(1), lambda t: np.float32([t % 2])),
    )
    drafted = draft_card.draft(directory, action=['action', 'action_tool'])
    about = next(guess for guess in drafted.guesses if guess.field == 'gripper')
    assert drafted.card.action_space.names[-1] == 'action_tool'
    assert 'action_tool has two values' in about.check


def test_the_range_of_what_never_moves_holds_it(tmp_path):
    track = lambda t: np.array([1 + 0.1 * t, 1.3 - 0.1 * t, 5.0, 1 + 0.1 * t], np.float32)
    directory = write(tmp_path / 'own', target_action=(open_x.floats(4), track), action=None)
    drafted = draft_card.draft(directory, action=['target_action'])
    space = drafted.card.action_space
    assert drafted.card.motion == 'absolute'
    assert space.low[2] < 5 < space.high[2]
    about = next(guess for guess in drafted.guesses if guess.field == f'range of {space.names[2]}')
    assert 'never moves' in about.check and 'clipped' not in about.check


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_an_action_that_is_not_finite(tmp_path, bad):
    track = lambda t: np.array([0.1, bad if t == 2 else 0.1, 0.1], np.float32)
    directory = write(tmp_path / 'own', action=(open_x.floats(3), track))
    with pytest.raises(
        DataSetError, match=rf'action\[1\] is {bad:g} in step 2 of .*must be finite'
    ):
        draft_card.draft(directory)
