"""Data that can be read but don't fit: said at once from the schema, or by file, episode and step."""

import dataclasses
import json
import math
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from rt2_jax.data import cards, data_errors, inspect, robot_card
from rt2_jax.data.data_config import TaskSettings
from rt2_jax.data.readers import tfrecord
from rt2_jax.data.robot import frame_questions, plans, prediction_tasks, rlds, rlds_writer

f = tfds.features
TABLETOP = cards.TABLETOP
CARD = robot_card.RobotCard(
    name='mine',
    images=('front', 'wrist'),
    instruction='instruction',
    action=(robot_card.ActionPart('action', 0, 7),),
    terminate='',
    terminate_rule='last_step',
    action_space=TABLETOP.action_space,
    frequency=5.0,
    frame='base',
    gripper=TABLETOP.gripper,
)
LFS = b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n'


def schema(**changed):
    camera = f.Image(shape=(None, None, 3), encoding_format='png')
    steps = dict(
        front=camera,
        wrist=camera,
        instruction=f.Text(),
        action=f.Tensor(shape=(7,), dtype=np.float32),
        is_last=f.Scalar(dtype=np.bool_),
    )
    return rlds_writer.features_dict({'steps': steps | changed})


def png(size=8, shade=0):
    return cv2.imencode('.png', np.full([size, size, 3], shade, np.uint8))[1].tobytes()


def episode(number, length=4, **changed):
    """Step t of an episode; `changed` has functions of (number, t) for features."""
    steps = []
    for t in range(length):
        step = dict(
            front=png(shade=50 * t),
            wrist=png(shade=10 * number),
            instruction=f'go to {number}',
            action=np.full(7, 0.1 * t, np.float32),
            is_last=t == length - 1,
        )
        steps.append(step | {name: change(number, t) for name, change in changed.items()})
    return {'steps': steps}


def write(directory, episodes, features=None):
    """A set of these episodes, whose features.json may say something else of them."""
    directory.mkdir(exist_ok=True)
    encode = rlds_writer.EpisodeEncoder(schema())
    shard = directory / rlds_writer.shard_name('mine', 'train', 0, 1)
    rlds_writer.write_shard(shard, map(encode, episodes))
    about = dict(name='mine', version='1.0.0', description='', shard_lengths=[len(episodes)])
    rlds_writer.finish(directory, features or schema(), **about)
    return directory


SAID_BY_THE_SCHEMA = {
    'several texts a step': (
        dict(instruction=f.Sequence(f.Text())),
        r"the instruction 'steps/instruction' is text \[None\]: several texts a step",
    ),
    'pictures as tensors': (
        dict.fromkeys(('front', 'wrist'), f.Tensor(shape=(8, 8, 3), dtype=np.uint8)),
        r"'steps/front' is uint8 \[8, 8, 3\]; a camera must be one tfds.features.Image a step",
    ),
    'depth pictures': (
        dict.fromkeys(('front', 'wrist'), f.Image(shape=(8, 8, 1), dtype=np.uint16)),
        r"'steps/front' is picture of uint16 \[8, 8, 1\]; depth",
    ),
    'an action of words': (dict(action=f.Text()), r"'steps/action' is text \[\]; the card takes"),
    'a flag of words': (dict(is_last=f.Text()), "'steps/is_last' is text .*no numbers"),
}


@pytest.mark.parametrize('changed, message', SAID_BY_THE_SCHEMA.values(), ids=SAID_BY_THE_SCHEMA)
def test_what_the_schema_tells_is_said_before_a_record_is_read(tmp_path, changed, message):
    directory = write(tmp_path / 'mine', [], schema(**changed))  # no record could be read
    with pytest.raises(data_errors.DataSetError, match=message):
        rlds.open_source(directory, CARD)


def test_all_that_does_not_fit_is_said_at_once(tmp_path):
    directory = write(tmp_path / 'mine', [], schema(instruction=f.Sequence(f.Text())))
    card = dataclasses.replace(CARD, columns=('sate',))
    with pytest.raises(
        data_errors.DataSetError, match=r"several texts.*; there is no feature 'steps/sate'"
    ):
        rlds.open_source(directory, card)


