"""The prediction tasks around a robot's actions: each answer is checked against the data."""

from collections import Counter

import numpy as np
import pytest

from rt2_jax.data.data_config import TaskSettings
from rt2_jax.data.robot import prediction_tasks, rlds
from rt2_jax.text import places, prompts

XYZ = 'observation/gripper_xyz'


@pytest.fixture(scope='module')
def steps(whole_dataset):
    return rlds.open_source(whole_dataset, 'tabletop', name='tabletop', frames=2)


@pytest.fixture(scope='module')
def one(whole_dataset):
    """Every step's own picture, to find out what an example shows."""
    source = rlds.open_source(whole_dataset, 'tabletop')
    return [source[i].frames[0] for i in range(len(source))]


def make(steps, *tasks, **settings):
    weights = dict.fromkeys(tasks, 1.0)
    return prediction_tasks.PredictionTasks(steps, TaskSettings(weights, **settings))


def shown(example, episode, one):
    """Which steps of its episode an example's frames are."""
    return [
        next(t for t, i in enumerate(episode) if np.array_equal(frame, one[i]))
        for frame in example.frames
    ]


def test_examples_are_functions_of_seed_and_number(steps):
    weights = {'instruction': 1.0, 'success': 2.0, 'time_steps': 1.0, 'arm_position': 0.0}
    source, again, other = (
        prediction_tasks.PredictionTasks(steps, TaskSettings(weights, seed=seed, most_steps=3))
        for seed in (1, 1, 2)
    )
    assert len(source) == len(steps)
    assert source.kinds == ('instruction', 'success', 'time_steps')
    ask = lambda source: [(e.kind, e.prompt, e.answer) for e in map(source.__getitem__, range(160))]
    assert ask(source) == ask(again) != ask(other)
    assert source.fingerprint == again.fingerprint != other.fingerprint
    counts = Counter(kind for kind, *_ in ask(source))
    assert 60 <= counts['success'] <= 100 and counts['instruction'] > 20


def test_instruction_from_frames_early_and_late(steps, one):
    source = make(steps, 'instruction')
    for i in range(len(source)):
        example, episode = source[i], steps.table.episode_around(i)
        first, last = shown(example, episode, one)
        assert first < len(episode) / 2 and last == len(episode) - 1
        assert (example.prompt, example.answer) == (
            prompts.ROBOT_INSTRUCTION,
            steps.table.instruction(i),
        )
    assert set(source.answers()) == {f'pick thing {n}' for n in range(4)}


def test_arm_position_on_the_webs_grid(steps, caplog):
    low, high = (-0.2, -0.2, -0.1), (0.2, 0.2, 0.2)
    source = make(steps, 'arm_position', arm=XYZ, arm_low=low, arm_high=high)
    outside = 0
    for i in range(len(source)):
        example, xyz = source[i], steps.table.raw(i)[XYZ]
        np.testing.assert_array_equal(example.frames, steps.frames(i))
        truth = (xyz - low) / np.subtract(high, low)
        outside += (truth < 0).any()
        told = np.array([int(x) for x in example.answer.split()]) / 1000
        assert np.abs(told - np.clip(truth, 0, 1)).max() <= places.GRID / 2000 + 1e-6
    assert f'{outside} of {len(steps)} steps lies outside' in caplog.text
    own = make(steps, 'arm_position', arm='observation/gripper_pixel')
    assert own.settings.arm_low == (0.0, 0.0) and own.settings.arm_high == pytest.approx(
        (0.7, 0.29)
    )


def test_arm_position_to_the_right_first(steps):
    as_stored, ordered = (
        make(steps, 'arm_position', arm='observation/gripper_pixel', arm_order=order)
        for order in ((), (1, 0))
    )
    for i in range(len(ordered)):
        assert ordered[i].answer.split() == as_stored[i].answer.split()[::-1]
    for wrong in ((0, 2), (1, 1), (1,)):
        with pytest.raises(ValueError, match='must have each of the numbers 0 to 1'):
            make(steps, 'arm_position', arm='observation/gripper_pixel', arm_order=wrong)


def test_time_steps_between_the_frames_shown(steps, one):
    source = make(steps, 'time_steps', most_steps=4)
    answers = Counter()
    for i in range(len(source)):
        example, episode = source[i], steps.table.episode_around(i)
        first, last = shown(example, episode, one)
        assert i - episode[0] in (first, last)
        assert example.answer == str(last - first) and 0 <= last - first <= 4
        answers[example.answer] += 1
    assert set(answers) == {'0', '1', '2', '3', '4'}
    three = rlds.open_source(steps.index.directory, 'tabletop', frames=3)
    spread = [
        shown(make(three, 'time_steps')[i], three.table.episode_around(i), one) for i in range(9)
    ]
    assert all(a <= b <= c for a, b, c in spread)


def test_success_is_asked_where_frames_can_tell(steps, one):
    source = make(steps, 'success')
    answers = Counter()
    for i in range(len(source)):
        example, episode = source[i], steps.table.episode_around(i)
        at, length = shown(example, episode, one)[-1], len(episode)
        own = example.prompt == prompts.robot_success(steps.table.instruction(i))
        if not steps.table.success(i):
            assert (example.answer, own, at) == ('no', True, i - episode[0])
        elif example.answer == 'yes':
            assert own and at == length - 1
        else:
            assert (at < length / 2) if own else (at == length - 1)
        answers[steps.table.success(i), example.answer, own] += 1
    good = sum(n for (success, *_), n in answers.items() if success)
    assert 0.4 < answers[1, 'yes', True] / good < 0.6
    assert answers[1, 'no', True] > 0.15 * good and answers[1, 'no', False] > 0.15 * good
    always = make(steps, 'success', success='always')
    assert any(always[i].answer == 'yes' and not steps.table.success(i) for i in range(len(steps)))


def test_what_cannot_be_asked_is_refused(steps, whole_dataset):
    one_frame = rlds.open_source(whole_dataset, 'tabletop')
    for source, settings, message in (
        (steps, {'weights': {'sucess': 1.0}}, "did you mean 'success'"),
        (steps, {'weights': {'success': 0.0}}, 'no prediction task has a weight'),
        (steps, {}, 'which column holds the arm position'),
        (steps, {'arm': 'observation/griper_xyz'}, "did you mean 'observation/gripper_xyz'"),
        (steps, {'arm': 'observation/object_names'}, 'holds text; numbers are needed'),
        (steps, {'arm': XYZ, 'arm_low': (0, 0)}, 'must be 3 ranges'),
        (steps, {'arm': 'observation/object_pixels'}, 'NaN'),
        (one_frame, {'arm': XYZ}, 'needs 2 frames an example'),
        (steps, {'arm': XYZ, 'success': 'allways'}, "did you mean 'always'"),
    ):
        with pytest.raises(ValueError, match=message):
            prediction_tasks.PredictionTasks(source, TaskSettings(**settings))
