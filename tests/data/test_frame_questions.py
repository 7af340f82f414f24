"""Questions and plans about real frames of the tabletop: what they say is where the frame shows it."""

import numpy as np
import pytest

from rt2_jax.data.robot import frame_questions, plans, rlds
from rt2_jax.envs.tabletop import collect
from rt2_jax.text import places as text_places, prompts


@pytest.fixture(scope='module')
def steps(tmp_path_factory):
    directory = tmp_path_factory.mktemp('episodes') / 'tabletop'
    collect.collect(
        directory,
        collect.Settings(episodes=3, noise=0.0, image_size=64, tasks=('pick', 'push', 'turn')),
        processes=1,
    )
    return rlds.open_source(directory, 'tabletop', name='tabletop')


@pytest.mark.parametrize('kind', sorted(frame_questions.KINDS))
def test_answers_are_true(steps, kind):
    source = frame_questions.FrameQuestions(steps, kind_weights={kind: 1.0}, seed=1)
    assert len(source) == len(steps)
    for index in range(len(source)):
        example, step = source[index], steps.table.raw(index)
        assert example.prompt == source[index].prompt and example.answer == source[index].answer
        assert example.kind == kind and example.frames.shape == (1, 64, 64, 3)
        places = dict(
            zip(step['observation/object_names'].split('\n'), step['observation/object_pixels'])
        )
        gripper = step['observation/gripper_pixel']
        if kind == 'frame_gripper':
            assert example.answer == text_places.write_point(np.clip(gripper, 0, 1))
        elif kind == 'frame_plan':
            planned = plans.Planned(steps, plans.Grounded())[index]
            assert (example.prompt, example.answer) == (planned.prompt, planned.answer)
            assert example.action is None
        elif kind == 'frame_list':
            first = min(places, key=lambda name: places[name][0])
            assert example.answer.startswith(f'{first} {text_places.write_point(places[first])}')
        else:
            name = example.prompt.removesuffix('? A:').split('the ')[-1]
            expected = (
                text_places.write_point(places[name])
                if kind == 'frame_where'
                else text_places.write_offset(gripper, places[name])
            )
            assert example.answer == expected


def test_plans_of_another_planner(steps):
    """Of a set's own column or words; another planner makes another source."""
    grounded, own = (
        frame_questions.FrameQuestions(steps, planner, {'frame_plan': 1.0})
        for planner in (plans.Grounded(), plans.Instruction())
    )
    assert own[0].answer == prompts.plan(steps.table.instruction(0)) != grounded[0].answer
    assert set(own.answers()) >= {own[0].answer} and own.fingerprint != grounded.fingerprint


def test_an_unknown_kind_is_named(steps):
    with pytest.raises(ValueError, match="did you mean 'frame_where'"):
        frame_questions.FrameQuestions(steps, kind_weights={'frame_were': 1.0})


def test_plans_say_where_the_named_things_are(steps):
    planned, openings = plans.Planned(steps, plans.Grounded()), set()
    for index in range(len(planned)):
        example, step = planned[index], steps.table.raw(index)
        assert example.prompt == prompts.robot_plan(step['instruction'])
        assert example.answer.startswith('Plan: ') and example.answer.endswith('. Action:')
        np.testing.assert_array_equal(example.action, steps.table.action(index))
        places = dict(
            zip(step['observation/object_names'].split('\n'), step['observation/object_pixels'])
        )
        for name, uv in places.items():
            placed = f'{name} {text_places.write_point(uv)}' in example.answer
            assert placed == (f' {name} ' in f' {step["instruction"]} ')
        gripper = [
            *step['observation/gripper_pixel'],
            step['observation/gripper_xyz'][2],
            0.5 + step['observation/gripper_yaw'] / (2 * np.pi),
            step['observation/gripper_opening'],
        ]
        written = text_places.write_point(np.clip(gripper, 0, 1))
        assert example.answer.endswith(f' gripper {written}. Action:')
        openings.add(written.split()[-1])
    # Wide open, and closed about a tile: nothing in between, and nothing that rounding makes alike.
    assert {'990', '530'} <= openings <= {'990', '530', '370'}


def test_a_name_inside_another_is_not_meant():
    step = {
        'instruction': 'push car to carrot',
        'observation/object_names': 'carrot\ncar\nfox',
        'observation/object_pixels': np.array([[0.1, 0.2], [0.5, 0.5], [0.9, 0.9], [np.nan] * 2]),
        'observation/gripper_pixel': np.array([0.3, 0.3]),
        'observation/gripper_xyz': np.array([0.0, 0.0, 0.1]),
        'observation/gripper_yaw': -np.pi / 2,
        'observation/gripper_opening': 0.55,
    }
    assert plans.grounded(step) == (
        'push car 510 510 to carrot 110 210 gripper 310 310 110 250 550'
    )
