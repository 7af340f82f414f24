"""Collects episodes of Language-Table's oracle, as RLDS or LeRobot, for the card `language_table_brisk`.

    .worlds/language_table/bin/python -m rt2_jax.envs.language_table.collect --suite=all --episodes=2000 \
        --output=runs/data/language_table_all

The schema is that of the published sets (tfds `language_table`), and each step also says where the blocks and
the arm are in the frame, and what is to be done there (`observation/plan`). Like theirs, an episode ends with
the goal, and its last step's action means nothing.

The oracle doesn't slow down near the goal (`language_table_simulator`). Now and then the arm is carried off
(rt2_jax/envs/disturbed_play.py), and the oracle plans anew. Episode i depends on (seed, i) alone, and no
evaluation has its layout. The same command goes on with an interrupted collection
(rt2_jax/envs/collection.py). All episodes are kept, failures too.
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
from rt2_jax.data.cards import LANGUAGE_TABLE_BRISK
from rt2_jax.data.robot import rlds_writer
from rt2_jax.envs import collection, disturbed_play, world
from rt2_jax.envs.collected_files import Plan
from rt2_jax.envs.language_table import language_table_simulator as simulator
from rt2_jax.envs.language_table.language_table_env import ALL, MAX_STEPS, LanguageTableEnvironment
from rt2_jax.text import places

NAME, VERSION = 'language_table_brisk', '0.1.0'
DESCRIPTION = (
    "Episodes of the oracle of Language-Table's simulator (google-research/language-table, Apache 2.0) "
    'without slowing down, with detours, and with the places of the blocks.'
)
LETTERS = 512  # of an instruction, as numbers; constants.py there
FASTEST = 0.03  # of a detour, metres a step
BLOCK_HEIGHT = 0.02  # of a block's middle, metres


@dataclasses.dataclass(frozen=True)
class Settings(disturbed_play.Settings):
    """See `disturbed_play.Settings`; the families come in turn. Frames are 16/9 as wide as `image_size`."""

    suites = (*simulator.FAMILIES, ALL)
    suite: str = ALL
    detours: float = 0.03


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
        card=LANGUAGE_TABLE_BRISK,
        episodes=settings.episodes,
        quality=settings.quality,
        format=settings.format,
        code=(epath.Path(__file__).parent, *disturbed_play.CODE),
    )


def features(image_size: int) -> tfds.features.FeaturesDict:
    """The schema for frames so high, pixels; places in them are u and v, 0 to 1, others x and y in metres."""
    f = tfds.features
    flag, text = f.Scalar(dtype=np.bool_), f.Text()
    floats = lambda *shape: f.Tensor(shape=shape, dtype=np.float32)
    size = image_size, simulator.frame_width(image_size)
    observation = {
        'rgb': f.Image(shape=(*size, 3), encoding_format='jpeg'),
        'effector_translation': floats(2),
        'effector_target_translation': floats(2),
        'instruction': f.Tensor(shape=(LETTERS,), dtype=np.int32),
        'gripper_pixel': floats(2),
        'object_names': text,
        'object_pixels': floats(len(simulator.BLOCKS), 2),
        'plan': text,
    }
    step = {
        'observation': observation,
        'action': floats(2),
        'reward': f.Scalar(dtype=np.float32),
        **dict.fromkeys(('is_first', 'is_last', 'is_terminal'), flag),
    }
    metadata = disturbed_play.episode_metadata()
    return rlds_writer.features_dict(
        {'steps': step, 'episode_id': text, 'episode_metadata': metadata}
    )


def _play(settings: Settings, number: int) -> dict[str, Any]:
    env = disturbed_play.environment(LanguageTableEnvironment, settings)
    seed = settings.episode_seed(number)
    observation, family, _ = env.reset(seed)
    detours = disturbed_play.Detours(seed, settings.detours, hand=2)
    steps: list[dict[str, Any]] = []
    while not env.over and len(steps) < MAX_STEPS:
        action = env.expert()
        steps.append(_step(env, observation, action))
        observation = env.step(detours.carried_out(action / FASTEST) * FASTEST)
        if detours.ended:
            env.table.forget_plan()
    steps.append(_step(env, observation, np.zeros(2, np.float32)))
    steps[0]['is_first'] = steps[-1]['is_last'] = True
    steps[-1]['is_terminal'] = env.success
    steps[-1]['reward'] = np.float32(env.success)
    metadata = settings.metadata(env, family, seed)
    return {'steps': steps, 'episode_id': f'{family} {seed}', 'episode_metadata': metadata}


def _step(
    env: LanguageTableEnvironment, observation: world.Observation, action: np.ndarray
) -> dict[str, Any]:
    table = env.table
    blocks = table.pixels(table.places, BLOCK_HEIGHT).astype(np.float32)
    arm = table.pixels(table.state()).astype(np.float32)
    letters = np.zeros([LETTERS], np.int32)
    letters[: len(observation.instruction)] = list(observation.instruction.encode('ascii'))
    seen = {
        'rgb': observation.images['rgb'],
        'effector_translation': observation.state,
        'effector_target_translation': np.asarray(table.set_point, np.float32),
        'instruction': letters,
        'gripper_pixel': arm,
        'object_names': '\n'.join(simulator.BLOCKS),
        'object_pixels': blocks,
        'plan': plan(table),
    }
    no = dict.fromkeys(('is_first', 'is_last', 'is_terminal'), False)
    return {'observation': seen, 'action': action, 'reward': np.float32(0), **no}


def plan(table: simulator.Table) -> str:
    """What is to be done, in the frame: which block, where it is, where to, and where the arm is."""
    seen = lambda place, height: places.write_point(np.clip(table.pixels(place, height), 0, 1))
    x, goal = table.moved, seen(table.goal, BLOCK_HEIGHT)
    block = f'{simulator.BLOCKS[x]} {seen(table.places[x], BLOCK_HEIGHT)}'
    return f'push {block} to {goal} arm {seen(table.state(), 0.0)}'


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    collection.define_flags(Settings)
    flags.DEFINE_string('suite', Settings.suite, f'{ALL}, or one of the families.')


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    collection.run(argv, Settings, collect)


if __name__ == '__main__':
    define_flags()
    command.run('collect', main)
