"""configs/own_robot.py: a data set and a drafted card, by name of their files alone."""

import dataclasses
import json
import pathlib

import pytest

from rt2_jax import configuration
from rt2_jax.data import draft_card, sources
from rt2_jax.data.data_config import DataConfig

FILE = pathlib.Path(__file__).parents[2] / 'configs' / 'own_robot.py'


def test_it_trains_on_a_folder_and_holds_episodes_out(whole_dataset, tmp_path):
    card = tmp_path / 'my_arm.json'
    card.write_text(json.dumps(dataclasses.asdict(draft_card.draft(whole_dataset).card)))
    config = configuration.load(FILE, f'{whole_dataset},{card}')
    assert config.embodiment == str(card) and config.init_from == 'package:tabletop_pretrained'
    assert list(config.data.web) == ['web'] and config.validation.every
    configuration.check(config)
    config.unlock()
    config.data.web = {}  # needs the simulator's packages
    config.data.robot.own.holdout = 5  # a tenth of 30 may be none
    (steps,) = sources.open_sources(DataConfig.from_config(config.data)).by_name().values()
    held_out = sources.open_validation(config, {'own': steps}).by_name()['own']
    assert len(steps.table.episodes) == 25 and len(held_out.table.episodes) == 5
    assert steps.action_space.terminate and steps.action_space.high[0] < 0.5


@pytest.mark.parametrize('argument', ['episodes', 'episodes,', ',arm.json'])
def test_the_argument_is_a_folder_and_a_card(argument):
    with pytest.raises(ValueError, match='is not DIR,CARD.*draft_card'):
        configuration.load(FILE, argument)
