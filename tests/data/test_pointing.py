"""Instructions of episodes with the places of things at their first step."""

import dataclasses

import drawn_episodes
import numpy as np
import pytest

from rt2_jax.data.cards import TABLETOP
from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.robot import rlds
from rt2_jax.text import prompts


def episode(number):
    """One whose things move, and whose instruction names the second of them."""
    made = drawn_episodes.make_episode(number)
    for t, step in enumerate(made['steps']):
        pixels = np.full([4, 2], np.nan, np.float32)
        pixels[:2] = [0.9, 0.1], [0.21 + 0.1 * t, 0.53]
        step['observation'] |= {
            'natural_language_instruction': 'push banana to key',
            'object_names': 'lamp\nbanana',
            'object_pixels': pixels,
        }
    return made


def test_places_are_those_of_the_first_step(write):
    folder = write('tabletop', [episode(0), episode(1)])
    plain = rlds.open_source(folder, 'tabletop', frames=2, action_frames='all')
    source = rlds.open_source(folder, 'tabletop', frames=2, action_frames='all', pointing='column')
    for i in range(len(source)):
        assert source[i].prompt == prompts.robot('push 210 530 to 0 0')
        assert source[i].places and not plain[i].places
        np.testing.assert_array_equal(source[i].action, plain[i].action)
        np.testing.assert_array_equal(source[i].earlier, plain[i].earlier)
        np.testing.assert_array_equal(source[i].frames, plain[i].frames)
    assert source.fingerprint != plain.fingerprint
    with pytest.raises(ValueError, match="pointing 'colum'; did you mean 'column'"):
        rlds.open_source(folder, 'tabletop', pointing='colum')


def test_data_that_do_not_say_where_things_are_are_refused(whole_dataset):
    card = dataclasses.replace(TABLETOP, columns=())
    with pytest.raises(DataSetError, match="keeps no column 'observation/object_names'"):
        rlds.open_source(whole_dataset, card, pointing='column')
