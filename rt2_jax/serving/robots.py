"""What the server remembers of one robot between its requests."""

from __future__ import annotations

import copy

import numpy as np

from rt2_jax.policy import Policy
from rt2_jax.policy.conventions import Convention
from rt2_jax.serving.refusals import Malformed
from rt2_jax.serving.requests import Asked


class Connected:
    """One connection's robot; what is remembered of it is rt2_jax.policy.robot's.

    A request works on a `copy`, which takes the place of this one when its answer has been sent. So a
    request that is refused leaves no frame behind and takes none, and no gripper moves.

    Args:
      policy: that acts for it.
      convention: in whose numbers it takes actions.
    """

    def __init__(self, policy: Policy, convention: Convention):
        self._seen_at_once = policy.frames
        self._robot = policy.robot()
        self.convention = convention

    def copy(self) -> Connected:
        """The same memory, which changes on its own from now on."""
        other = copy.copy(self)
        other._robot = self._robot.copy()
        return other

    @property
    def steps(self) -> int:
        """Frames since the episode began."""
        return self._robot.steps

    def observation(self, asked: Asked) -> np.ndarray | None:
        """What the policy sees, uint8 [F, H, W, 3]; Malformed where the frames don't fit.

        A client that sends as many frames as the model sees keeps their history itself. None where an
        episode begins without a frame.
        """
        if asked.reset:
            self._robot.reset()
        if asked.frames is None:
            return None
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

    def command(self, action: np.ndarray) -> np.ndarray:
        """A decided action [L] as the robot is sent it, float64 [D]; see `Convention.values`."""
        return self.convention.values(action, self._robot)
