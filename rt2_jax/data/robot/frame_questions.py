"""Questions about the robot's own frames, as RT-2's auxiliary prediction tasks are.

A policy has to know where things are in the robot's frames, not only in pictures of the web. Each
step of an episode whose set says where the gripper and the visible things are makes a question in
the web's own words, answered by places as `rt2_jax.text.places` writes them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools

import numpy as np

from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.example import Example
from rt2_jax.data.robot import plans
from rt2_jax.data.robot.derived import Derived
from rt2_jax.data.robot.step_source import Step, StepSource
from rt2_jax.data.robot.visible_things import visible
from rt2_jax.nearest import check
from rt2_jax.text import places, prompts

# Relative frequencies. `way_gripper` is what an approach has to know.
KINDS = {
    'frame_where': 0.15,
    'frame_way_gripper': 0.15,
    'frame_gripper': 0.15,
    'frame_list': 0.1,
    'frame_plan': 0.45,  # the plan of the step, and no action
}


@dataclasses.dataclass(frozen=True)
class FrameQuestions(Derived):
    """Question `i` is about step `i` of `steps`; a pure function of (seed, i).

    The steps need the columns `observation/gripper_pixel` [2], `observation/object_names` (names by line) and
    `observation/object_pixels` [n, 2] (u, v in [0, 1]; NaN where there is nothing), and those of the planner.

    Raises:
        DataSetError: a step has no plan.

    Attributes:
        steps: the robot's episodes.
        planner: where plans come from.
        kind_weights: kind of question -> relative frequency (`KINDS` is the default).
        seed: another seed asks other questions.
        name: the source's name.
    """

    steps: StepSource
    planner: plans.Planner = dataclasses.field(default_factory=plans.Grounded)
    kind_weights: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(KINDS))
    seed: int = 0
    name: str = 'frames'

    def __post_init__(self) -> None:
        for kind in self.kind_weights:
            check('kind of question', kind, KINDS)
        if 'frame_plan' in self.kinds and not self.planner.known(self.steps.table).all():
            raise DataSetError(f'{self.name} asks for plans, and some steps have none')

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of questions."""
        return tuple(sorted(self.kind_weights))

    @property
    def fingerprint(self) -> str:
        """Changes with the steps or the questions."""
        grounded = isinstance(self.planner, plans.Grounded)
        planner = '' if grounded else f' {self.planner.fingerprint}'
        return f'{self.steps.fingerprint} {sorted(self.kind_weights.items())} {self.seed}{planner}'

    def answers(self) -> Iterable[str]:
        """Those answers whose length depends on the data."""
        return (prompts.plan(text) for text in self.planner.texts(self.steps.table))

    def readers(self, numbers: Sequence[int]) -> Iterator[Callable[[], Example]]:
        """See `SkipCorrupt.readers`."""
        for number, step in zip(numbers, self.steps.look_up(numbers), strict=True):
            yield functools.partial(self._example, number, step)

    def _example(self, index: int, step: Step) -> Example:
        rng = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        weights = np.array([self.kind_weights[kind] for kind in self.kinds], np.float64)
        kind = self.kinds[int(np.searchsorted(np.cumsum(weights / weights.sum()), rng.random()))]
        if kind == 'frame_plan':
            prompt = prompts.with_state(prompts.robot_plan(step.wording), step.state)
            answer = prompts.plan(self.planner.plan(step.raw))
        else:
            gripper = step.raw['observation/gripper_pixel']
            question, answer = _ask(kind, visible(step.raw), gripper, rng)
            prompt = prompts.web(question)
        return Example(
            frames=self.steps.read(step.place),
            prompt=prompt,
            answer=answer,
            source=self.name,
            kind=kind,
            open_end=kind == 'frame_plan',
        )


def _ask(kind: str, things: list, gripper: np.ndarray, rng: np.random.Generator) -> tuple[str, str]:
    if not things:
        kind = 'frame_gripper'
    if kind == 'frame_gripper':
        return 'where is the gripper', places.write_point(np.clip(gripper, 0, 1))
    name, where = things[int(rng.integers(len(things)))]
    if kind == 'frame_where':
        return f'where is the {name}', places.write_point(where)
    if kind == 'frame_way_gripper':
        return f'which way from the gripper to the {name}', places.write_offset(gripper, where)
    return 'list all', ', '.join(f'{name} {places.write_point(uv)}' for name, uv in things[:3])