@pytest.mark.parametrize('changed', [None, 'tensor', 'lacking'])
def test_an_unused_camera_stops_nothing(tmp_path, changed):
    """The wrist camera has empty pictures, isn't a picture by the schema, or isn't there at all."""
    features = schema()
    if changed == 'tensor':
        features = schema(wrist=f.Tensor(shape=(8, 8, 3), dtype=np.uint8))
    elif changed == 'lacking':
        steps = dict(schema()['steps'].feature)
        del steps['wrist']
        features = rlds_writer.features_dict({'steps': steps})
    empty = [episode(n, wrist=lambda n, t: b'') for n in range(3)]
    directory = write(tmp_path / 'mine', empty, features)
    source = rlds.open_source(directory, CARD)
    assert [source[t].frames[0, 0, 0, 0] for t in range(4)] == [0, 50, 100, 150]
    with pytest.raises(
        data_errors.DataSetError, match=r"12 of 12 steps.*'wrist'.*another camera: 0 \(front\)"
    ):
        rlds.open_source(directory, CARD, camera=1)
    report = inspect.inspect(directory, tmp_path / 'report', card=card_file(tmp_path))
    assert 'wrist has no picture in 12 of 12 steps' in report['warnings']


def card_file(folder, card=CARD):
    (folder / 'card.json').write_text(json.dumps(dataclasses.asdict(card)))
    return str(folder / 'card.json')


def test_a_first_camera_without_pictures_is_no_worse(tmp_path):
    directory = write(tmp_path / 'mine', [episode(n, front=lambda n, t: b'') for n in range(3)])
    assert rlds.open_source(directory, CARD, camera=1)[4].frames[0, 0, 0, 0] == 10
    inspect.inspect(directory, tmp_path / 'report', card=card_file(tmp_path))


def test_a_camera_that_cannot_be_decoded(tmp_path):
    """Depth under the name of colours: an unused camera is warned of, a used one refused by step."""
    depth = cv2.imencode('.png', np.full([8, 8], 900, np.uint16))[1].tobytes()
    directory = write(tmp_path / 'mine', [episode(0, wrist=lambda n, t: depth)])
    assert rlds.open_source(directory, CARD)[1].frames[0, 0, 0, 0] == 50
    report = inspect.inspect(directory, tmp_path / 'report', card=card_file(tmp_path))
    (warning,) = [words for words in report['warnings'] if words.startswith('wrist')]
    assert 'step 0 of episode 0' in warning and 'a PNG of 16 bits a channel' in warning
    with pytest.raises(tfrecord.CorruptRecord, match=r'16 bits a channel.*\(step 1 of episode 0\)'):
        rlds.open_source(directory, CARD, camera=1)[1]


def test_a_video_in_the_schema_stops_nothing(tmp_path):
    """TFDS can't even name such a feature without TensorFlow."""
    directory = write(tmp_path / 'mine', [episode(0)])
    tree = json.loads((directory / 'features.json').read_text())
    steps = tree['featuresDict']['features']['steps']['sequence']['feature']
    shape = {'dimensions': ['-1', '8', '8', '3']}
    steps['featuresDict']['features']['clip'] = {
        'pythonClassName': 'tensorflow_datasets.core.features.video_feature.Video',
        'video': {'shape': shape, 'dtype': 'uint8', 'encodingFormat': 'png'},
    }
    (directory / 'features.json').write_text(json.dumps(tree))
    assert len(rlds.open_source(directory, CARD)) == 4


def test_episodes_with_a_missing_picture_are_left_out_if_asked(tmp_path):
    gap = lambda number, t: b'' if (number, t) == (1, 2) else png()
    directory = write(tmp_path / 'mine', [episode(n, wrist=gap) for n in range(3)])
    with pytest.raises(
        data_errors.DataSetError, match='1 of 12 steps, in 1 of 3.*step 2 of episode 1'
    ):
        rlds.open_source(directory, CARD, camera=1)
    source = rlds.open_source(directory, CARD, camera=1, on_corrupt='skip')
    assert source.table.episodes.tolist() == [0, 2]


