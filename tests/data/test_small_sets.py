"""Sets of unusual shape: one step, one number an action, pictures of several sizes in one episode."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
import test_schema_trouble as trouble

from rt2_jax.data import history, inspect
from rt2_jax.data.robot import rlds, rlds_writer
from rt2_jax.text.actions import ActionSpace

RAIL = dataclasses.replace(
    trouble.CARD,
    name='rail',
    action=(dataclasses.replace(trouble.CARD.action[0], stop=1),),
    action_space=ActionSpace((-1.0,), (1.0,), ('dx',), ('m',), terminate=False),
    terminate_rule='none',
    gripper=None,
)


@pytest.mark.parametrize('episodes, length', [(1, 1), (3, 4)])
def test_one_number_an_action(tmp_path, episodes, length):
    made = [
        trouble.episode(n, length, action=lambda n, t: np.float32([0.1 * t]))
        for n in range(episodes)
    ]
    number = tfds.features.Tensor(shape=(1,), dtype=np.float32)
    features = trouble.schema(action=number)
    encode = rlds_writer.EpisodeEncoder(features)
    shard = tmp_path / rlds_writer.shard_name('mine', 'train', 0, 1)
    rlds_writer.write_shard(shard, map(encode, made))
    about = dict(name='mine', version='1.0.0', description='', shard_lengths=[episodes])
    rlds_writer.finish(tmp_path, features, **about)
    source = rlds.open_source(tmp_path, RAIL, bounds='q01-q99')
    assert len(source) == episodes * length and source[0].action.shape == (1,)
    (tmp_path / 'rail.json').write_text(json.dumps(dataclasses.asdict(RAIL)))
    inspect.inspect(tmp_path, tmp_path / 'report', card=str(tmp_path / 'rail.json'))


def test_a_set_of_one_step(tmp_path):
    directory = trouble.write(tmp_path / 'mine', [trouble.episode(0, 1)])
    source = rlds.open_source(directory, trouble.CARD, bounds='q01-q99', frames=2)
    assert len(source) == 1 and source[0].frames.shape == (2, 8, 8, 3)
    inspect.inspect(directory, tmp_path / 'report', card=trouble.card_file(tmp_path))


def test_frames_of_several_sizes_in_one_history(tmp_path):
    sizes = lambda number, t: trouble.png(8 + 4 * t, shade=50 * t)
    directory = trouble.write(tmp_path / 'mine', [trouble.episode(0, front=sizes)])
    source = rlds.open_source(directory, trouble.CARD, frames=2)
    one = rlds.open_source(directory, trouble.CARD)
    acting = history.History(frames=2)
    for t in range(4):
        frames = source[t].frames
        assert frames.shape == (2, 8 + 4 * t, 8 + 4 * t, 3)
        assert frames[:, 0, 0, 0].tolist() == [50 * max(t - 1, 0), 50 * t]
        np.testing.assert_array_equal(frames, acting.add(one[t].frames[0]))


REFUSED = """
from rt2_jax import configuration
from rt2_jax.data import pipeline
from rt2_jax.parallel import mesh as mesh_lib, sharding
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.training import program

config = configuration.defaults()
config.batch_size = 4
mesh = mesh_lib.make_mesh(config.mesh)
for refused in (
    lambda: program.open_batches(config, Tokenizer.load_default(), mesh),
    lambda: pipeline.rows_of_host(sharding.batch_sharding(mesh), 4),
):
    try:
        refused()
    except ValueError as error:
        print(error)
"""


def test_a_batch_that_devices_cannot_share_is_refused_in_the_configs_words():
    flags = {'XLA_FLAGS': '--xla_force_host_platform_device_count=3', 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run(
        [sys.executable, '-c', REFUSED],
        capture_output=True,
        text=True,
        env=os.environ | flags,
        check=True,
    )
    before_data_are_opened, without_a_config = done.stdout.splitlines()
    assert 'config.batch_size=4 is not divisible' in before_data_are_opened
    assert 'take a multiple of 3' in before_data_are_opened
    assert '4 examples cannot be shared out evenly over 3 devices' in without_a_config
