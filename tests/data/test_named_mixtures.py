"""Named mixtures: every set has a card, or is named as lacking one."""

import pathlib
import runpy

import pytest

from rt2_jax.data import cards, named_mixtures

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize('name', named_mixtures.WEIGHTS)
def test_sets_of_a_mixture(name):
    weights = named_mixtures.weights(name)
    lacking = sorted(set(weights) - set(cards.CARDS))
    if lacking:
        with pytest.raises(ValueError, match=f'no embodiment card for {", ".join(lacking)};'):
            named_mixtures.robot_sets(name, 'data')
    sets = named_mixtures.robot_sets(name, 'data', leave_out=lacking)
    assert {s: given['weight'] for s, given in sets.items()} == {
        s: weight for s, weight in weights.items() if s not in lacking
    }
    assert all(given['directory'].startswith(f'data/{s}/') for s, given in sets.items())


@pytest.mark.parametrize('name', named_mixtures.WEIGHTS)
def test_the_config_of_a_mixture_has_every_set_with_a_card(name):
    config = runpy.run_path(ROOT / 'configs/rt2_x.py')['get_config'](name)
    assert set(config.data.robot) == set(named_mixtures.weights(name)) & set(cards.CARDS)
    spaces = {cards.CARDS[given.card].action_space.length for given in config.data.robot.values()}
    assert spaces == ({8, 2} if 'soup' in name else {8})


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
