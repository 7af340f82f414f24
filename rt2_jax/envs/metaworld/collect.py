"""Collects episodes of Meta-World's scripted policies, as RLDS or LeRobot, for the card `metaworld`.

    .worlds/metaworld/bin/python -m rt2_jax.envs.metaworld.collect --suite=mt10 --episodes=2000 \
        --output=runs/data/metaworld_mt10

Episode i depends on (seed, i) alone, and no evaluation has its layout. The same command goes on with an
interrupted collection (rt2_jax/envs/collection.py). All episodes are kept, failures too.

The episodes are disturbed, see rt2_jax/envs/disturbed_play.py.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

from absl import flags
from etils import epath
import numpy as np
import tensorflow_datasets as tfds

from rt2_jax import command
from rt2_jax.data.cards import METAWORLD
from rt2_jax.envs import collection, disturbed_play, world
from rt2_jax.envs.collected_files import Plan
from rt2_jax.envs.metaworld.metaworld_env import MAX_STEPS, PLACES, MetaworldEnvironment
from rt2_jax.envs.metaworld.metaworld_tasks import SUITES

NAME, VERSION = 'metaworld', '0.2.0'
DESCRIPTION = (
    "Episodes of Meta-World's scripted policies (Farama-Foundation/Metaworld, MIT) with detours, the cameras "
    'corner2 and topview, where things are in both, every action carried out five times.'
)
THINGS = tuple(PLACES)[:-1]  # all but the hand


@dataclasses.dataclass(frozen=True)
class Settings(disturbed_play.Settings):
    """See `disturbed_play.Settings`; as many episodes of each task, those of a task follow each other."""

    suites = SUITES
    suite: str = 'mt10'


def collect(
    output: epath.PathLike, settings: Settings, processes: int | None = None
) -> dict[str, Any]:
    """Collects episodes into `output`; see `collection.collect` for what it returns and raises."""
    return collection.collect(output, _plan, settings, _play, processes)


def _plan(settings: Settings) -> Plan:
    f, size = tfds.features, settings.image_size
    observation = {
        'top': f.Image(shape=(size, size, 3), encoding_format='jpeg'),
        'state': f.Tensor(shape=(4,), dtype=np.float32),  # hand x y z, how far open
        'gripper_pixel': f.Tensor(shape=(2,), dtype=np.float32),
        # A line each, and where each is in the first camera's frame: u and v, 0 to 1.
        'object_names': f.Text(),
        'object_pixels': f.Tensor(shape=(len(THINGS), 2), dtype=np.float32),
        'plan': f.Text(),
    }
    return Plan(
        name=NAME,
        version=VERSION,
        description=DESCRIPTION,
        features=disturbed_play.features(size, observation, numbers=4),
        card=METAWORLD,
        episodes=settings.episodes,
        quality=settings.quality,
        format=settings.format,
        code=(epath.Path(__file__).parent, *disturbed_play.CODE),
    )


def _play(settings: Settings, number: int) -> dict[str, Any]:
    task = settings.task(number, SUITES[settings.suite])
    env = disturbed_play.environment(MetaworldEnvironment, settings)

    def more(seen: world.Observation) -> dict[str, Any]:
        *things, hand = env.pixels()[env.camera]
        return {
            'top': seen.images['top'],
            'gripper_pixel': hand,
            'object_names': '\n'.join(THINGS),
            'object_pixels': np.stack(things),
            'plan': env.plan(),
        }

    return disturbed_play.play(env, settings, number, MAX_STEPS, task, more)


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
