"""Robot steps answered with a plan before the action: RT-2's chain of thought (section 4.4).

    Instruction: I'm hungry.  ->  Plan: pick rxbar chocolate. Action: 1 128 91 ...

Where the plans come from is a `Planner`: the instruction itself, a column of sub-task labels, a file
(`rt2_jax.data.robot.plan_files`), or what the tabletop knows of its things and the gripper.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import math
import re
from typing import Any, Protocol

from absl import logging
import numpy as np

from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.example import Example
from rt2_jax.data.robot.derived import Derived
from rt2_jax.data.robot.step_source import Step, StepSource
from rt2_jax.data.robot.step_table import StepTable
from rt2_jax.nearest import check
from rt2_jax.text import places, prompts
from rt2_jax.text.actions import ActionSpace

MISSING = ('raise', 'act')


class Planner(Protocol):
    """Where plans come from."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever a plan does."""

    def plan(self, step: Mapping[str, Any]) -> str:
        """The plan of a step as `StepTable.raw` gives it; '' where there is none."""

    def known(self, table: StepTable) -> np.ndarray:
        """Of which steps there is a plan, bool [len(table)]."""

    def texts(self, table: StepTable) -> Iterable[str]:
        """The different plans; none where there are too many to list."""


@dataclasses.dataclass(frozen=True)
class Planned(Derived):
    """Step `i` of `steps` with a plan.

    Attributes:
        steps: the robot's episodes.
        planner: where the plans come from.
        missing: what to do with steps that have no plan. 'raise', or 'act': they are answered by
            the action alone, which is counted and logged.
        name: the source's name.

    Raises:
        DataSetError: there is no plan at all, or none for a step with missing='raise'.
    """

    steps: StepSource
    planner: Planner
    missing: str = 'raise'
    name: str = 'plans'

    def __post_init__(self) -> None:
        check('plans_missing', self.missing, MISSING)
        table = self.steps.table
        known = self.planner.known(table)
        if known.all():
            return
        first = int(np.argmin(known))
        problem = (
            f'{self.name}: {(~known).sum()} of {len(known)} steps have no plan, the first is '
            f'{table.instruction(first)!r} of episode {table.episode_index(first)}'
        )
        if self.missing == 'raise' or not known.any():
            raise DataSetError(
                f"{problem}; add them, or set plans_missing='act' where some are there"
            )
        logging.warning('%s; they are answered by the action alone', problem)

    @property
    def kinds(self) -> tuple[str, ...]:
        """'robot_plan', and 'robot' where some steps have no plan."""
        return ('robot', 'robot_plan') if self.missing == 'act' else ('robot_plan',)

    @property
    def acting_kinds(self) -> tuple[str, ...]:
        """All of them."""
        return self.kinds

    @property
    def action_space(self) -> ActionSpace:
        """Of the actions behind the plans."""
        return self.steps.action_space

    @property
    def state_space(self) -> ActionSpace | None:
        """Of the states in the prompts; None where they have none."""
        return self.steps.state_space

    @property
    def fingerprint(self) -> str:
        """Changes with the steps or a plan."""
        return f'{self.steps.fingerprint} {self.planner.fingerprint} {self.missing}'

    def prompts(self) -> Iterable[str]:
        """As of the steps, whose prompts are the longer ones."""
        return self.steps.prompts()

    def answers(self) -> Iterable[str]:
        """Those answers whose length depends on the data; an action follows each."""
        return (prompts.plan(text) for text in self.planner.texts(self.steps.table))

    def readers(self, numbers: Sequence[int]) -> Iterator[Callable[[], Example]]:
        """See `SkipCorrupt.readers`."""
        for step in self.steps.look_up(numbers):
            yield functools.partial(self._example, step)

    def _example(self, step: Step) -> Example:
        plan = self.planner.plan(step.raw)
        return Example(
            frames=self.steps.read(step.place),
            prompt=prompts.with_state(
                (prompts.robot_plan if plan else prompts.robot)(step.wording), step.state
            ),
            answer=prompts.plan(plan) if plan else '',
            action=step.raw['action'],
            source=self.name,
            kind='robot_plan' if plan else 'robot',
            places=bool(plan),
        )


