"""Each card of open_x_cards, on files in its data set's published schema."""

import dataclasses

import numpy as np
import open_x
import open_x_sets
import pytest

from rt2_jax.data import cards, images, open_x_cards
from rt2_jax.data.robot import rlds
from rt2_jax.data.robot.step_source import StepSource
from rt2_jax.text import prompts


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
