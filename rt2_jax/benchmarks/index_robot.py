"""Made-up robot steps for benchmarks/index.py: thumbnails for pictures, ten thousand steps a shard."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from etils import epath
import numpy as np
import tensorflow_datasets as tfds

from rt2_jax.benchmarks import kitchen
from rt2_jax.data import images
from rt2_jax.data.index import index_build
from rt2_jax.data.readers import tfds_directory
from rt2_jax.data.readers.rlds_episodes import Rlds
from rt2_jax.data.robot import rlds, rlds_writer
from rt2_jax.data.robot.step_source import StepSource

EPISODES, STEPS = 100, 100  # of a shard


@dataclasses.dataclass(frozen=True)
class Robots:
    """A data set of steps in the kitchen's schema.

    Attributes:
      directory: where it is.
    """

    directory: str

    shard = EPISODES * STEPS

    def write(self, steps: int) -> None:
        """Makes it, unless it is there: one shard under as many names as are needed."""
        write(self.directory, steps)

    def files(self) -> list[str]:
        """Its shards."""
        return [
            os.path.join(self.directory, name)
            for name in tfds_directory.shard_names(self.directory)
        ]

    def build(self, location: str) -> None:
        """Indexes it."""
        index_build.build(Rlds(self.directory, kitchen.CARD), location=location)

    def open(self, location: str) -> StepSource:
        """Opens the index as a source."""
        return rlds.open_source(self.directory, kitchen.CARD, location=location)

    def size(self, source: StepSource) -> int:
        """How many steps are indexed."""
        return source.index.steps

    def arrays(self, source: StepSource) -> list[np.ndarray]:
        """What looking up an example reads, but for the data."""
        return list(source.index.arrays.values())

    def row(self, source: StepSource, i: int) -> Any:
        """What the index says of an example, without its picture."""
        return source.table.instruction(i), source.table.action(i)


def features() -> tfds.features.FeaturesDict:
    """What the kitchen's card names, and little else."""
    f = tfds.features
    numbers = {'world_vector': 3, 'rotation_delta': 3, 'gripper_closedness_action': 1}
    action = {name: f.Tensor(shape=(n,), dtype=np.float32) for name, n in numbers.items()}
    action['terminate_episode'] = f.Tensor(shape=(3,), dtype=np.int32)
    observation = {
        'image': f.Image(shape=(16, 16, 3), encoding_format='jpeg'),
        'natural_language_instruction': f.Text(),
    }
    flags_ = {name: f.Scalar(dtype=np.bool_) for name in ('is_first', 'is_last', 'is_terminal')}
    return rlds_writer.features_dict(
        {
            'steps': {'observation': observation, 'action': action, **flags_},
            'aspects': {'success': f.Scalar(dtype=np.bool_)},
        }
    )


def write(directory: epath.PathLike, steps: int) -> None:
    """A data set of `steps` steps, unless it is there; see the module's text."""
    directory = epath.Path(directory)
    if (directory / rlds_writer.DATASET_INFO_JSON).exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
    shards = steps // (EPISODES * STEPS)
    names = [rlds_writer.shard_name(kitchen.NAME, 'train', i, shards) for i in range(shards)]
    encode = rlds_writer.EpisodeEncoder(features())
    rlds_writer.write_shard(directory / names[0], (encode(_episode(n)) for n in range(EPISODES)))
    for name in names[1:]:
        if not (directory / name).exists():
            os.link(directory / names[0], directory / name)
    rlds_writer.finish(
        directory,
        features(),
        name=kitchen.NAME,
        version=kitchen.VERSION,
        description='Made up: for measuring.',
        shard_lengths=[EPISODES] * shards,
    )


def _episode(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    picture = images.encode_jpeg(rng.integers(0, 256, (16, 16, 3), np.uint8), quality=30)

    def step(t):
        last = t == STEPS - 1
        values = rng.uniform(-0.2, 0.2, 7).astype(np.float32)
        return {
            'observation': {
                'image': picture,
                'natural_language_instruction': f'pick thing {number}',
            },
            'action': {
                'world_vector': values[:3],
                'rotation_delta': values[3:6],
                'gripper_closedness_action': values[6:],
                'terminate_episode': np.array([last, not last, 0], np.int32),
            },
            'is_first': t == 0,
            'is_last': last,
            'is_terminal': last,
        }

    return {'steps': [step(t) for t in range(STEPS)], 'aspects': {'success': number % 5 > 0}}
