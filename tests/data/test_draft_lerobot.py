"""From a LeRobot folder that the project has never seen to a card, to training and to an answer."""

import json
import pathlib

import numpy as np
import pytest

pytest.importorskip('av', reason="needs PyAV: pip install -e '.[lerobot]'")
pytest.importorskip('pyarrow', reason="needs pyarrow: pip install -e '.[lerobot]'")
import lerobot_files
from lerobot_files import CAMERAS, CARD, FPS, LENGTHS

from rt2_jax import configuration, train
from rt2_jax.data import data_errors, draft_card, inspect
from rt2_jax.data.readers import lerobot_directory
from rt2_jax.policy import Policy

OWN_ROBOT = pathlib.Path(__file__).parents[2] / 'configs' / 'own_robot.py'


@pytest.fixture(scope='module', params=lerobot_directory.VERSIONS)
def arm(request, tmp_path_factory):
    return lerobot_files.write(tmp_path_factory.mktemp('lerobot') / 'my arm', request.param)


def guess(drafted, field):
    return next(guess for guess in drafted.guesses if guess.field == field)


def test_what_is_guessed_and_why(arm):
    drafted = draft_card.draft(arm)
    card = drafted.card
    assert card.name == 'my_arm' and drafted.sampled == drafted.declared == len(LENGTHS)
    assert (card.images, card.instruction) == (CAMERAS, 'task')
    assert card.action_space.names == CARD.action_space.names and card.motion == 'delta'
    assert (card.terminate, card.terminate_rule) == ('', 'last_step')
    assert card.frequency == FPS and 'info.json' in guess(drafted, 'frequency').why
    assert "by the name 'dx'" in guess(drafted, 'action').why
    assert card.gripper.kind == 'absolute'
    assert f'{lerobot_files.SIZE}x{lerobot_files.SIZE}' in guess(drafted, 'images').value


JOINTS = ['shoulder_pan.pos', 'elbow_flex.pos', 'wrist_roll.pos', 'gripper.pos']
SHORT = ('shoulder_pan', 'elbow_flex', 'wrist_roll', 'gripper')
NAMES = {
    'joints': (JOINTS, SHORT),
    'motors': ({'motors': JOINTS}, SHORT),
    'pose': (['x', 'y', 'yaw', 'gripper'], ('x', 'y', 'yaw', 'gripper')),
}


@pytest.mark.parametrize('names, expected', NAMES.values(), ids=NAMES)
def test_numbers_are_called_as_their_makers_call_them(tmp_path, names, expected):
    directory = lerobot_files.write(tmp_path / 'arm')
    path = directory / 'meta/info.json'
    info = json.loads(path.read_text())
    info['features']['action']['names'] = names
    path.write_text(json.dumps(info))
    space = draft_card.draft(directory).card.action_space
    units = dict(zip(space.names, space.units, strict=True))
    assert space.names == expected and units['gripper'] == '1' and units[expected[2]] == 'rad'


def test_a_task_of_one_word_is_the_instruction(tmp_path, monkeypatch):
    monkeypatch.setattr(lerobot_files, 'TASKS', ('拿起红色方块', 'grasp'))
    assert draft_card.draft(lerobot_files.write(tmp_path / 'arm')).card.instruction == 'task'


def test_an_episode_that_cannot_be_read_is_said(tmp_path):
    directory = lerobot_files.write(tmp_path / 'arm', 'v2.1')
    video = sorted((directory / 'videos').rglob('*.mp4'))[0]
    video.write_bytes(b'no video')
    drafted = draft_card.draft(directory)
    assert '1 unreadable' in draft_card.as_text(drafted)


def test_what_cannot_be_guessed_names_what_it_could_be(tmp_path):
    directory = lerobot_files.write(tmp_path / 'arm')
    with pytest.raises(
        data_errors.DataSetError, match="no feature 'steps/observation.images.frnt'"
    ):
        draft_card.draft(directory, images=['observation.images.frnt'])
    with pytest.raises(data_errors.DataSetError, match="--action: .*did you mean 'steps/action'"):
        draft_card.draft(directory, action=['actoin'])
    for video in (directory / 'videos').rglob('*.mp4'):
        video.unlink()
    with pytest.raises(data_errors.DataSetError, match='no feature is a camera'):
        draft_card.draft(directory)


def test_from_a_folder_to_an_answer(tmp_path):
    directory, file = lerobot_files.write(tmp_path / 'arm'), tmp_path / 'arm.json'
    file.write_text(draft_card.as_json(draft_card.draft(directory).card))
    report = inspect.inspect(directory, tmp_path / 'report', card=str(file))
    assert report['counts']['episodes'] == len(LENGTHS)
    config = configuration.load(OWN_ROBOT, f'{directory},{file}').unlock()
    config.data.web = {}  # needs the simulator's packages
    config.data.robot_share.start = config.data.robot_share.end = 1.0
    config.data.robot.own.holdout = 1
    config.batch_size, config.total_steps, config.checkpoint_every = 4, 2, 2
    config.validation.every = 0
    train.train(config.lock(), tmp_path / 'run')
    policy = Policy.from_checkpoint(tmp_path / 'run')
    frames = policy.robot().see(lerobot_files.frame(0, 1, 0))
    action = policy.act(frames, 'pick the cube').action
    assert action.shape == (5,) and np.isfinite(action).all()
