"""What the server remembers of one connection's robot: the frames of its episode, and its gripper."""

import numpy as np
import pytest
from running import twelve_pictures

from rt2_jax.data import images
from rt2_jax.data.cards import FRACTAL
from rt2_jax.policy import Policy
from rt2_jax.serving import codec, messages, openpi
from rt2_jax.serving.limits import Limits, Malformed
from rt2_jax.serving.service import Session


@pytest.fixture(scope='module')
def policy(tiny):
    """It sees three frames, two steps apart, and closes a gripper by steps; nothing is compiled."""
    return Policy.from_config(
        tiny.config(), tiny.params(1), tiny.tokenizer, FRACTAL.action_space,
        frames=3, frame_stride=2, embodiment=FRACTAL,
    )  # fmt: skip


def session(policy, convention='robot'):
    return Session(policy, policy.convention(convention))


def request(picture, prompt='pick banana', **more):
    message = {'observation/image': picture, 'prompt': prompt} | more
    return messages.from_openpi(codec.packb(message), Limits())


def test_frames_are_remembered_until_an_episode_begins(policy):
    pictures = twelve_pictures()
    robot, other = session(policy), session(policy)
    for step in range(7):
        other.observation(request(pictures[11 - step]))
        seen = robot.observation(request(pictures[step]))
        wanted = [pictures[max(0, step - back)] for back in (4, 2, 0)]
        np.testing.assert_array_equal(seen, wanted)
    seen = robot.observation(request(pictures[9], reset=True))
    np.testing.assert_array_equal(seen, [pictures[9]] * 3)


def test_questions_and_a_clients_own_history_leave_the_frames_alone(policy):
    pictures = twelve_pictures()
    robot = session(policy)
    robot.observation(request(pictures[0]))
    assert robot.observation(request(pictures[5], 'Q: what is on the table? A:')).shape[0] == 1
    own = np.stack(pictures[6:9])
    np.testing.assert_array_equal(robot.observation(request(own)), own)
    jpegs = [images.encode_jpeg(picture) for picture in own]
    np.testing.assert_array_equal(
        robot.observation(request(jpegs)), list(map(images.decode, jpegs))
    )
    seen = robot.observation(request(pictures[1]))
    np.testing.assert_array_equal(seen, [pictures[0], pictures[0], pictures[1]])


def test_frames_that_do_not_fit_are_refused(policy):
    pictures = twelve_pictures()
    robot = session(policy)
    robot.observation(request(pictures[0]))
    with pytest.raises(Malformed, match="'reset': True"):
        robot.observation(request(pictures[1][:20]))
    with pytest.raises(Malformed, match='2 frames came; send one a step'):
        robot.observation(request(np.stack(pictures[:2])))


def test_a_gripper_that_was_closed_stays_closed(policy):
    names = FRACTAL.action_space.number_names
    action = lambda value: np.eye(len(names), dtype=np.float32)[names.index('gripper')] * value
    changes = [0, 1, 0, 0, -1, 0]
    for convention, wanted in {'robot': changes, 'position': [-1, 1, 1, 1, -1, -1]}.items():
        robot = session(policy, convention)
        assert [robot.command(action(value))[-1] for value in changes] == wanted


def test_a_copy_changes_on_its_own(policy):
    pictures = twelve_pictures()
    robot = session(policy, 'position')
    robot.observation(request(pictures[0]))
    copy = robot.copy()
    copy.observation(request(pictures[1], reset=True))
    assert copy.command(np.ones([8], np.float32))[-1] == 1
    assert robot.command(np.zeros([8], np.float32))[-1] == -1
    np.testing.assert_array_equal(
        robot.observation(request(pictures[2])), [pictures[0], pictures[0], pictures[2]]
    )


def test_patience_counts_the_actions_of_one_episode(tiny):
    patient = Policy.from_config(
        tiny.config(), tiny.params(1), tiny.tokenizer, FRACTAL.action_space,
        embodiment=FRACTAL, patience=2,
    )  # fmt: skip
    assert openpi.describe(patient, patient.convention('robot'))['remembers'] == ['terminate']
    robot, ending = session(patient), np.eye(8, dtype=np.float32)[0]
    robot.observation(request(twelve_pictures()[0]))
    # A request that is refused after all leaves the count as it was.
    assert not robot.copy().ends(ending) and not robot.ends(ending)
    robot.observation(request(twelve_pictures()[1], reset=True))
    assert not robot.ends(ending) and robot.ends(ending)
