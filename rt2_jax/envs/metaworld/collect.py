"""Collects episodes of Meta-World's scripted policies, as RLDS or LeRobot, for the card `metaworld`.

    .worlds/metaworld/bin/python -m rt2_jax.envs.metaworld.collect --suite=mt10 --episodes=2000 \
        --output=runs/data/metaworld_mt10

Episode i depends on (seed, i) alone, and no evaluation has its layout. The same command goes on with an
interrupted collection (rt2_jax/envs/collection.py). All episodes are kept, failures too.

The episodes are disturbed, see rt2_jax/envs/disturbed_play.py.
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
import tensorflow_datasets as tfds

from rt2_jax import command
from rt2_jax.data.cards import METAWORLD
from rt2_jax.data.robot import rlds_writer
from rt2_jax.envs import collection, disturbed_play
from rt2_jax.envs.collected_files import FORMATS, Plan
from rt2_jax.envs.metaworld.metaworld_env import CAMERA, MAX_STEPS, MetaworldEnvironment
from rt2_jax.envs.metaworld.metaworld_tasks import SUITES
from rt2_jax.nearest import check

NAME, VERSION = 'metaworld', '0.1.0'
DESCRIPTION = (
    "Episodes of Meta-World's scripted policies (Farama-Foundation/Metaworld, MIT) with detours, the camera "
    'corner2, every action carried out five times.'
)
# Episode i of a collection is episode FIRST + seed * SEED_STRIDE + i of its suite; evaluations begin with 0.
FIRST, SEED_STRIDE = 10_000_000, 1_000_000


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the episodes of a collection depend on.

    Attributes:
        episodes: how many, as many of each task of the suite; those of a task follow each other.
        suite: a name of `metaworld_tasks.SUITES`.
        seed: 0 to 9; collections with different seeds share no layout.
        noise: execution noise, see `world.Make`.
        detours: how often a decision begins a detour, 0 to 1.
        image_size: side of the frames, pixels.
        quality: JPEG quality; videos have their own, see video_writer.
        format: 'rlds' or 'lerobot'.
    """

    episodes: int
    suite: str = 'mt10'
    seed: int = 0
    noise: float = 0.1
    detours: float = 0.05
    image_size: int = 128
    quality: int = 95
    format: str = 'rlds'

    def __post_init__(self) -> None:
        check('suite', self.suite, SUITES)
        check('format', self.format, FORMATS)
        if not 0 <= self.detours <= 1:
            raise ValueError(f'detours is a probability, 0 to 1; got {self.detours}')
        if not 0 < self.episodes <= SEED_STRIDE:
            raise ValueError(f'episodes must be 1 to {SEED_STRIDE}; got {self.episodes}')
        if not 0 <= self.seed <= 9:
            raise ValueError(f'seed must be 0 to 9; got {self.seed}')


def features(image_size: int) -> tfds.features.FeaturesDict:
    """The schema for frames of `image_size` pixels."""
    f = tfds.features
    return rlds_writer.features_dict(
        {
            'steps': {
                'observation': {
                    'image': f.Image(shape=(image_size, image_size, 3), encoding_format='jpeg'),
                    'natural_language_instruction': f.Text(),
                    'state': f.Tensor(shape=(4,), dtype=np.float32),  # hand x y z, how far open
                },
                'action': f.Tensor(shape=(4,), dtype=np.float32),
                'terminate_episode': f.Scalar(dtype=np.float32),
                'reward': f.Scalar(dtype=np.float32),
                'discount': f.Scalar(dtype=np.float32),
                'is_first': f.Scalar(dtype=np.bool_),
                'is_last': f.Scalar(dtype=np.bool_),
                'is_terminal': f.Scalar(dtype=np.bool_),
            },
            'episode_metadata': {
                'success': f.Scalar(dtype=np.bool_),
                'task': f.Text(),
                'suite': f.Text(),
                'seed': f.Scalar(dtype=np.int64),
            },
        }
    )


def collect(
    output: epath.PathLike, settings: Settings, processes: int | None = None
) -> dict[str, Any]:
    """Collects episodes into `output`; see `collection.collect` for what it returns and raises."""
    return collection.collect(output, _plan, settings, _play, processes)


def _plan(settings: Settings) -> Plan:
    return Plan(
        name=NAME,
        version=VERSION,
        description=DESCRIPTION,
        features=features(settings.image_size),
        card=METAWORLD,
        episodes=settings.episodes,
        image_size=settings.image_size,
        quality=settings.quality,
        format=settings.format,
        code=epath.Path(__file__).parent,
    )


def play(env: MetaworldEnvironment, settings: Settings, number: int) -> dict[str, Any]:
    """Episode `number` of a collection, as the schema lays it out, frames as uint8 [S, S, 3]."""
    seed = FIRST + settings.seed * SEED_STRIDE + number
    tasks = SUITES[settings.suite]
    # In this order a process seldom loads another task.
    observation, task, _ = env.reset(seed, tasks[number * len(tasks) // settings.episodes])
    detours = disturbed_play.Detours(np.random.default_rng([seed, 77]), settings.detours)
    steps = [
        {
            'observation': {
                'image': seen.images[CAMERA],
                'natural_language_instruction': seen.instruction,
                'state': seen.state,
            },
            **step,
        }
        for seen, step in disturbed_play.steps(env, observation, MAX_STEPS, detours)
    ]
    return {
        'steps': steps,
        'episode_metadata': {
            'success': env.success,
            'task': task,
            'suite': settings.suite,
            'seed': seed,
        },
    }


@functools.lru_cache(maxsize=1)
def environment(settings: Settings) -> MetaworldEnvironment:
    """The environment of a collection, made once per process."""
    env = MetaworldEnvironment(
        settings.suite,
        image_size=settings.image_size,
        render_size=settings.image_size,
        execution_noise=settings.noise,
    )
    atexit.register(env.close)
    return env


def _play(settings: Settings, number: int) -> dict[str, Any]:
    return play(environment(settings), settings, number)


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    collection.define_flags(Settings)
    flags.DEFINE_string('suite', Settings.suite, 'mt10, mt50, a difficulty or a task.')


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    collection.run(argv, Settings, collect)


if __name__ == '__main__':
    define_flags()
    command.run('collect', main)