def nan_at(step):
    return lambda number, t: np.full(7, math.nan if (number, t) == (1, step) else 0.1, np.float32)


def test_the_first_reason_names_file_episode_step_and_number(tmp_path):
    directory = write(tmp_path / 'mine', [episode(n, action=nan_at(2)) for n in range(3)])
    message = "mine-train.*byte [0-9]+: episode 1 of the file, step 2: 'dx' of the action is nan"
    with pytest.raises(tfrecord.CorruptRecord, match=message):
        rlds.open_source(directory, CARD)
    report = inspect.inspect(directory, tmp_path / 'report', card=card_file(tmp_path))
    assert any(
        '1 records are unreadable and left out, the first: ' in w for w in report['warnings']
    )
    assert any("episode 1 of the file, step 2: 'dx'" in w for w in report['warnings'])


def test_no_readable_steps_says_why(tmp_path):
    directory = write(tmp_path / 'mine', [episode(1, action=nan_at(0))])
    command = [sys.executable, '-m', 'rt2_jax.data.inspect', f'--dataset={directory}']
    options = [f'--output={tmp_path / "report"}', f'--card={card_file(tmp_path)}']
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert 'no readable steps: 1 records are unreadable, the first: mine-train' in done.stderr
    assert "step 0: 'dx' of the action is nan" in done.stderr


def test_a_step_that_the_card_drops_is_not_checked(tmp_path):
    directory = write(tmp_path / 'mine', [episode(n, action=nan_at(3)) for n in range(3)])
    binary = dataclasses.replace(CARD.gripper, binary=0.05)
    card = dataclasses.replace(CARD, last_step_action=False, gripper=binary)
    source = rlds.open_source(directory, card)
    assert len(source) == 9 and np.isfinite(source.index.arrays['action']).all()
    with pytest.raises(tfrecord.CorruptRecord, match='step 3'):
        rlds.open_source(
            directory, dataclasses.replace(card, last_step_action=True), location=tmp_path
        )


@pytest.mark.parametrize('name', ['features.json', 'dataset_info.json', 'mine-train.tfrecord-*'])
def test_a_git_lfs_pointer_is_named(tmp_path, name):
    directory = write(tmp_path / 'mine', [episode(0)])
    next(directory.glob(name)).write_bytes(LFS)
    with pytest.raises(ValueError, match='it is a git-lfs pointer, .* run `git lfs pull`'):
        rlds.open_source(directory, CARD)


DERIVED = {
    'steps': lambda steps: steps,
    'plans': lambda steps: plans.Planned(steps, plans.Instruction()),
    'frame questions': lambda steps: frame_questions.FrameQuestions(steps),
    'prediction tasks': lambda steps: prediction_tasks.PredictionTasks(
        steps, TaskSettings(dict(arm_position=1.0), arm='observation/gripper_xyz')
    ),
}


@pytest.mark.parametrize('make', DERIVED.values(), ids=DERIVED)
def test_one_bad_picture_is_skipped_by_all_sources_around_a_set(dataset, make):
    strict = make(rlds.open_source(dataset, 'tabletop'))
    lenient = make(rlds.open_source(dataset, 'tabletop', on_corrupt='skip'))
    whole = list(strict.examples(range(8)))
    spoil(getattr(strict, 'steps', strict).index, 4)
    with pytest.raises(tfrecord.CorruptRecord, match='changed since'):
        strict[4]
    examples = list(lenient.examples(range(8)))
    for i in (0, 3, 5, 7):
        assert examples[i].answer == whole[i].answer == lenient[i].answer
        np.testing.assert_array_equal(examples[i].frames, whole[i].frames)
    np.testing.assert_array_equal(examples[4].frames, whole[5].frames)
    assert examples[4].answer == whole[5].answer and examples[4].source == lenient.name
    assert lenient.skipped == 1


def spoil(index, row):
    """Changes a byte of a step's picture, and leaves the file's time as it was."""
    shard, at = index.files[0], int(index.arrays['image_offset'][row, 0]) + 50
    times = os.stat(shard)
    content = bytearray(shard.read_bytes())
    content[at] ^= 8
    shard.write_bytes(bytes(content))
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
