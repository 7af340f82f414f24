"""Collects episodes of OGBench's oracles, as RLDS or LeRobot, for the card `ogbench`.

    .worlds/ogbench/bin/python -m rt2_jax.envs.ogbench.collect --suite=cube-quadruple --episodes=2000 \
        --output=runs/data/ogbench_cube-quadruple

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
from rt2_jax.data.cards import OGBENCH
from rt2_jax.data.robot import rlds_writer
from rt2_jax.envs import collection, disturbed_play
from rt2_jax.envs.collected_files import FORMATS, Plan
from rt2_jax.envs.ogbench.ogbench_env import CAMERA, MAX_STEPS, OgbenchEnvironment
from rt2_jax.envs.ogbench.ogbench_tasks import SUITES
from rt2_jax.nearest import check

NAME, VERSION = 'ogbench', '0.1.0'
DESCRIPTION = (
    "Episodes of OGBench's oracles (seohongpark/ogbench, MIT) with detours and goals that are said, the "
    'camera front_pixels, every action carried out twice.'
)
# Episode i of a collection is episode FIRST + seed * SEED_STRIDE + i of its suite; evaluations begin with 0.
FIRST, SEED_STRIDE = 10_000_000, 1_000_000


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the episodes of a collection depend on.

    Attributes:
        episodes: how many, the suite's tasks in turn.
        suite: a name of `ogbench_tasks.SUITES`.
        seed: 0 to 9; collections with different seeds share no layout.
        noise: execution noise, see `world.Make`.
        detours: how often a decision begins a detour, 0 to 1.
        image_size: side of the frames, pixels.
        quality: JPEG quality; videos have their own, see video_writer.
        format: 'rlds' or 'lerobot'.
    """

    episodes: int
    suite: str = 'cube-quadruple'
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


def features(image_size: int, things: int) -> tfds.features.FeaturesDict:
    """The schema for frames of `image_size` pixels that show so many things."""
    f = tfds.features
    return rlds_writer.features_dict(
        {
            'steps': {
                'observation': {
                    'image': f.Image(shape=(image_size, image_size, 3), encoding_format='jpeg'),
                    'natural_language_instruction': f.Text(),
                    # Of the hand: x, y, z, yaw, how far it is closed.
                    'state': f.Tensor(shape=(5,), dtype=np.float32),
                    # A line each, and where each is: x, y, z, metres.
                    'object_names': f.Text(),
                    'object_places': f.Tensor(shape=(things, 3), dtype=np.float32),
                },
                'action': f.Tensor(shape=(5,), dtype=np.float32),
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
        features=features(settings.image_size, len(SUITES[settings.suite].things)),
        card=OGBENCH,
        episodes=settings.episodes,
        image_size=settings.image_size,
        quality=settings.quality,
        format=settings.format,
        code=epath.Path(__file__).parent,
    )


def play(env: OgbenchEnvironment, settings: Settings, number: int) -> dict[str, Any]:
    """Episode `number` of a collection, as the schema lays it out, frames as uint8 [S, S, 3]."""
    seed = FIRST + settings.seed * SEED_STRIDE + number
    observation, task, _ = env.reset(seed)
    things = SUITES[settings.suite].things
    detours = disturbed_play.Detours(np.random.default_rng([seed, 77]), settings.detours)
    steps = [
        {
            'observation': {
                'image': seen.images[CAMERA],
                'natural_language_instruction': seen.instruction,
                'state': seen.state,
                'object_names': '\n'.join(things),
                'object_places': env.places,
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
def environment(settings: Settings) -> OgbenchEnvironment:
    """The environment of a collection, made once per process."""
    env = OgbenchEnvironment(
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
    flags.DEFINE_string(
        'suite', Settings.suite, 'cube-single, -double, -triple, -quadruple or scene.'
    )


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    collection.run(argv, Settings, collect)


if __name__ == '__main__':
    define_flags()
    command.run('collect', main)
