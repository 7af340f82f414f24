"""A data set of any size in the schema of RT-1's kitchen data, for measuring.

Frames are 256x320 JPEGs of quality 95 with halved colour, as TFDS encodes them, of about 25 kB, as
RT-1's. A few hundred are drawn and dealt out to the steps. The instruction holds the episode's
number, so that whoever reads a batch can count the episodes in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from etils import epath
import numpy as np
import simplejpeg
import tensorflow_datasets as tfds

from rt2_jax.data import cards
from rt2_jax.data.robot import rlds_writer
from rt2_jax.data.web import compose, pictures

NAME = 'fractal20220817_data'
VERSION = '0.1.0'
HEIGHT, WIDTH = 256, 320

# About as many as a shard of RT-1's data holds.
EPISODES_A_SHARD = 100

CARD = cards.find(NAME)


def features() -> tfds.features.FeaturesDict:
    """The schema of `fractal20220817_data` in the TFDS catalogue."""
    f = tfds.features

    def floats(*shape):
        return f.Tensor(shape=shape, dtype=np.float32)

    def flags(*names):
        return {name: f.Scalar(dtype=np.bool_) for name in names}

    attributes = (
        'collection_mode',
        'data_type',
        'env',
        'location',
        'objects_family',
        'task_family',
    )
    return rlds_writer.features_dict(
        {
            'steps': {
                'observation': {
                    'image': f.Image(shape=(HEIGHT, WIDTH, 3), encoding_format='jpeg'),
                    'natural_language_instruction': f.Text(),
                    'natural_language_embedding': floats(512),
                    'base_pose_tool_reached': floats(7),
                    'gripper_closed': floats(1),
                    'gripper_closedness_commanded': floats(1),
                    'height_to_bottom': floats(1),
                    'orientation_box': floats(2, 3),
                    'orientation_start': floats(4),
                    'robot_orientation_positions_box': floats(3, 3),
                    'rotation_delta_to_go': floats(3),
                    'src_rotation': floats(4),
                    'vector_to_go': floats(3),
                    'workspace_bounds': floats(3, 3),
                },
                'action': {
                    'world_vector': floats(3),
                    'rotation_delta': floats(3),
                    'gripper_closedness_action': floats(1),
                    'terminate_episode': f.Tensor(shape=(3,), dtype=np.int32),
                    'base_displacement_vector': floats(2),
                    'base_displacement_vertical_rotation': floats(1),
                },
                'reward': f.Scalar(dtype=np.float32),
                **flags('is_first', 'is_last', 'is_terminal'),
            },
            'aspects': flags(
                'already_success', 'feasible', 'has_aspects', 'success', 'undesirable'
            ),
            'attributes': {name: f.Scalar(dtype=np.int64) for name in attributes}
            | {f'{name}_name': f.Text() for name in attributes},
        }
    )


def frames(number: int, seed: int = 0) -> list[bytes]:
    """`number` different JPEGs."""
    rng = np.random.default_rng(seed)
    return [_frame(rng) for _ in range(number)]


def write(
    directory: epath.PathLike,
    *,
    episodes: int,
    steps: int = 30,
    encoded: list[bytes],
    seed: int = 0,
) -> None:
    """Writes a data set, unless it is there; one that was interrupted goes on where it was.

    Args:
      directory: its folder.
      episodes: how many.
      steps: steps an episode on average; lengths are spread over half of it to one and a half.
      encoded: pictures, each the frame of many steps.
      seed: of everything.
    """
    directory = epath.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / rlds_writer.DATASET_INFO_JSON).exists():
        return
    schema = features()
    encode = rlds_writer.EpisodeEncoder(schema)
    parts = np.array_split(np.arange(episodes), -(-episodes // EPISODES_A_SHARD))
    for shard, numbers in enumerate(parts):
        path = directory / rlds_writer.shard_name(NAME, 'train', shard, len(parts))
        if not path.exists():
            rlds_writer.write_shard(
                path, (encode(_episode(int(n), steps, encoded, schema, seed)) for n in numbers)
            )
    rlds_writer.finish(
        directory,
        schema,
        name=NAME,
        version=VERSION,
        description='Made up: for measuring.',
        shard_lengths=[len(numbers) for numbers in parts],
    )


def _frame(rng: np.random.Generator) -> bytes:
    canvas = np.ascontiguousarray(compose.background(rng, WIDTH))
    catalogue = pictures.catalogue()
    for _ in range(rng.integers(3, 7)):
        placed = compose.Placed(
            picture=catalogue[rng.integers(len(catalogue))],
            centre=tuple(rng.uniform(0.1, 0.9, 2)),
            side=float(rng.uniform(0.15, 0.35)),
            rotation=float(rng.uniform(0, 2 * np.pi)),
            card=str(rng.choice(sorted(compose.COLOURS))),
        )
        compose.draw(canvas, placed)
    # A camera's noise: without it, the drawings' even faces would be cheaper than photographs.
    canvas += rng.normal(0, 2, canvas.shape).astype(np.float32)
    pixels = compose.finish(canvas, rng)[:HEIGHT]
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=95, colorspace='RGB', colorsubsampling='420'
    )


def _episode(number: int, steps: int, encoded: list[bytes], schema, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng([seed, number])
    length = int(rng.integers(steps // 2, steps + steps // 2 + 1))
    fields = dict(_filled({k: v for k, v in schema.items() if k != 'steps'}, rng))
    step_fields = schema['steps'].feature
    return fields | {'steps': list(_steps(number, length, encoded, step_fields, rng))}


def _steps(number: int, length: int, encoded, step_features, rng) -> Iterator[dict[str, Any]]:
    for t in range(length):
        last = t == length - 1
        step = dict(_filled(step_features, rng))
        step['observation'] |= {
            'image': encoded[rng.integers(len(encoded))],
            'natural_language_instruction': f'pick thing {number}',
        }
        step['action']['terminate_episode'] = np.array([last, not last, 0], np.int32)
        yield step | {'is_first': t == 0, 'is_last': last, 'is_terminal': last}


def _filled(schema, rng: np.random.Generator) -> Iterator[tuple[str, Any]]:
    """Every feature with numbers of its type and shape, texts with a word."""
    for name, feature in schema.items():
        if isinstance(feature, tfds.features.FeaturesDict):
            yield name, dict(_filled(feature, rng))
        elif isinstance(feature, tfds.features.Text):
            yield name, 'kitchen'
        elif isinstance(feature, tfds.features.Image):
            yield name, b''
        else:
            values = rng.uniform(-0.2, 0.2, feature.shape)
            yield name, np.asarray(values, feature.np_dtype)
