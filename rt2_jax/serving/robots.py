"""What the server remembers of one robot between its requests."""

from __future__ import annotations

import numpy as np

from rt2_jax.policy import Policy
from rt2_jax.serving.refusals import Malformed
from rt2_jax.serving.requests import Asked


class Connected:
    """One connection's robot; what is remembered of it is rt2_jax.robot's."""

    def __init__(self, policy: Policy):
        self._seen_at_once = policy.frames
        self._robot = policy.robot()

    def observation(self, asked: Asked) -> np.ndarray:
        """What the policy sees, uint8 [F, H, W, 3]; Malformed where the frames don't fit.

        A client that sends as many frames as the model sees keeps their history itself.
        """
        if asked.reset:
            self._robot.reset()
        if asked.wants_text or len(asked.frames) == self._seen_at_once > 1:
            return asked.frames
        if len(asked.frames) != 1:
            raise Malformed(
                f'{len(asked.frames)} frames came; send one a step, and the server keeps those '
                f'before it, or the {self._seen_at_once} that this model sees.'
            )
        try:
            return self._robot.see(asked.frames[0])
        except ValueError as error:
            raise Malformed(f"{error} A request says so with 'reset': True.") from error

    def settled(self, action: np.ndarray) -> np.ndarray:
        """The action float32 [L] with the gripper where it is to be; see `Robot.settle`."""
        return self._robot.settle(action)
