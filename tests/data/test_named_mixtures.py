"""Named mixtures: every set has a card; one that had none would be named."""

import pathlib
import runpy

import pytest

from rt2_jax.data import cards, named_mixtures

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize('name', named_mixtures.WEIGHTS)
def test_every_set_of_a_mixture_has_a_card(name):
    weights, sets = named_mixtures.weights(name), named_mixtures.robot_sets(name, 'data')
    assert {s: given['weight'] for s, given in sets.items()} == weights
    assert all(given['directory'].startswith(f'data/{s}/') for s, given in sets.items())


def test_a_set_without_a_card_is_named(monkeypatch):
    monkeypatch.delitem(cards.CARDS, 'droid')
    monkeypatch.delitem(cards.CARDS, 'dobbe')
    with pytest.raises(ValueError, match='no embodiment card for dobbe, droid;'):
        named_mixtures.robot_sets('oxe_magic_soup_plus', 'data')
    sets = named_mixtures.robot_sets('oxe_magic_soup_plus', 'data', leave_out=['dobbe', 'droid'])
    assert len(sets) == 25 and not {'dobbe', 'droid'} & set(sets)


def test_ranges_are_the_datas_own_where_the_makers_give_none():
    sets = named_mixtures.robot_sets('oxe_magic_soup_plus', 'data')
    for name in ('droid', 'viola', 'bridge_dataset', 'fractal20220817_data', 'language_table'):
        assert 'bounds' not in sets[name]
    for name in ('toto', 'bc_z', 'ucsd_kitchen_dataset_converted_externally_to_rlds', 'dobbe'):
        assert sets[name]['bounds'] == 'q01-q99'


@pytest.mark.parametrize('name', named_mixtures.WEIGHTS)
def test_the_config_of_a_mixture_has_every_set(name):
    config = runpy.run_path(ROOT / 'configs/rt2_x.py')['get_config'](name)
    assert set(config.data.robot) == set(named_mixtures.weights(name))
    spaces = {cards.CARDS[given.card].action_space.length for given in config.data.robot.values()}
    assert spaces == {'rtx': {8, 7, 5}}.get(name, {9, 8, 7, 5, 2} if 'soup' in name else {8})


def test_published_sizes():
    assert [len(named_mixtures.weights(f'oxe_magic_soup{plus}')) for plus in ('', '_plus')] == [
        25,
        27,
    ]
    assert set(named_mixtures.VERSIONS) <= set().union(*named_mixtures.WEIGHTS.values())


def test_mistyped_names():
    with pytest.raises(ValueError, match="mixture 'rt_x'; did you mean 'rtx'"):
        named_mixtures.weights('rt_x')
    with pytest.raises(ValueError, match="did you mean 'kuka'"):
        named_mixtures.robot_sets('rtx', 'data', leave_out=['kuk'])
