"""Collection as a LeRobot data set: what was played is there, for our reader and for lerobot's own."""

import json
import os
import pathlib
import subprocess

import numpy as np
import pytest

pytest.importorskip('av', reason="needs PyAV: pip install -e '.[lerobot]'")
pytest.importorskip('pyarrow', reason="needs pyarrow: pip install -e '.[lerobot]'")
from rt2_jax import paths
from rt2_jax.data import data_errors
from rt2_jax.data.robot import rlds
from rt2_jax.envs import collection as collecting
from rt2_jax.envs.tabletop import collect

SETTINGS = collect.Settings(episodes=4, image_size=64, format='lerobot')
PYTHONS = [path for path in os.environ.get('LEROBOT_PYTHON', '').split(':') if path]
HOW = (
    'needs an environment with lerobot: python3.11 -m venv L && L/bin/pip install lerobot==0.4.4 && '
    'LEROBOT_PYTHON=L/bin/python'
)


@pytest.fixture(scope='module')
def collection(tmp_path_factory):
    output = tmp_path_factory.mktemp('collection') / 'data'
    return output, collect.collect(output, SETTINGS, processes=1)


@pytest.fixture(scope='module')
def played():
    env = collect.environment(SETTINGS)
    return [collect.play(env, SETTINGS, number) for number in range(SETTINGS.episodes)]


def decibels(shown, original):
    error = np.square(shown.astype(float) - original).mean()
    return 10 * np.log10(255**2 / error)


def test_stored_is_what_was_played(collection, played):
    output, summary = collection
    source = rlds.open_source(output, str(output / 'card.json'))
    steps = [step for episode in played for step in episode['steps']]
    assert summary['episodes'] == SETTINGS.episodes and summary['steps'] == len(source)
    for i, step in enumerate(steps):
        raw, observation = source.table.raw(i), step['observation']
        np.testing.assert_array_equal(raw['action'][1:4], step['action']['world_vector'])
        assert raw['action'][0] == step['action']['terminate_episode']
        assert raw['instruction'] == observation['natural_language_instruction']
        for name in ('gripper_xyz', 'gripper_pixel', 'object_pixels'):
            np.testing.assert_array_equal(raw[f'observation.{name}'], observation[name])
        assert raw['observation.object_names'] == observation['object_names']
        assert raw['success'] == played[raw['episode']]['episode_metadata']['success']
        assert decibels(source.frames(i)[0], observation['image']) > 35


@pytest.mark.parametrize(
    'python', PYTHONS[:1] or [pytest.param('', marks=pytest.mark.skip(reason=HOW))]
)
def test_lerobot_loads_every_frame(collection, played, python, tmp_path):
    script = pathlib.Path(__file__).parents[1] / 'data/lerobot_frames.py'
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    environment |= {'HF_HUB_OFFLINE': '1', 'HF_HOME': str(tmp_path / 'cache')}
    dumped = tmp_path / 'frames.npz'
    subprocess.run(
        [python, str(script), str(collection[0]), str(dumped)], env=environment, check=True
    )
    theirs = np.load(dumped)
    source = rlds.open_source(collection[0], str(collection[0] / 'card.json'))
    steps = [step for episode in played for step in episode['steps']]
    assert len(theirs['action']) == len(steps)
    for i, step in enumerate(steps):
        np.testing.assert_array_equal(
            theirs['action'][i], np.concatenate(list(step['action'].values())[:3])
        )
        np.testing.assert_array_equal(theirs['observation.images.image'][i], source.frames(i)[0])
        assert theirs['task'][i] == step['observation']['natural_language_instruction']
        np.testing.assert_array_equal(
            theirs['observation.object_pixels'][i], step['observation']['object_pixels']
        )


def test_an_interruption_changes_nothing(collection, tmp_path, monkeypatch):
    """Stopped with two parts written and half a video about; the second run finishes."""
    whole, part = collection[0], tmp_path / 'data'

    def two_jobs(task, jobs, processes, done_word):
        del processes, done_word
        for job in jobs[:2]:
            task(*job)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(collecting.worker_pool, 'run', two_jobs)
        patched.setattr(collecting.worker_pool, 'tick', lambda: None)
        with pytest.raises(KeyboardInterrupt):
            collect.collect(part, SETTINGS)
    with pytest.raises(data_errors.DataSetError):
        rlds.open_source(part, str(whole / 'card.json'))
    video = part / 'videos/observation.images.image/chunk-000' / f'{paths.NEW}1-file-002.mp4'
    video.write_bytes(b'half a video')
    collect.collect(part, SETTINGS, processes=1)
    files = {name: (part / name).read_bytes() for name in paths.files(part)}
    expected = [name for name in paths.files(whole) if not name.startswith('rt2_index')]
    assert sorted(files) == expected
    for name in expected:
        assert files[name] == (whole / name).read_bytes(), name


def test_the_format_is_a_setting(collection):
    with pytest.raises(collecting.OutputError, match="format='lerobot' .now 'rlds'"):
        collect.collect(collection[0], collect.Settings(episodes=4, image_size=64))
    with pytest.raises(ValueError, match="did you mean 'lerobot'"):
        collect.Settings(episodes=1, format='lerobt')
    assert json.loads((collection[0] / 'meta/info.json').read_text())['fps'] == 3
