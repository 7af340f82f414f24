"""What a policy remembers of one robot, from one step of an episode to the next.

robot = policy.robot()  # one for each robot that the policy acts for
robot.reset()  # where an episode begins
decision = policy.act(robot.see(image), 'pick banana')
arm.move(policy.convention().values(decision.action, robot))
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from rt2_jax.data import images
from rt2_jax.data.history import History
from rt2_jax.data.robot_card import RobotCard

# Of the range 0..1 of a relative gripper's command, what holds. Octo's threshold; to either side of 0
# it is 12 of RT-1's bins, so that a bin beside the null action moves nothing.
DEAD_BAND = 0.1
OPEN, CLOSED = -1.0, 1.0


class Robot:
    """The last frames of a robot, and whether its gripper is closed. Not thread-safe; each has its own.

    Args:
      frames, frame_stride: how many frames an observation has, and the steps from one to the next.
      card: the embodiment that the policy acts for; None, as for an unknown one, leaves grippers alone.

    Attributes:
      gripper: where a relative gripper was last told to be: -1 open, as an episode begins, +1 closed.
      steps: frames seen since the episode began.
    """

    def __init__(self, frames: int = 1, frame_stride: int = 1, card: RobotCard | None = None):
        self._seeing = frames, frame_stride
        self._place = None
        if card and card.gripper and card.gripper.kind == 'relative':
            self._place = card.action_space.number_names.index('gripper')
            self._length = card.action_space.length
        self.reset()

    def reset(self) -> None:
        """Forgets the episode: the next frame is the first of another, and the gripper is open."""
        self._history = History(*self._seeing)
        self._shape: tuple[int, ...] | None = None
        self.gripper = OPEN
        self.steps = 0

    def copy(self) -> Robot:
        """The same memory, which changes on its own from now on; the frames are shared."""
        other = copy.copy(self)
        other._history = self._history.copy()
        return other

    def see(self, image: Any) -> np.ndarray:
        """Takes the robot's next frame, and gives what the policy is to see.

        Args:
          image: uint8 [H, W, 3] RGB, or JPEG or PNG bytes.

        Returns:
          uint8 [F, H, W, 3], oldest first; an episode's first frame stands in for those before it.

        Raises:
          ValueError: no such picture, or one of another size than the episode's last.
        """
        frames = images.observed(image)
        if len(frames) != 1:
            raise ValueError(f'A robot sees one frame at a time; got {len(frames)}.')
        if self._shape not in (None, frames.shape):
            raise ValueError(
                f'A frame of {list(frames.shape[1:])} follows one of {list(self._shape[1:])}; '
                'reset() begins another episode.'
            )
        self._shape = frames.shape
        self.steps += 1
        return self._history.add(frames[0])

    def settle(self, action: np.ndarray) -> np.ndarray:
        """An action whose gripper says where to be, for robots that want positions.

        A relative gripper ("sticky": +1 closes, -1 opens, 0 holds) becomes +1 from the first command
        above `DEAD_BAND` on and -1 from the first one below -`DEAD_BAND`; what is between holds. The
        robot that made the data takes changes itself; `conventions.py` has both in its numbers.

        Args:
          action: float [L], as the policy decided it.

        Returns:
          float32 [L], a copy; the very action where the gripper is absolute or there is none.

        Raises:
          ValueError: the action is of another length than the card's.
        """
        if self._place is None:
            return action
        action = np.array(action, np.float32)
        if action.shape != (self._length,):
            raise ValueError(
                f'An action of this robot has {self._length} numbers, got shape {list(action.shape)}.'
            )
        if abs(action[self._place]) > DEAD_BAND:
            self.gripper = CLOSED if action[self._place] > 0 else OPEN
        action[self._place] = self.gripper
        return action
