"""Collects episodes of OGBench's oracles, as RLDS or LeRobot, for the card `ogbench`.

    .worlds/ogbench/bin/python -m rt2_jax.envs.ogbench.collect --suite=cube-quadruple --episodes=2000 \
        --output=runs/data/ogbench_cube-quadruple

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
from rt2_jax.data.cards import OGBENCH
from rt2_jax.envs import collection, disturbed_play
from rt2_jax.envs.collected_files import Plan
from rt2_jax.envs.ogbench.ogbench_env import MAX_STEPS, OgbenchEnvironment
from rt2_jax.envs.ogbench.ogbench_tasks import SUITES

NAME, VERSION = 'ogbench', '0.1.0'
DESCRIPTION = (
    "Episodes of OGBench's oracles (seohongpark/ogbench, MIT) with detours and goals that are said, the "
    'camera front_pixels, every action carried out twice.'
)


@dataclasses.dataclass(frozen=True)
class Settings(disturbed_play.Settings):
    """See `disturbed_play.Settings`; the suite's tasks come in turn."""

    suites = SUITES
    suite: str = 'cube-quadruple'


def collect(
    output: epath.PathLike, settings: Settings, processes: int | None = None
) -> dict[str, Any]:
    """Collects episodes into `output`; see `collection.collect` for what it returns and raises."""
    return collection.collect(output, _plan, settings, _play, processes)


def _plan(settings: Settings) -> Plan:
    f, things = tfds.features, SUITES[settings.suite].things
    observation = {
        # Of the hand: x, y, z, yaw, how far it is closed.
        'state': f.Tensor(shape=(5,), dtype=np.float32),
        # A line each, and where each is: x, y, z, metres.
        'object_names': f.Text(),
        'object_places': f.Tensor(shape=(len(things), 3), dtype=np.float32),
    }
    return Plan(
        name=NAME,
        version=VERSION,
        description=DESCRIPTION,
        features=disturbed_play.features(settings.image_size, observation, numbers=5),
        card=OGBENCH,
        episodes=settings.episodes,
        quality=settings.quality,
        format=settings.format,
        code=(epath.Path(__file__).parent, *disturbed_play.CODE),
    )


def _play(settings: Settings, number: int) -> dict[str, Any]:
    env = disturbed_play.environment(OgbenchEnvironment, settings)
    names = '\n'.join(SUITES[settings.suite].things)
    places = lambda _: {'object_names': names, 'object_places': env.places}
    return disturbed_play.play(env, settings, number, MAX_STEPS, more=places)


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
