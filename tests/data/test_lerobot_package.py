"""What the real `lerobot` package writes, read back frame by frame as its own loader gives it."""

import dataclasses
import os
import pathlib
import subprocess

import numpy as np
import pytest

pytest.importorskip('av', reason="needs PyAV: pip install -e '.[lerobot]'")
pytest.importorskip('pyarrow', reason="needs pyarrow: pip install -e '.[lerobot]'")
from lerobot_files import CARD

from rt2_jax.data.robot import rlds

# Interpreters of environments with lerobot, by colon.
PYTHONS = [path for path in os.environ.get('LEROBOT_PYTHON', '').split(':') if path]
HOW = (
    'needs environments with lerobot, which writes v3.0 or, before 0.4, v2.1: python3.11 -m venv L && '
    "L/bin/pip install lerobot==0.4.4 (lerobot==0.3.3 'datasets<4') && LEROBOT_PYTHON=L/bin/python"
)


@pytest.mark.parametrize(
    'python', PYTHONS or [pytest.param('', marks=pytest.mark.skip(reason=HOW))]
)
def test_as_lerobots_own_loader_gives_it(python, tmp_path):
    script = pathlib.Path(__file__).with_name('lerobot_own.py')
    directory, dumped = tmp_path / 'arm', tmp_path / 'frames.npz'
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    environment |= {'HF_HUB_OFFLINE': '1', 'HF_HOME': str(tmp_path / 'cache')}
    subprocess.run([python, str(script), str(directory), str(dumped)], env=environment, check=True)
    theirs = np.load(dumped)
    card = dataclasses.replace(CARD, columns=('observation.state', 'timestamp'))
    for camera, name in enumerate(card.images):
        source = rlds.open_source(directory, card, camera=camera)
        assert len(source) == len(theirs['task'])
        for i in range(len(source)):
            example, raw = source[i], source.table.raw(i)
            np.testing.assert_array_equal(example.frames[0], theirs[name][i])
            np.testing.assert_array_equal(example.action[1:4], theirs['action'][i][:3])
            np.testing.assert_array_equal(raw['observation.state'], theirs['observation.state'][i])
            assert raw['timestamp'].item() == theirs['timestamp'][i]
            assert raw['instruction'] == theirs['task'][i]
            assert (raw['episode'], raw['step']) == (
                theirs['episode_index'][i],
                theirs['frame_index'][i],
            )
