"""Episodes from RLDS to LeRobot and back: numbers to the bit, pictures within the codec's loss."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip('av', reason="needs PyAV: pip install -e '.[lerobot]'")
pytest.importorskip('pyarrow', reason="needs pyarrow: pip install -e '.[lerobot]'")
import lerobot_files
from lerobot_files import CAMERAS, CARD, LENGTHS, TASKS

from rt2_jax import paths
from rt2_jax.data import cards, convert_episodes, data_errors
from rt2_jax.data.readers import rlds_episodes, rlds_schema, tfds_directory
from rt2_jax.data.robot import rlds, rlds_form, rlds_writer

PYTHONS = [path for path in os.environ.get('LEROBOT_PYTHON', '').split(':') if path]
HOW = (
    'needs an environment with lerobot: python3.11 -m venv L && L/bin/pip install lerobot==0.4.4 && '
    'LEROBOT_PYTHON=L/bin/python'
)
CARD_OF_ACTIONS = dataclasses.replace(CARD, images=(), columns=())
LEAST_DECIBELS = 30  # of a picture's worst, JPEG's loss and the video's together


@pytest.fixture(scope='module')
def arm(tmp_path_factory):
    """A LeRobot set that came from nowhere: v2.1, two cameras, success, two splits."""
    directory = lerobot_files.write(tmp_path_factory.mktemp('native') / 'arm', 'v2.1')
    path = directory / 'meta/info.json'
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {'splits': {'train': '0:3', 'test': '3:4'}}))
    return directory


@pytest.fixture(scope='module')
def as_lerobot(whole_dataset, tmp_path_factory):
    output = tmp_path_factory.mktemp('converted') / 'lerobot'
    return output, convert_episodes.convert(whole_dataset, 'tabletop', 'lerobot', output, 1)


def opened(directory, **fields):
    return rlds.open_source(directory, str(directory / 'card.json'), **fields)


def check_same(ours, theirs, columns, least=LEAST_DECIBELS):
    """All that both sources have, step by step; `columns` are pairs of names."""
    assert len(ours) == len(theirs)
    for i in range(len(ours)):
        raw, expected = ours.table.raw(i), theirs.table.raw(i)
        np.testing.assert_array_equal(raw['action'], expected['action'])
        for name in ('episode', 'step', 'instruction', 'success'):
            assert raw[name] == expected[name]
        for name, other in columns:
            np.testing.assert_array_equal(raw[name], expected[other])
        error = np.square(ours.frames(i)[0].astype(float) - theirs.frames(i)[0]).mean()
        assert not error or 10 * np.log10(255**2 / error) > least


def test_rlds_becomes_lerobot(whole_dataset, as_lerobot):
    output, conversion = as_lerobot
    assert [line.partition(':')[0] for line in conversion.form.lost] == ['episode_metadata/objects']
    columns = [(name.replace('/', '.'), name) for name in cards.TABLETOP.columns]
    check_same(opened(output), rlds.open_source(whole_dataset, 'tabletop'), columns)
    info = json.loads((output / 'meta/info.json').read_text())
    assert info['fps'] == 3 and info['features']['action']['names'][:3] == ['dx', 'dy', 'dz']


def test_and_rlds_again(whole_dataset, as_lerobot, tmp_path):
    output = tmp_path / 'rlds'
    convert_episodes.convert(
        as_lerobot[0], str(as_lerobot[0] / 'card.json'), 'rlds', output, processes=1
    )
    schema = dict(rlds_schema.read(whole_dataset))
    del schema['episode_metadata/objects']
    assert dict(rlds_schema.read(output)) == schema
    assert cards.find(str(output / 'card.json')) == cards.TABLETOP
    columns = [(name, name) for name in cards.TABLETOP.columns]
    check_same(opened(output), rlds.open_source(whole_dataset, 'tabletop'), columns)


def test_lerobot_becomes_rlds_and_lerobot_again(arm, tmp_path):
    rlds_folder, again = tmp_path / 'rlds', tmp_path / 'again'
    convert_episodes.convert(arm, CARD, 'rlds', rlds_folder, processes=1)
    assert tfds_directory.splits(rlds_folder) == ['train', 'test']
    card = str(rlds_folder / 'card.json')
    assert cards.find(card).images == ('observation/front', 'observation/wrist')
    convert_episodes.convert(rlds_folder, card, 'lerobot', again, processes=1)
    card = cards.find(str(again / 'card.json'))
    assert (card.images, card.instruction, card.frequency) == (CAMERAS, 'task', CARD.frequency)
    for split in ('train', 'test'):
        for view in range(len(CAMERAS)):
            theirs = rlds.open_source(arm, CARD, split=split, camera=view)
            for folder, state, clock in (
                (rlds_folder, 'observation/state', 'timestamp'),
                (again, 'observation.state', 'recorded.timestamp'),
            ):
                ours = opened(folder, split=split, camera=view)
                columns = [(state, 'observation.state'), (clock, 'timestamp')]
                check_same(ours, theirs, columns)
    assert len(opened(again, split='test')) == LENGTHS[3]
    assert opened(again, split='test').table.raw(0)['instruction'] == TASKS[1]


@pytest.mark.parametrize(
    'python', PYTHONS[:1] or [pytest.param('', marks=pytest.mark.skip(reason=HOW))]
)
def test_lerobot_loads_what_was_converted(as_lerobot, python, tmp_path):
    script = pathlib.Path(__file__).with_name('lerobot_frames.py')
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    environment |= {'HF_HUB_OFFLINE': '1', 'HF_HOME': str(tmp_path / 'cache')}
    dumped = tmp_path / 'frames.npz'
    command = [python, str(script), str(as_lerobot[0]), str(dumped)]
    subprocess.run(command, env=environment, check=True)
    theirs, source = np.load(dumped), opened(as_lerobot[0])
    assert len(theirs['action']) == len(source)
    for i in range(len(source)):
        np.testing.assert_array_equal(theirs['observation.images.image'][i], source.frames(i)[0])
        np.testing.assert_array_equal(theirs['action'][i], source.table.raw(i)['action'][1:])
        assert theirs['task'][i] == source.table.raw(i)['instruction']


def test_an_interrupted_conversion_goes_on(whole_dataset, as_lerobot, tmp_path, monkeypatch):
    whole, part = as_lerobot[0], tmp_path / 'part'
    conversion = convert_episodes.ToLeRobot(whole_dataset, cards.TABLETOP, part)
    part.mkdir()
    shutil.copy(whole / 'conversion.json', part)
    with monkeypatch.context() as patched:  # nobody counts episodes outside of a worker
        patched.setattr(convert_episodes.worker_pool, 'tick', lambda: None)
        conversion.write(conversion.parts[0])
    first = part / 'videos/observation.images.image/chunk-000/file-000.mp4'
    stamp = first.stat().st_mtime_ns
    (first.parent / f'{paths.NEW}1-file-001.mp4').write_bytes(b'half a video')
    convert_episodes.convert(whole_dataset, 'tabletop', 'lerobot', part, processes=1)
    assert first.stat().st_mtime_ns == stamp
    expected = [name for name in paths.files(whole) if not name.startswith('rt2_index')]
    assert sorted(paths.files(part)) == expected
    assert all((part / name).read_bytes() == (whole / name).read_bytes() for name in expected)


def test_what_cannot_be_converted_is_said(whole_dataset, as_lerobot, arm, tmp_path):
    with pytest.raises(data_errors.DataSetError, match='of the format lerobot already'):
        convert_episodes.convert(arm, CARD, 'lerobot', tmp_path / 'a')
    with pytest.raises(data_errors.DataSetError, match='holds another conversion'):
        other = dataclasses.replace(cards.TABLETOP, frequency=4.0)
        convert_episodes.convert(whole_dataset, other, 'lerobot', as_lerobot[0])
    (tmp_path / 'mine.txt').write_text('precious')
    with pytest.raises(data_errors.DataSetError, match="isn't empty"):
        convert_episodes.convert(whole_dataset, 'tabletop', 'lerobot', tmp_path)


def changed(arm, folder, **changes):
    """A copy of the LeRobot set with another info.json."""
    copy = shutil.copytree(arm, folder / 'changed', ignore=shutil.ignore_patterns('rt2_index'))
    info = json.loads((arm / 'meta/info.json').read_text())
    (copy / 'meta/info.json').write_text(json.dumps(info | changes))
    return copy


def test_another_card_or_source_is_not_taken_for_this_one(arm, tmp_path):
    source, output = changed(arm, tmp_path), tmp_path / 'rlds'
    convert_episodes.convert(source, CARD, 'rlds', output, processes=1)
    convert_episodes.convert(source, CARD, 'rlds', output, processes=1)  # there is nothing to do
    corrected = dataclasses.replace(CARD, frame='gripper')
    with pytest.raises(data_errors.DataSetError, match='there are others: card. Choose another'):
        convert_episodes.convert(source, corrected, 'rlds', output)
    path = source / 'meta/info.json'
    path.write_text(path.read_text().replace('"0:3"', '"0:2"').replace('"3:4"', '"2:4"'))
    with pytest.raises(data_errors.DataSetError, match='there are others: source. Choose another'):
        convert_episodes.convert(source, CARD, 'rlds', output)


def test_float64_stays_to_the_bit(arm):
    info = json.loads((arm / 'meta/info.json').read_text())
    info['features'] = {'action': dict(dtype='float64', shape=[4])}
    form = rlds_form.RldsForm(info, CARD_OF_ACTIONS)
    values = np.array([[0.1, 1e300, -1 / 3, 5e-324]])
    columns = {'action': values, 'task': np.array(['push'], object)}
    payload = rlds_writer.EpisodeEncoder(form.features)(form.episode(columns, {}))
    schema = rlds_schema.fields_of(form.features)
    stored = rlds_episodes.SerializedEpisode(payload, schema).numbers('steps/action', 1)
    assert stored.dtype == np.float64 and np.array_equal(stored, values)


def test_pictures_of_another_size_are_refused(arm, tmp_path):
    features = json.loads((arm / 'meta/info.json').read_text())['features']
    features[CAMERAS[1]]['shape'] = [480, 640, 3]
    source = changed(arm, tmp_path, features=features)
    with pytest.raises(data_errors.CorruptEpisode, match=r'wrist.*is \[64, 64, 3\]; .* \[480, 640'):
        convert_episodes.convert(source, CARD, 'rlds', tmp_path / 'rlds', processes=1)


def test_what_is_no_set_for_this_card_is_said(arm, whole_dataset, tmp_path):
    with pytest.raises(data_errors.DataSetError, match="doesn't fit the card 'tabletop'"):
        convert_episodes.convert(arm, 'tabletop', 'rlds', tmp_path / 'a')
    with pytest.raises(data_errors.DataSetError, match='there is no such directory'):
        convert_episodes.convert(tmp_path / 'nowhere', CARD, 'rlds', tmp_path / 'a')
    slow = dataclasses.replace(cards.TABLETOP, frequency=1e-5)
    with pytest.raises(data_errors.DataSetError, match='no frames at 1e-05 Hz'):
        convert_episodes.convert(whole_dataset, slow, 'lerobot', tmp_path / 'b', processes=1)


def test_the_command(arm, tmp_path):
    card = tmp_path / 'arm.json'
    card.write_text(json.dumps(dataclasses.asdict(CARD)))
    flags = [f'--dataset={arm}', f'--card={card}', '--format=rlds', f'--output={tmp_path / "rlds"}']
    command = [sys.executable, '-m', 'rt2_jax.data.convert_episodes', *flags, '--processes=1']
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert '4 episodes in' in done.stdout and 'converted 4/4 episodes' in done.stderr
    assert 'not in the new data set: action: the names of its numbers' in done.stderr