class Instruction:
    """The plan is the instruction as the data have it, whatever words a paraphrase asked with."""

    fingerprint = 'instruction'

    def plan(self, step: Mapping[str, Any]) -> str:
        """See `Planner`."""
        return step['instruction'].strip()

    def known(self, table: StepTable) -> np.ndarray:
        """See `Planner`."""
        return _are_there(*table.texts())

    def texts(self, table: StepTable) -> Iterable[str]:
        """See `Planner`."""
        return table.texts()[1]


@dataclasses.dataclass(frozen=True)
class Column:
    """The plan is a label of the step, such as its sub-task.

    Attributes:
        path: the label's column, one that the card keeps.
    """

    path: str

    @property
    def fingerprint(self) -> str:
        """See `Planner`."""
        return f'column {self.path}'

    def plan(self, step: Mapping[str, Any]) -> str:
        """See `Planner`."""
        return step[self.path].strip()

    def known(self, table: StepTable) -> np.ndarray:
        """See `Planner`."""
        return _are_there(*table.texts(self.path))

    def texts(self, table: StepTable) -> Iterable[str]:
        """See `Planner`."""
        return filter(str.strip, table.texts(self.path)[1])


class Grounded:
    """The plan is the instruction with the places of its things, and how the gripper is.

    Places are written as the web's answers have them, so that what was learnt from pictures is in the
    context of the action:

        Plan: push banana 410 530 to bell 610 210 gripper 310 610 90 510 990. Action: ...

    The gripper has its place, its height in millimetres, its yaw in thousandths of a turn about 500, and
    its opening in thousandths of the widest: a policy that sees them on any table can act on any. The
    web's plans have such instructions, too (`rt2_jax.data.web.web_plans`), for questions in any words: what
    is to be done reaches the action in the words that the robot's episodes have.
    """

    fingerprint = 'grounded plans with verbs'
    columns = (
        'observation/object_names',
        'observation/object_pixels',
        'observation/gripper_pixel',
        'observation/gripper_xyz',
        'observation/gripper_yaw',
        'observation/gripper_opening',
    )

    def plan(self, step: Mapping[str, Any]) -> str:
        """See `Planner`."""
        return grounded(step)

    def known(self, table: StepTable) -> np.ndarray:
        """See `Planner`."""
        table.require(self.columns)
        return np.ones([len(table)], bool)

    def texts(self, table: StepTable) -> Iterable[str]:
        """See `Planner`."""
        del table
        return ()


def grounded(step: Mapping) -> str:
    """The text of a grounded plan for a raw step: its instruction with places, then the gripper.

    Things out of view are named without a place.
    """
    names = step['observation/object_names'].split('\n')
    pixels = dict(zip(names, step['observation/object_pixels']))
    longest_first = '|'.join(re.escape(name) for name in sorted(pixels, key=len, reverse=True))
    instruction = re.sub(
        rf'(?<!\S)({longest_first})(?!\S)',
        lambda name: _placed(name[0], pixels[name[0]]),
        step['instruction'].strip().rstrip('.'),
    )
    gripper = [
        *step['observation/gripper_pixel'],
        step['observation/gripper_xyz'][2],
        0.5 + step['observation/gripper_yaw'] / math.tau,
        step['observation/gripper_opening'],
    ]
    return f'{instruction} {_placed("gripper", np.array(gripper))}'


def _placed(name: str, numbers: np.ndarray) -> str:
    """A name and its numbers; the name alone where one of them is not known."""
    if not np.isfinite(numbers).all():
        return name
    return f'{name} {places.write_point(np.clip(numbers, 0, 1))}'


def _are_there(which: np.ndarray, texts: list[str]) -> np.ndarray:
    return np.array([bool(text.strip()) for text in texts])[which]
