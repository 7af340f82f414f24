"""Collects scripted episodes of the tabletop as an RLDS or a LeRobot data set.

    python -m rt2_jax.envs.tabletop.collect --episodes=1000 --output=runs/data/tabletop [--format=lerobot]

Episode i depends on (seed, i) alone. The same command goes on with an interrupted collection
(rt2_jax/envs/collection.py). All episodes are kept, failures too: `success` is in their metadata, and
readers can choose.
"""

from __future__ import annotations

import atexit
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

from absl import flags
from etils import epath
import numpy as np

from rt2_jax import command
from rt2_jax.data.cards import TABLETOP
from rt2_jax.envs import collection
from rt2_jax.envs.collected_files import Plan
from rt2_jax.envs.tabletop import detours, expert, schema, suites, tasks as tabletop_tasks
from rt2_jax.envs.tabletop.env import TabletopEnv


@dataclasses.dataclass(frozen=True)
class Settings(collection.Settings):
    """What the episodes of a collection depend on, beside what `collection.Settings` has.

    Attributes:
        detours: share of the expert's far actions in whose place a detour is carried out (see
            detours.py); the expert's is stored. 0 for none.
        suite: the suite that scenes are drawn from.
        tasks: kinds of task, taken in turn; if empty, the episode's seed decides.
        max_steps: an episode's longest length.
    """

    detours: float = 0.75
    suite: str = 'train'
    tasks: tuple[str, ...] = ()
    max_steps: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, 'tasks', tuple(self.tasks))
        suites.suite(self.suite)
        for kind in self.tasks:
            tabletop_tasks.check_kind(kind)


def collect(
    output: epath.PathLike, settings: Settings, processes: int | None = None
) -> dict[str, Any]:
    """Collects episodes into `output`, or goes on where an interrupted collection stopped.

    Args:
        output: the data set's directory.
        settings: what to collect.
        processes: how many at once; one per core by default.

    Returns:
        A summary: episodes, steps, and success by task.

    Raises:
        OutputError: `output` holds something other than this collection.
        BrokenProcessPool: workers died `collection.CRASHES` times.
    """
    return collection.collect(output, _plan, settings, _play, processes)


def _plan(settings: Settings) -> Plan:
    return Plan(
        name=schema.NAME,
        version=schema.VERSION,
        description=schema.DESCRIPTION,
        features=schema.features(settings.image_size),
        card=TABLETOP,
        episodes=settings.episodes,
        quality=settings.quality,
        format=settings.format,
        code=(epath.Path(__file__).parent,),
    )


def play(env: TabletopEnv, settings: Settings, number: int) -> dict[str, Any]:
    """Episode `number` of a collection, as the schema lays it out, frames as uint8 [S, S, 3]."""
    kind = settings.tasks[number % len(settings.tasks)] if settings.tasks else None
    seed = settings.seed * collection.SEED_STRIDE + number
    observation, info = env.reset(seed=seed, options={'task': kind})
    rng = np.random.default_rng([seed, 77])
    steps: list[dict[str, Any]] = []
    over, detoured = False, 0
    while not over:
        # A turn after a disturbance may exceed a step's range; the next step does the rest.
        action = expert.act(env.state, env.start, env.task)
        action = np.clip(action, env.action_space.low, env.action_space.high)
        stored, detour = _observation(observation, info), None
        if detoured < detours.MOST and rng.random() < settings.detours:
            detour = detours.replace(rng, action, env.state)
        detoured += detour is not None
        observation, reward, terminated, truncated, info = env.step(
            action if detour is None else detour
        )
        over = terminated or truncated
        steps.append(
            {
                'observation': stored,
                'action': {
                    'world_vector': action[1:4],
                    'rotation_delta': action[4:7],
                    'gripper_closedness_action': action[7:8],
                    'terminate_episode': np.array([action[0] >= 0.5], np.int32),
                },
                'reward': np.float32(reward),
                'discount': np.float32(not terminated),
                'is_first': not steps,
                'is_last': over,
                'is_terminal': terminated,
            }
        )
    return {
        'steps': steps,
        'episode_metadata': {
            'success': info['success'],
            'task': info['task'],
            'suite': info['suite'],
            'seed': info['seed'],
            'objects': list(info['object_names']),
        },
    }


def _observation(observation: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """A step's observation; tiles out of the frame are in neither names nor pixels."""
    pixels = np.full([schema.TILES, 2], np.nan, np.float32)
    inside = [i for i, p in enumerate(info['object_pixels']) if ((p >= 0) & (p <= 1)).all()]
    pixels[: len(inside)] = info['object_pixels'][inside]
    return {
        'image': observation['image'],
        'natural_language_instruction': observation['instruction'],
        'gripper_xyz': info['gripper_xyz'],
        'gripper_yaw': info['gripper_yaw'],
        'gripper_pixel': info['gripper_pixel'],
        'gripper_opening': info['gripper_opening'],
        'object_names': '\n'.join(info['object_names'][i] for i in inside),
        'object_pixels': pixels,
    }


@functools.lru_cache(maxsize=1)
def environment(settings: Settings) -> TabletopEnv:
    """The environment of a collection, made once per process."""
    env = TabletopEnv(
        suite=settings.suite,
        image_size=settings.image_size,
        max_steps=settings.max_steps,
        execution_noise=settings.noise,
        render_mode=None,
    )
    atexit.register(env.close)
    return env


def _play(settings: Settings, number: int) -> dict[str, Any]:
    return play(environment(settings), settings, number)


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    collection.define_flags(Settings)
    flags.DEFINE_string('suite', Settings.suite, 'Suite that scenes are drawn from.')
    flags.DEFINE_list('tasks', [], 'Kinds of task, taken in turn; all by default, drawn.')


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    collection.run(argv, Settings, collect)


if __name__ == '__main__':
    define_flags()
    command.run('collect', main)
