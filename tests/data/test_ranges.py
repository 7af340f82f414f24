"""Ranges of actions that rarely move, and grippers whose values aren't the card's."""

import dataclasses

import drawn_episodes
import numpy as np
import pytest

from rt2_jax import configuration
from rt2_jax.data import cards, inspect, sources
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.robot import action_statistics, rlds
from rt2_jax.text.actions import ActionTokenizer, range_of


def episodes(change, count=60):
    """Episodes of the tabletop, each changed by change(action, number, step)."""
    made = [drawn_episodes.make_episode(number) for number in range(count)]
    for number, episode in enumerate(made):
        for t, step in enumerate(episode['steps']):
            change(step['action'], number, t)
    return made


@pytest.fixture
def rare(write):
    """A set where drz is 0 but for one step, in which it is 0.6."""

    def turn(action, number, t):
        action['rotation_delta'][2] = 0.6 if (number, t) == (7, 1) else 0

    return write('rare', episodes(turn))


@pytest.mark.parametrize(
    'values, expected',
    [
        ((-0.3, 0.2, -1.0, 1.0), (-0.3, 0.2)),  # quantiles that differ
        ((0.0, 0.0, -0.1, 0.6), (-0.6, 0.6)),  # rests at zero, which stays exact
        ((0.5, 0.5, 0.5, 0.9), (0.5, 0.9)),  # rests elsewhere
        ((0.25, 0.25, 0.25, 0.25), (0.25, 0.25)),  # never moves: ActionSpace widens it
    ],
)
def test_quantiles_that_coincide_give_way_to_extremes(values, expected):
    assert range_of(*values) == expected


def test_a_rare_command_survives_its_tokens(rare, tokenizer):
    source = rlds.open_source(rare, 'tabletop', bounds='q01-q99')
    coder = ActionTokenizer(source.action_space, tokenizer)
    moving = max(range(len(source)), key=lambda i: source.table.action(i)[6])
    for i, turn in ((0, 0.0), (moving, 0.6)):
        back = coder.from_integers(coder.to_integers(source.table.action(i)))
        assert back[6] == pytest.approx(turn, abs=0.003 if turn else 0)


def test_what_is_clipped_is_reported(rare, tmp_path, caplog):
    report = inspect.inspect(rare, tmp_path)
    warning = next(words for words in report['warnings'] if words.startswith('drz'))
    assert 'rarely moves' in warning and 'reach 0 and 0.6' in warning and '-0.6..0.6' in warning
    assert not any('gripper' in words for words in report['warnings'])
    steps = report['counts']['steps']
    dx = report['bounds']['q01-q99']['dx']['clipped']
    assert 0 < dx < 0.03 and f'{dx:.2%}' in inspect.as_text(report)
    card = dataclasses.replace(cards.TABLETOP.action_space, high=(0.1,) * 7, low=(-0.1,) * 7)
    index = rlds.open_source(rare, 'tabletop').index
    beyond = action_statistics.clipped(index.arrays['action'], card)
    assert beyond['drz'] == 1 / steps and 0.6 < beyond['dx'] < 0.9
    config = configuration.defaults()
    config.data.robot.mine = dict(
        directory=str(rare), card='tabletop', weight=1.0, bounds='q01-q99'
    )
    caplog.set_level('INFO')
    sources.open_sources(DataConfig.from_config(config.data))
    assert (
        f'mine: share of the steps beyond the range, which are clipped: dx {dx:.2%}' in caplog.text
    )


def use(tmp_path, write, change, **gripper):
    card = dataclasses.replace(
        cards.TABLETOP, gripper=dataclasses.replace(cards.TABLETOP.gripper, **gripper)
    )
    directory = write('grip', episodes(change, 12))
    index = rlds.open_source(directory, card).index
    return action_statistics.gripper_warning(card.gripper, index.about['gripper'])


def test_a_gripper_in_metres_under_a_card_of_0_and_1(write, tmp_path):
    def metres(action, number, t):
        action['gripper_closedness_action'][:] = 0.08 * (t % 2)

    told = use(tmp_path, write, metres, closed=1.0, open=0.0, binary=0.05)
    assert (
        'run from 0 to 0.08; by the card 0 is open and 1 is closed, so that it is never closed'
        in told
    )


def test_a_gripper_under_a_card_with_its_own_values(write, tmp_path):
    def metres(action, number, t):
        action['gripper_closedness_action'][:] = 0.08 * (t % 2)

    assert use(tmp_path, write, metres, closed=0.0, open=0.08) == ''


def test_a_gripper_far_beyond_the_card(write, tmp_path):
    def percent(action, number, t):
        action['gripper_closedness_action'][:] = 100.0 * (t % 2)

    assert 'lie far beyond both' in use(tmp_path, write, percent, closed=0.0, open=1.0)


def test_a_set_of_one_step_and_actions_of_one_number():
    space = dataclasses.replace(
        cards.TABLETOP.action_space,
        low=(0.0,),
        high=(1.0,),
        names=('dx',),
        units=('m',),
        terminate=False,
    )
    actions = np.arange(5, dtype=np.float32)[:, None]
    actions.flags.writeable = False  # as a memory map
    assert action_statistics.compute(actions, space)['dx']['max'] == 4
    assert action_statistics.compute(actions[:1], space)['dx']['max'] == 0
