"""Named mixtures: every set has a card, or is named as lacking one."""

import pathlib
import runpy

import pytest

from rt2_jax.data import embodiments, mixtures

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize('name', mixtures.WEIGHTS)
def test_sets_of_a_mixture(name):
    weights = mixtures.weights(name)
    lacking = sorted(set(weights) - set(embodiments.CARDS))
    if lacking:
        with pytest.raises(ValueError, match=f'no embodiment card for {", ".join(lacking)};'):
            mixtures.robot_sets(name, 'data')
    sets = mixtures.robot_sets(name, 'data', leave_out=lacking)
    assert {s: given['weight'] for s, given in sets.items()} == {
        s: weight for s, weight in weights.items() if s not in lacking
    }
    assert all(given['directory'].startswith(f'data/{s}/') for s, given in sets.items())


@pytest.mark.parametrize('name', mixtures.WEIGHTS)
def test_the_config_of_a_mixture_has_every_set_with_a_card(name):
    config = runpy.run_path(ROOT / 'configs/rt2_x.py')['get_config'](name)
    assert set(config.data.robot) == set(mixtures.weights(name)) & set(embodiments.CARDS)
    spaces = {
        embodiments.CARDS[given.card].action_space.length for given in config.data.robot.values()
    }
    assert spaces == ({8, 2} if 'soup' in name else {8})


def test_published_sizes():
    assert [len(mixtures.weights(f'oxe_magic_soup{plus}')) for plus in ('', '_plus')] == [25, 27]
    assert set(mixtures.VERSIONS) <= set().union(*mixtures.WEIGHTS.values())


def test_mistyped_names():
    with pytest.raises(ValueError, match="mixture 'rt_x'; did you mean 'rtx'"):
        mixtures.weights('rt_x')
    with pytest.raises(ValueError, match="did you mean 'kuka'"):
        mixtures.robot_sets('rtx', 'data', leave_out=['kuk'])
