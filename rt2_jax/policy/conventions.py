"""In whose numbers an action leaves the project for a robot.

Inside, a gripper is +1 closed and -1 open whatever the robot (`data/robot_card.py`). Robots get their
own numbers, as their data have them, unless they ask for others:

    convention = policy.convention()  # or policy.convention('position')
    convention.values(answer.action, robot)  # float64 [D]
    convention.describe()  # names, units, ranges, what the gripper's values mean
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rt2_jax.data.robot_card import RobotCard
from rt2_jax.nearest import check
from rt2_jax.policy.robot import Robot
from rt2_jax.text.actions import ActionSpace

CONVENTIONS = {
    'robot': "the numbers of the robot's own data, by its card; a relative gripper stays a change",
    'position': "as 'robot', but a relative gripper is where to be: closed or open",
    'internal': 'a gripper is +1 closed or closing, -1 open or opening, 0 half-way or hold',
}


@dataclasses.dataclass(frozen=True)
class Convention:
    """A key of CONVENTIONS, for the robot of a card.

    Attributes:
        name: the key.
        space: what the numbers of an action are.
        card: of the robot; None if unknown, which leaves only 'internal'.
    """

    name: str
    space: ActionSpace
    card: RobotCard | None

    @classmethod
    def create(
        cls, name: str | None, space: ActionSpace, card: RobotCard | None = None
    ) -> Convention:
        """The convention called `name`; for None 'robot', or 'internal' without a card.

        Raises:
            ValueError: no such convention, or one that needs a card where there is none.
        """
        name = check('convention', name or ('robot' if card else 'internal'), CONVENTIONS)
        if card is None and name != 'internal':
            raise ValueError(
                f"The convention {name!r} needs the robot's embodiment card, and this policy knows "
                "none; 'internal' needs no card."
            )
        return cls(name, space, card)

    @property
    def needs_memory(self) -> bool:
        """Whether an action depends on those before it: a position where the data have changes."""
        gripper = self.card and self.card.gripper
        return bool(self.name == 'position' and gripper and gripper.kind == 'relative')

    def values(self, action: np.ndarray, robot: Robot | None = None) -> np.ndarray:
        """The numbers that a robot gets for an action.

        Args:
            action: float [L], as the policy decided it.
            robot: memory of the robot, whose gripper follows; only if `needs_memory`.

        Returns:
            float64 [D]: the dimensions without the terminate flag.

        Raises:
            ValueError: an action of another length, or no robot where one is needed.
        """
        if self.name == 'internal' or self.card is None:
            return np.asarray(action, np.float64)[self.space.terminate :]
        if self.needs_memory:
            if robot is None:
                raise ValueError(f"The convention 'position' needs the memory of {self.card.name}.")
            action = robot.to_absolute_gripper(action)
        return self.card.command_values(action)

    def centres(self) -> np.ndarray:
        """The value that each integer of an action's tokens means: float64 [D, bins].

        Raises:
            ValueError: the convention `needs_memory`, so there is no one value.
        """
        if self.card and self.needs_memory:
            raise ValueError(
                f"The convention 'position' follows the gripper of {self.card.name!r} from step to "
                "step, which a function without memory cannot; 'robot' gives its changes."
            )
        actions = self.space.centres.T  # [bins, D]
        if self.space.terminate:
            actions = np.pad(actions, [(0, 0), (1, 0)])
        return np.stack([self.values(action) for action in actions], axis=1)

    def describe(self) -> dict[str, Any]:
        """What the numbers mean, of plain values: names, units, ranges and the gripper.

        `gripper` holds `kind` ('absolute' or 'relative') and the values that are `closed` and `open`
        (that close and open a relative one), and `hold`, which leaves a relative one as it is.
        """
        low, high = (list(map(float, ends)) for ends in (self.space.low, self.space.high))
        description: dict[str, Any] = {
            'convention': self.name,
            'action_names': list(self.space.names),
            'action_units': list(self.space.units),
            'action_low': low,
            'action_high': high,
        }
        gripper = self.card and self.card.gripper
        if not gripper:
            return description
        kind = 'absolute' if self.name == 'position' else gripper.kind
        closed, opened = (gripper.closed, gripper.open) if self.name != 'internal' else (1.0, -1.0)
        description['gripper'] = {'kind': kind, 'closed': float(closed), 'open': float(opened)}
        if kind == 'relative':
            description['gripper']['hold'] = (closed + opened) / 2
        index = self.space.names.index('gripper')
        if self.name != 'internal':
            ends = (-1.0, 1.0) if self.needs_memory else (low[index], high[index])
            low[index], high[index] = sorted(gripper.to_command(np.array(ends)).tolist())
        return description


def to_internal(values: np.ndarray, description: dict[str, Any]) -> np.ndarray:
    """A robot's numbers float [D] in the project's own sense, float64 [D].

    Args:
        values: in the convention that `description` tells.
        description: of `Convention.describe`, or a server's metadata.
    """
    values = np.array(values, np.float64)
    if gripper := description.get('gripper'):
        index = description['action_names'].index('gripper')
        closed, opened = gripper['closed'], gripper['open']
        values[index] = (2 * values[index] - closed - opened) / (closed - opened)
    return values
