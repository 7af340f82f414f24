"""Episodes of an expert that is carried off now and then, for the `collect` of worlds with a gripper.

Undisturbed episodes show right moves only. So now and then the hand is carried off in a straight line for a
moment, or its fingers do the opposite; the stored action is the expert's, which finds back. The episode goes
on for a moment after the goal is reached, so that the frame of the step that terminates does not look like
those before the goal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rt2_jax.envs import world

HOLD = 2  # decisions after the goal is reached
DETOURS, LONGEST = 4, 4  # in an episode, and decisions in one of them
LET_GO = 0.15  # share of the detours in which the fingers do the opposite


def steps(
    env: world.Environment, observation: world.Observation, max_steps: int, detours: Detours
) -> Iterator[tuple[world.Observation, dict[str, Any]]]:
    """Plays the expert until it has terminated or `max_steps` is reached.

    Args:
        env: has begun an episode; an action's first three numbers move its hand, the last is its gripper.
        observation: of the episode's beginning.
        max_steps: the longest episode.
        detours: what is carried out.

    Yields:
        What was seen, and what RLDS has of the step beside it: `action` float [D], which moves nothing where
        the step terminates, `terminate_episode`, `reward`, `discount` and the flags of its place.
    """
    held, number, terminate = 0, 0, False
    while not terminate and number < max_steps:
        action = env.expert()[1:]
        held += env.success
        terminate, number = held > HOLD, number + 1
        if terminate:
            action[:-1] = 0
        step = {
            'action': action,
            'terminate_episode': np.float32(terminate),
            'reward': np.float32(terminate),
            'discount': np.float32(not terminate),
            'is_first': number == 1,
            'is_last': terminate or number == max_steps,
            'is_terminal': terminate,
        }
        yield observation, step
        if not terminate:
            observation = env.step(action if env.success else detours.carried_out(action))


class Detours:
    """What is carried out in place of the expert's actions, now and then.

    Args:
        rng: draws them.
        often: how often a decision begins one, 0 to 1.
    """

    def __init__(self, rng: np.random.Generator, often: float) -> None:
        self._rng, self._often = rng, often
        self._left, self._begun = 0, 0
        self._way, self._lets_go = np.zeros(3), False

    def carried_out(self, action: np.ndarray) -> np.ndarray:
        """Float [D]: the action, or a step of a detour."""
        if not self._left and self._begun < DETOURS and self._rng.random() < self._often:
            self._left, self._begun = int(self._rng.integers(1, LONGEST + 1)), self._begun + 1
            self._way = self._rng.uniform(-1, 1, 3)
            self._lets_go = self._rng.random() < LET_GO
        if not self._left:
            return action
        self._left -= 1
        gripper = -action[-1] if self._lets_go else action[-1]
        return np.concatenate([self._way, action[3:-1], [gripper]])
