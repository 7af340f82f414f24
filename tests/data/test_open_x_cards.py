"""Each card of open_x_cards, on files in its data set's published schema."""

import dataclasses
import pathlib

import numpy as np
import open_x
import open_x_sets
import pytest

from rt2_jax import configuration
from rt2_jax.data import cards, images, named_mixtures, open_x_cards, sources
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.robot import rlds
from rt2_jax.data.robot.step_source import StepSource
from rt2_jax.text import prompts
from rt2_jax.text.actions import ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer


def test_every_card_has_a_schema_here():
    assert {card.name for card in open_x_cards.CARDS} == set(open_x_sets.SETS)


@pytest.mark.parametrize('name', open_x_sets.SETS)
def test_every_step_is_read_as_its_makers_mean_it(name, tmp_path):
    a_set, card = open_x_sets.SETS[name](), cards.find(name)
    episodes = [open_x_sets.make_episode(a_set, number) for number in range(2)]
    spec = a_set.features()
    directory = open_x.write_dataset(tmp_path / name, name, episodes, spec=spec)
    source = rlds.open_source(directory, name)
    assert card.images == a_set.cameras and card.motion == a_set.motion
    assert card.action_space.names == (*a_set.names, *['gripper'] * (a_set.gripper is not None))
    assert card.action_space.units[0] == a_set.unit
    assert len(source) == 2 * open_x_sets.STEPS
    for number, episode in enumerate(episodes):
        actions = open_x_sets.expected(a_set, episode['steps'])
        for t, (step, action) in enumerate(zip(episode['steps'], actions, strict=True)):
            i = number * open_x_sets.STEPS + t
            example = source[i]
            np.testing.assert_array_equal(example.action, action)
            assert example.prompt == prompts.robot(open_x_sets.instruction(number, t))
            raw = source.table.raw(i)
            for path in card.columns:
                np.testing.assert_array_equal(raw[path], open_x.step_feature(step, path))
    command = card.to_command(source[2 * open_x_sets.STEPS - 1].action)
    check_command(a_set, command, episodes[1]['steps'][-1])
    for camera, path in enumerate(a_set.cameras):
        picture = open_x.step_feature(episodes[0]['steps'][0], path)
        stored = images.decode(images.encode_jpeg(picture))
        other = StepSource(source.index, dataclasses.replace(source.settings, camera=camera))
        shown = other.frames(0)[0]
        np.testing.assert_array_equal(shown, stored[..., ::-1] if a_set.blue_first else stored)


def check_command(a_set, command, step):
    """The robot of a policy that learnt a last step by heart gets what the data hold there."""
    for path, entries in a_set.entries.items():
        data = np.ravel(open_x.step_feature(step, path)).astype(np.float32)
        np.testing.assert_allclose(command.pop(path), data[entries], rtol=1e-6)
    if a_set.terminate:
        data = np.ravel(open_x.step_feature(step, a_set.terminate))
        np.testing.assert_array_equal(command.pop(a_set.terminate), data)
    assert not command


def test_a_whole_mixture_is_read_and_told_in_tokens(tmp_path):
    """Robots of 2, 5, 7, 8 and 9 numbers, each with the ranges that its set asks for."""
    config = configuration.defaults()
    config.data.robot = named_mixtures.robot_sets('oxe_magic_soup_plus', str(tmp_path))
    for name, given in config.data.robot.items():
        if name in open_x_sets.SETS:
            a_set = open_x_sets.SETS[name]()
            episodes, spec = [open_x_sets.make_episode(a_set, 0)], a_set.features()
        else:
            episodes, spec = [open_x.make_episode(name, 0)], None
        open_x.write_dataset(pathlib.Path(given.directory), name, episodes, shards=1, spec=spec)
    robots, _ = sources.open_sources(DataConfig.from_config(config.data))
    assert set(robots) == set(named_mixtures.weights('oxe_magic_soup_plus'))
    tokenizer, lengths = Tokenizer.load_default(), set()
    for source, _ in robots.values():
        space, action = source.action_space, source[0].action
        codec = ActionTokenizer(space, tokenizer)
        back = codec.decode(codec.encode(action))
        lengths.add(len(back))
        dimensions = slice(int(space.terminate), None)
        in_range = np.clip(action[dimensions], space.low, space.high)  # the quantiles of 3 steps
        assert (np.abs(back[dimensions] - in_range) <= space.bin_widths * 0.501).all(), source.name
    assert lengths == {2, 5, 7, 8, 9}
