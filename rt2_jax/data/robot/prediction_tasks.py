"""What else a robot's frames can be asked for: RT-2's prediction tasks on Language-Table.

The paper trains five together (arXiv 2307.15818, appendix): (1) the action, from two consecutive
frames and the instruction, which is `StepSource(frames=2)` itself; (2) the instruction, from frames;
(3) the arm's position, from frames; (4) the number of time steps between given frames; (5) whether
the task was successful, from frames and the instruction. `TASKS` has the last four.

No wording, weights or spacing of theirs is known. Chosen here, with hindsight labels in mind, where
each episode ends when what its instruction says is done (arXiv 2210.06407):

    instruction    frames spread from the first half of the episode to its last tenth
    arm position   the step's own frames; places on the grid of `text/places` over given ranges
    time steps     frames spread between the step and another one of its episode, 0 apart included
    success        'yes' in the last tenth of a successful episode; 'no' in the first half, with
                   another episode's instruction, and anywhere in a failed one. What lies between the
                   first half and the last tenth is not asked about: it looks like either.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools

from absl import logging
import numpy as np

from rt2_jax.data import history
from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.example import Example
from rt2_jax.data.robot.derived import Derived
from rt2_jax.data.robot.step_source import StepSource
from rt2_jax.data.robot.step_table import StepTable
from rt2_jax.data.task_settings import TaskSettings
from rt2_jax.nearest import check
from rt2_jax.text import places, prompts

SUCCESS = ('flag', 'always')
EARLY, FINAL = 0.5, 0.1  # shares of an episode's steps, from its start and up to its end
OTHER_INSTRUCTIONS = 8  # episodes looked at for an instruction that is another one
_SALT = 4  # tells these draws from others with the same seed


@dataclasses.dataclass(frozen=True)
class PredictionTasks(Derived):
    """Example `i` asks one of the tasks about step `i` of `steps`; a pure function of (seed, i).

    Attributes:
        steps: the robot's episodes.
        settings: which tasks, and how they are asked. The ranges of the arm's position that it leaves
            open are filled in from the data.
        name: the source's name.

    Raises:
        ValueError: an unknown task, weights of nothing, or data that can't answer one of the tasks.
    """

    steps: StepSource
    settings: TaskSettings = TaskSettings()
    name: str = 'tasks'

    def __post_init__(self) -> None:
        for task, weight in self.weights.items():
            check('prediction task', task, TASKS)
            if not 0 <= weight < float('inf'):
                raise ValueError(f'{self.name}: the weight of {task!r} is {weight}')
        if not self.kinds:
            raise ValueError(f'{self.name}: no prediction task has a weight: {dict(self.weights)}')
        check('success', self.settings.success, SUCCESS)
        history.check('most_steps', self.settings.most_steps)
        if 'time_steps' in self.kinds and self.steps.settings.frames < 2:
            raise ValueError(
                f'{self.name}: the number of steps between frames needs 2 frames an example or '
                'more (config.data.frames); or leave out the task time_steps'
            )
        if 'success' in self.kinds and self.settings.success == 'flag':
            self._check_flags()
        if 'arm_position' in self.kinds:
            low, high = _ranges(self.steps, self.settings)
            order = self.settings.arm_order
            if order and sorted(order) != list(range(len(low))):
                raise ValueError(
                    f'{self.name}: arm_order {list(order)} must have each of the numbers 0 to '
                    f'{len(low) - 1} of {self.settings.arm!r} once'
                )
            filled = dataclasses.replace(self.settings, arm_low=low, arm_high=high)
            object.__setattr__(self, 'settings', filled)

    @property
    def weights(self) -> Mapping[str, float]:
        """Task -> relative frequency, names of `TASKS`."""
        weights = self.settings.weights
        return dict.fromkeys(TASKS, 1.0) if weights is None else weights

    @property
    def kinds(self) -> tuple[str, ...]:
        """The tasks that have a weight."""
        return tuple(sorted(task for task, weight in self.weights.items() if weight > 0))

    @property
    def fingerprint(self) -> str:
        """Changes with the steps or the settings."""
        settings = self.settings
        own = (
            settings.arm,
            settings.arm_low,
            settings.arm_high,
            settings.success,
            settings.most_steps,
            settings.seed,
            *([settings.arm_order] if settings.arm_order else []),
        )
        return f'{self.steps.fingerprint} {sorted(self.weights.items())} {own}'

    def answers(self) -> Iterable[str]:
        """Those answers whose length depends on the data."""
        return self.steps.table.texts()[1] if 'instruction' in self.kinds else ()

    def readers(self, numbers: Sequence[int]) -> Iterator[Callable[[], Example]]:
        """See `SkipCorrupt.readers`; which steps are shown is drawn for each number."""
        return (functools.partial(self._example, int(number)) for number in numbers)

    def _example(self, number: int) -> Example:
        rng = np.random.default_rng([_SALT, self.settings.seed, number])
        weights = np.array([self.weights[kind] for kind in self.kinds], np.float64)
        kind = self.kinds[int(rng.choice(len(weights), p=weights / weights.sum()))]
        frames, prompt, answer = TASKS[kind](self, number, rng)
        return Example(frames, prompt, answer, source=self.name, kind=kind)

    def _check_flags(self) -> None:
        table = self.steps.table
        flags = np.asarray(table.index.arrays['episode_success'])[table.episodes]
        if (flags < 0).any():
            raise DataSetError(
                f"{self.name}: {table.index.directory} doesn't say of {(flags < 0).sum()} "
                "episodes whether they succeeded; say success='always' if each did what its "
                'instruction says, or leave out the task success'
            )


def _instruction(
    tasks: PredictionTasks, i: int, rng: np.random.Generator
) -> tuple[np.ndarray, str, str]:
    """What the episode of step `i` does."""
    early, final = _parts(tasks.steps.table.episode_around(i))
    shown = history.spread(_draw(rng, early), _draw(rng, final), tasks.steps.settings.frames)
    # Where an episode's instruction changes on the way, it is the last one that is done at its end.
    answer = tasks.steps.table.instruction(shown[-1])
    return tasks.steps.frames_of(shown), prompts.ROBOT_INSTRUCTION, answer


def _arm_position(
    tasks: PredictionTasks, i: int, rng: np.random.Generator
) -> tuple[np.ndarray, str, str]:
    """Where the arm is at step `i`."""
    del rng
    low, high = np.array(tasks.settings.arm_low), np.array(tasks.settings.arm_high)
    at = (np.ravel(tasks.steps.table.raw(i)[tasks.settings.arm]) - low) / (high - low)
    at = np.clip(at, 0, 1)[list(tasks.settings.arm_order) or slice(None)]
    return tasks.steps.frames(i), prompts.ARM_POSITION, places.write_point(at)


def _time_steps(
    tasks: PredictionTasks, i: int, rng: np.random.Generator
) -> tuple[np.ndarray, str, str]:
    """How far step `i` and another step of its episode are apart."""
    episode, most = tasks.steps.table.episode_around(i), tasks.settings.most_steps
    near = range(max(episode[0], i - most), min(episode[-1], i + most) + 1)
    first, last = sorted((i, _draw(rng, near)))
    shown = history.spread(first, last, tasks.steps.settings.frames)
    return tasks.steps.frames_of(shown), prompts.TIME_STEPS, str(last - first)


def _success(
    tasks: PredictionTasks, i: int, rng: np.random.Generator
) -> tuple[np.ndarray, str, str]:
    """Whether the episode of step `i` has done what its instruction says, or another's says."""
    table = tasks.steps.table
    early, final = _parts(table.episode_around(i))
    at, answer = _draw(rng, final), 'yes'
    instruction = table.wording(at)
    if tasks.settings.success == 'flag' and not table.success(i):
        at, answer = i, 'no'
    elif rng.random() < 0.5:
        other = _other_instruction(table, at, rng) if rng.random() < 0.5 else ''
        if other:
            instruction, answer = other, 'no'
        elif early[-1] < final[0]:
            at, answer = _draw(rng, early), 'no'
    return tasks.steps.frames(at), prompts.robot_success(instruction), answer


