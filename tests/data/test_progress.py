"""Frames of whole episodes: which they are, in what order, and that nothing else comes with them."""

import numpy as np
import pytest

from rt2_jax.data.data_config import RobotSet
from rt2_jax.data.robot import open_robot, progress, rlds


def test_five_frames_in_the_order_that_the_loss_wants(whole_dataset):
    robot_set = RobotSet(str(whole_dataset), 'tabletop', name='arm', frames=5, shows='progress')
    opened = open_robot.open_robot(robot_set)
    assert list(opened.robot) == ['arm'] and not opened.web
    source = opened.robot['arm'].source
    one = rlds.open_source(whole_dataset, 'tabletop')
    assert len(source) == len(one) and source.kinds == ('progress',)
    drawn = set()
    for i in range(0, len(source), 7):
        example, episode = source[i], one.table.episode_around(i)
        assert example.action is None and example.answer == ''
        assert example.prompt == one[i].prompt
        frames = [
            [step for step in episode if np.array_equal(one.frames(step)[0], frame)]
            for frame in example.frames
        ]
        (first,), (last,), *between = frames
        assert (first, last) == (episode[0], episode[-1])
        (a,), (b,), (c,) = between
        assert a < b < c
        drawn.add((a - first, b - first, c - first))
        np.testing.assert_array_equal(source[i].frames, example.frames)
    assert len(drawn) > 3


def test_short_episodes_repeat_a_frame():
    rng = np.random.default_rng(0)
    assert progress.between_steps(rng, 1) == [0, 0, 0]
    assert progress.between_steps(rng, 2) == [0, 1, 1]
    assert progress.between_steps(rng, 3) == [0, 1, 2]


def test_what_cannot_be_is_refused(whole_dataset):
    with pytest.raises(ValueError, match='draws 5 frames of an episode; config.data.frames is 3'):
        open_robot.open_robot(
            RobotSet(str(whole_dataset), 'tabletop', name='arm', frames=3, shows='progress')
        )
    with pytest.raises(ValueError, match="shows 'progres'; did you mean 'progress'"):
        RobotSet(str(whole_dataset), 'tabletop', name='arm', shows='progres')
