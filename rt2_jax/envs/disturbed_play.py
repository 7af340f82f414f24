"""Collections of an expert that is carried off now and then, for worlds of `arm_environment.ArmEnvironment`.

Undisturbed episodes show right moves only. So now and then the hand is carried off in a straight line for a
moment, or its fingers do the opposite; the stored action is the expert's, which finds back. The episode goes
on for a moment after the goal is reached, so that the frame of the step that terminates does not look like
those before the goal.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import dataclasses
import functools
from typing import Any, ClassVar

from etils import epath
import numpy as np
import tensorflow_datasets as tfds

from rt2_jax.data.robot import rlds_writer
from rt2_jax.envs import arm_environment, collection, mujoco_camera, world
from rt2_jax.envs.arm_environment import ArmEnvironment
from rt2_jax.nearest import check

# Episode i of a collection is episode FIRST + seed * SEED_STRIDE + i of its suite; evaluations begin with 0.
FIRST = 10_000_000
# What episodes depend on beside the world's own folder.
CODE = tuple(
    epath.Path(file) for file in (__file__, arm_environment.__file__, mujoco_camera.__file__)
)
HOLD = 2  # decisions after the goal is reached
DETOURS, LONGEST = 4, 4  # in an episode, and decisions in one of them
LET_GO = 0.15  # share of the detours in which the fingers do the opposite


@dataclasses.dataclass(frozen=True)
class Settings(collection.Settings):
    """What the episodes of a collection depend on; `detours` is how often a decision begins one.

    Attributes:
        suites: those that the world has.
        suite: one of them.
    """

    suites: ClassVar[Collection[str]]
    suite: str = ''

    def __post_init__(self) -> None:
        check('suite', self.suite, self.suites)
        super().__post_init__()

    def episode_seed(self, number: int) -> int:
        """The seed in its suite of episode `number` of the collection."""
        return FIRST + self.seed * collection.SEED_STRIDE + number

    def task(self, number: int, tasks: Sequence[str]) -> str:
        """The task of episode `number`, those of a task in a row: a process seldom loads another."""
        return tasks[number * len(tasks) // self.episodes]

    def metadata(self, env: world.Environment, task: str, seed: int) -> dict[str, Any]:
        """What is stored of an episode that is over, see `episode_metadata`."""
        return {'success': env.success, 'task': task, 'suite': self.suite, 'seed': seed}


def episode_metadata() -> dict[str, Any]:
    """The schema of `Settings.metadata`."""
    f = tfds.features
    text = f.Text()
    return {
        'success': f.Scalar(dtype=np.bool_),
        'task': text,
        'suite': text,
        'seed': f.Scalar(dtype=np.int64),
    }


def features(
    image_size: int, observation: Mapping[str, Any], numbers: int
) -> tfds.features.FeaturesDict:
    """The schema of a collection.

    Args:
        image_size: side of the frames, pixels.
        observation: what is observed beside the frame and the instruction.
        numbers: of an action.
    """
    f = tfds.features
    flag, number, text = f.Scalar(dtype=np.bool_), f.Scalar(dtype=np.float32), f.Text()
    image = f.Image(shape=(image_size, image_size, 3), encoding_format='jpeg')
    step = {
        'observation': {'image': image, 'natural_language_instruction': text, **observation},
        'action': f.Tensor(shape=(numbers,), dtype=np.float32),
        **dict.fromkeys(('terminate_episode', 'reward', 'discount'), number),
        **dict.fromkeys(('is_first', 'is_last', 'is_terminal'), flag),
    }
    return rlds_writer.features_dict({'steps': step, 'episode_metadata': episode_metadata()})


@functools.lru_cache(maxsize=1)
def environment(make: world.Make, settings: Settings) -> Any:
    """The environment of a collection, made once per process."""
    size = settings.image_size
    env = make(settings.suite, image_size=size, render_size=size, execution_noise=settings.noise)
    atexit.register(env.close)
    return env


def play(
    env: ArmEnvironment,
    settings: Settings,
    number: int,
    max_steps: int,
    task: str | None = None,
    more: Callable[[world.Observation], Mapping[str, Any]] = lambda _: {},
) -> dict[str, Any]:
    """Episode `number` of a collection, as the schema lays it out, frames as uint8 [S, S, 3].

    Args:
        env: of the suite.
        settings: of the collection.
        number: of the episode.
        max_steps: the longest episode.
        task: its kind of task; None leaves that to the seed.
        more: what is stored of an observation beside frame, instruction and state, while it is new.
    """
    seed = settings.episode_seed(number)
    observation, task, _ = env.reset(seed, task)
    detours = Detours(seed, settings.detours)
    played = [
        {
            'observation': {
                'image': seen.images[env.camera],
                'natural_language_instruction': seen.instruction,
                'state': seen.state,
                **more(seen),
            },
            **step,
        }
        for seen, step in steps(env, observation, max_steps, detours)
    ]
    return {'steps': played, 'episode_metadata': settings.metadata(env, task, seed)}


def steps(
    env: ArmEnvironment, observation: world.Observation, max_steps: int, detours: Detours
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
        seed: of the episode; draws them.
        often: how often a decision begins one, 0 to 1.
        hand: how many numbers an action begins with that move the hand; the last of those behind them is
            the gripper.

    Attributes:
        ended: whether what was carried out last was the last step of a detour.
    """

    def __init__(self, seed: int, often: float, hand: int = 3) -> None:
        self._rng = np.random.default_rng([seed, 77])
        self._often, self._hand = often, hand
        self._left, self._begun = 0, 0
        self._way, self._lets_go = np.zeros(hand), False
        self.ended = False

    def carried_out(self, action: np.ndarray) -> np.ndarray:
        """Float [D]: the action, or a step of a detour."""
        if not self._left and self._begun < DETOURS and self._rng.random() < self._often:
            self._left, self._begun = int(self._rng.integers(1, LONGEST + 1)), self._begun + 1
            self._way = self._rng.uniform(-1, 1, self._hand)
            self._lets_go = self._rng.random() < LET_GO
        self.ended = self._left == 1
        if not self._left:
            return action
        self._left -= 1
        rest = action[self._hand :].copy()
        if self._lets_go:
            rest[-1:] *= -1
        return np.concatenate([self._way, rest])