TASKS: dict[str, Callable[..., tuple[np.ndarray, str, str]]] = {
    'instruction': _instruction,
    'arm_position': _arm_position,
    'time_steps': _time_steps,
    'success': _success,
}


def _parts(episode: range) -> tuple[range, range]:
    """The first half of an episode and its last tenth, a step of each at least."""
    length = len(episode)
    return episode[: max(1, int(EARLY * length))], episode[-max(1, int(FINAL * length)) :]


def _draw(rng: np.random.Generator, choices: range) -> int:
    return choices[int(rng.integers(len(choices)))]


def _other_instruction(table: StepTable, i: int, rng: np.random.Generator) -> str:
    """An instruction that isn't step `i`'s; '' where all that were drawn are the same."""
    own = table.instruction(i)
    drawn = (table.instruction(int(j)) for j in rng.integers(len(table), size=OTHER_INSTRUCTIONS))
    return next((instruction for instruction in drawn if instruction != own), '')


def _ranges(steps: StepSource, settings: TaskSettings) -> tuple[tuple[float, ...], ...]:
    """Ranges of the arm's position, checked against the data: (low, high)."""
    path = settings.arm
    if not path:
        raise ValueError(
            f'{steps.name}: which column holds the arm position? Give `arm`, such as '
            f'{sorted(steps.index.about["columns"])}; or leave out the task arm_position'
        )
    values = steps.table.numbers(path)
    if not np.isfinite(values).all():
        raise DataSetError(f'{steps.name}: column {path!r} holds NaN or infinity')
    low, high = (
        tuple(float(x) for x in (wanted or of_data))
        for wanted, of_data in (
            (settings.arm_low, values.min(0)),
            (settings.arm_high, values.max(0)),
        )
    )
    if not len(low) == len(high) == values.shape[1] or not np.less(low, high).all():
        raise ValueError(
            f'{steps.name}: arm_low {list(low)} and arm_high {list(high)} must be '
            f'{values.shape[1]} ranges of some width, as column {path!r} has as many numbers'
        )
    outside = ((values < low) | (values > high)).any(1).sum()
    if outside:
        logging.warning(
            '%s: %r of %d of %d steps lies outside %s..%s and is written as its edge',
            steps.name,
            path,
            outside,
            len(values),
            low,
            high,
        )
    return low, high
