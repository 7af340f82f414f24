"""The memory of one robot, from one step of an episode to the next.

robot = policy.robot()  # one for each robot that the policy acts for
robot.reset()  # where an episode begins
answer = policy.act(robot.see(image), 'pick banana')
arm.move(policy.convention().values(answer.action, robot))
"""

from __future__ import annotations

from collections.abc import Sequence
import copy
from typing import Any

import numpy as np

from rt2_jax.data import views
from rt2_jax.data.history import History
from rt2_jax.data.robot_card import RobotCard

# A relative gripper holds at commands up to this, of 0..1. Octo's threshold; to either side of 0
# it is 12 of RT-1's bins, so that a bin beside the null action moves nothing.
DEAD_BAND = 0.1
OPEN, CLOSED = -1.0, 1.0


class Robot:
    """The last frames of a robot, and whether its gripper is closed. Not thread-safe.

    Args:
        frames: how many frames an observation has.
        frame_stride: steps from one of them to the next.
        card: of the robot; without one grippers are left alone.
        patience: how many actions in a row must end the episode before it ends.
        cameras: names of the cameras that a frame has a picture of each of, in order; empty for one.

    Attributes:
        gripper: the last position of a relative gripper: -1 open, as an episode begins, +1 closed.
        steps: frames seen since the episode began.
    """

    def __init__(
        self,
        frames: int = 1,
        frame_stride: int = 1,
        card: RobotCard | None = None,
        patience: int = 1,
        cameras: Sequence[str] = (),
    ) -> None:
        if patience < 1:
            raise ValueError(f'patience is {patience}; at least 1 action ends an episode.')
        self._frames, self._frame_stride, self._patience = frames, frame_stride, patience
        self._cameras = cameras
        self._gripper_index: int | None = None
        if card and card.gripper and card.gripper.kind == 'relative':
            self._gripper_index = card.action_space.number_names.index('gripper')
            self._action_length = card.action_space.length
        self.reset()

    def reset(self) -> None:
        """Forgets the episode: the next frame is the first of another, and the gripper is open."""
        self._history = History(self._frames, self._frame_stride)
        self._shape: tuple[int, ...] | None = None
        self.gripper = OPEN
        self.steps = self._ends = 0

    def copy(self) -> Robot:
        """An independent copy of the memory; the frames are shared."""
        other = copy.copy(self)
        other._history = self._history.copy()
        return other

    def see(self, image: Any) -> np.ndarray:
        """Takes the robot's next frame, and gives what the policy is to see.

        Args:
            image: uint8 [H, W, 3] RGB, or JPEG or PNG bytes; of several cameras these by name, or a list in
                their order.

        Returns:
            uint8 [F, H, W, 3], oldest first; an episode's first frame stands in for those before it. Of
            V cameras [F * V, H, W, 3], see `views.py`.

        Raises:
            ValueError: no such picture, or one of another size than the episode's last.
        """
        frame = views.observed(image, self._cameras)
        if len(frame) != max(1, len(self._cameras)):
            each = f', a picture each of {", ".join(self._cameras)}' if self._cameras else ''
            raise ValueError(f'A robot sees one frame at a time{each}; got {len(frame)}.')
        return self.add(frame if self._cameras else frame[0])

    def add(self, frame: np.ndarray) -> np.ndarray:
        """As `see`, for a frame that is known to be uint8 [V, H, W, 3]."""
        if self._shape not in (None, frame.shape):
            raise ValueError(
                f'A frame of {list(frame.shape)} follows one of {list(self._shape)}; '
                'reset() begins another episode.'
            )
        self._shape = frame.shape
        self.steps += 1
        return self._history.add(frame)

    def ends(self, action: np.ndarray) -> bool:
        """Whether the episode ends with this action, the next that was decided.

        It does where `patience` of them in a row say so. Those before the last are carried out, as if
        they had not.

        Args:
            action: float [L], whose first number is the terminate flag.
        """
        self._ends = self._ends + 1 if action[0] > 0.5 else 0
        return self._ends >= self._patience

    def to_absolute_gripper(self, action: np.ndarray) -> np.ndarray:
        """An action whose gripper is a position, for robots that want positions.

        A relative gripper ("sticky": +1 closes, -1 opens, 0 holds) becomes +1 from the first command
        above `DEAD_BAND` on and -1 from the first one below -`DEAD_BAND`; smaller ones hold. The
        robot that made the data takes changes itself; `conventions.py` has both in its numbers.

        Args:
            action: float [L], as the policy decided it.

        Returns:
            float32 [L], a copy; the same array where the gripper is absolute or there is none.

        Raises:
            ValueError: the action has another length than the card's.
        """
        if self._gripper_index is None:
            return action
        action = np.array(action, np.float32)
        if action.shape != (self._action_length,):
            raise ValueError(
                f'An action of this robot has {self._action_length} numbers, got shape '
                f'{list(action.shape)}.'
            )
        if abs(action[self._gripper_index]) > DEAD_BAND:
            self.gripper = CLOSED if action[self._gripper_index] > 0 else OPEN
        action[self._gripper_index] = self.gripper
        return action
