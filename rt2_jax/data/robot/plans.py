"""Robot steps answered with a plan before the action: RT-2's chain of thought (section 4.4).

    Instruction: I'm hungry.  ->  Plan: pick rxbar chocolate. Action: 1 128 91 ...

Where the plans come from is a `Planner`: the instruction itself, a column of sub-task labels, a file
(`rt2_jax.data.robot.plan_files`), or what the tabletop knows of its things and the gripper.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
from typing import Any, Protocol

from absl import logging
import numpy as np

from rt2_jax.data.errors import DataSetError
from rt2_jax.data.example import Example
from rt2_jax.data.robot import step_columns
from rt2_jax.data.robot.derived import Derived
from rt2_jax.data.robot.rlds import Step, StepSource
from rt2_jax.nearest import check
from rt2_jax.text import places, prompts

MISSING = ('raise', 'act')


class Planner(Protocol):
    """Where plans come from."""

    fingerprint: str  # changes whenever a plan does

    def plan(self, step: Mapping[str, Any]) -> str:
        """The plan of a step as `StepSource.raw` gives it; '' where there is none."""

    def known(self, steps: StepSource) -> np.ndarray:
        """Of which selected steps there is a plan, bool [len(steps)]."""

    def texts(self, steps: StepSource) -> Iterable[str]:
        """The different plans, or none where they are too many to say."""


@dataclasses.dataclass(frozen=True)
class Planned(Derived):
    """Step `i` of `steps` with a plan.

    Attributes:
      steps: the robot's episodes.
      planner: where the plans come from.
      missing: what to do with steps that have no plan. 'raise', or 'act': they are answered by the
        action alone, which is counted and logged.
      name: the source's name.

    Raises:
      DataSetError: there is no plan at all, or none for a step with missing='raise'.
    """

    steps: StepSource
    planner: Planner
    missing: str = 'raise'
    name: str = 'plans'

    def __post_init__(self):
        super().__post_init__()
        check('plans_missing', self.missing, MISSING)
        known = self.planner.known(self.steps)
        if known.all():
            return
        told = (
            f'{self.name}: {(~known).sum()} of {len(known)} steps have no plan, the first is '
            f'{self.steps.instruction(int(np.argmin(known)))!r} of episode '
            f'{self.steps.episode_index(int(np.argmin(known)))}'
        )
        if self.missing == 'raise' or not known.any():
            raise DataSetError(f"{told}; add them, or set plans_missing='act' where some are there")
        logging.warning('%s; they are answered by the action alone', told)

    @property
    def kinds(self) -> tuple[str, ...]:
        return ('robot', 'robot_plan') if self.missing == 'act' else ('robot_plan',)

    @property
    def action_space(self):
        return self.steps.action_space

    @property
    def fingerprint(self) -> str:
        return f'{self.steps.fingerprint} {self.planner.fingerprint} {self.missing}'

    def answers(self) -> Iterable[str]:
        """Those answers whose length depends on the data; an action follows each."""
        return (prompts.plan(text) for text in self.planner.texts(self.steps))

    def readers(self, chosen: Sequence[int]) -> Iterator[Callable[[], Example]]:
        for step in self.steps.look_up(chosen):
            yield functools.partial(self._example, step)

    def _example(self, step: Step) -> Example:
        plan = self.planner.plan(step.raw)
        return Example(
            frames=self.steps.read(step.place),
            prompt=(prompts.robot_plan if plan else prompts.robot)(step.wording),
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
        return step['instruction'].strip()

    def known(self, steps: StepSource) -> np.ndarray:
        return _are_there(*step_columns.texts(steps))

    def texts(self, steps: StepSource) -> Iterable[str]:
        return step_columns.texts(steps)[1]


@dataclasses.dataclass(frozen=True)
class Column:
    """The plan is a label of the step, such as its sub-task.

    Attributes:
      path: the label's column, one that the card keeps.
    """

    path: str

    @property
    def fingerprint(self) -> str:
        return f'column {self.path}'

    def plan(self, step: Mapping[str, Any]) -> str:
        return step[self.path].strip()

    def known(self, steps: StepSource) -> np.ndarray:
        return _are_there(*step_columns.texts(steps, self.path))

    def texts(self, steps: StepSource) -> Iterable[str]:
        return filter(str.strip, step_columns.texts(steps, self.path)[1])


class Grounded:
    """Where the gripper and the things named in the instruction are, in the web's own words for
    places, so that what was learnt from pictures is written down where the action can use it:

        Plan: banana 410 530 gripper 310 610 90. Action: ...
    """

    fingerprint = 'grounded plans'
    columns = (
        'observation/object_names',
        'observation/object_pixels',
        'observation/gripper_pixel',
        'observation/gripper_xyz',
    )

    def plan(self, step: Mapping[str, Any]) -> str:
        return grounded(step)

    def known(self, steps: StepSource) -> np.ndarray:
        step_columns.require(steps, self.columns)
        return np.ones([len(steps)], bool)

    def texts(self, steps: StepSource) -> Iterable[str]:
        del steps
        return ()


def grounded(step: Mapping) -> str:
    """The plan's text for a raw step: places of what is named, in the instruction's order, and of the
    gripper, with its height in millimetres. Things out of view are named without a place.
    """
    instruction = f' {step["instruction"]} '
    names = step['observation/object_names'].split('\n')
    pixels = dict(zip(names, step['observation/object_pixels']))
    named = sorted(
        (name for name in names if f' {name} ' in instruction),
        key=lambda name: instruction.index(f' {name} '),
    )
    height = step['observation/gripper_xyz'][2:]
    spots = [(name, pixels[name]) for name in named] + [
        ('gripper', np.concatenate([step['observation/gripper_pixel'], height]))
    ]
    return ' '.join(
        f'{name} {places.write_point(np.clip(uv, 0, 1))}' if np.isfinite(uv).all() else name
        for name, uv in spots
    )


def _are_there(which: np.ndarray, texts: list[str]) -> np.ndarray:
    return np.array([bool(text.strip()) for text in texts])[which]
