"""What is remembered of one robot: frames as in training, and a gripper that stays where it was sent."""

import numpy as np
import pytest

from rt2_jax.data import cards, images
from rt2_jax.data.history import History
from rt2_jax.policy.robot import Robot


def test_it_sees_what_a_history_keeps_and_forgets_it_on_reset():
    frames = np.random.default_rng(0).integers(0, 256, (5, 8, 9, 3), np.uint8)
    robot, history = Robot(frames=2, frame_stride=2), History(2, 2)
    for frame in frames:
        np.testing.assert_array_equal(robot.see(frame), history.add(frame))
    robot.reset()
    np.testing.assert_array_equal(robot.see(frames[3]), frames[[3, 3]])
    encoded = images.encode_jpeg(frames[4])
    np.testing.assert_array_equal(robot.see(encoded)[1], images.decode(encoded))
    with pytest.raises(ValueError, match='one frame at a time; got 2'):
        robot.see(frames[:2])
    with pytest.raises(ValueError, match=r'\[8, 8, 3\] follows one of \[8, 9, 3\]; reset'):
        robot.see(frames[0, :, :8])


def test_a_relative_gripper_stays_where_it_was_last_sent():
    robot = Robot(card=cards.FRACTAL)
    commands = [0.0, 0.09, 1.0, 0.0, -0.05, 0.3, -0.11, 0.0, 0.08]
    actions = np.full([len(commands), 8], 0.25, np.float32)
    actions[:, 7] = commands
    settled = np.stack([robot.to_absolute_gripper(action) for action in actions])
    np.testing.assert_array_equal(settled[:, 7], [-1, -1, 1, 1, 1, 1, -1, -1, -1])
    np.testing.assert_array_equal(settled[:, :7], actions[:, :7])
    np.testing.assert_array_equal(actions[:, 7], np.float32(commands))
    robot.to_absolute_gripper(actions[2])
    assert robot.gripper == 1
    robot.reset()
    assert robot.to_absolute_gripper(actions[0])[7] == robot.gripper == -1
    with pytest.raises(ValueError, match='has 8 numbers'):
        robot.to_absolute_gripper(actions[0, 1:])


def test_an_episode_ends_when_as_many_actions_in_a_row_say_so():
    robot, flags = Robot(patience=2), [1, 0, 1, 1, 1, 0]
    says = lambda: [robot.ends(np.array([flag, 0.5])) for flag in flags]
    assert says() == [False, False, False, True, True, False]
    robot.ends(np.array([1.0, 0.5]))
    robot.reset()
    assert says()[0] is False
    assert Robot().ends(np.array([1.0])) and not Robot().ends(np.array([0.0]))
    with pytest.raises(ValueError, match='patience is 0'):
        Robot(patience=0)


@pytest.mark.parametrize('card', [cards.TABLETOP, cards.LANGUAGE_TABLE, None])
def test_other_grippers_are_left_alone(card):
    action = np.linspace(-0.5, 0.5, card.action_space.length if card else 8)
    robot = Robot(card=card)
    for sign in (1, -1):
        np.testing.assert_array_equal(robot.to_absolute_gripper(sign * action), sign * action)
