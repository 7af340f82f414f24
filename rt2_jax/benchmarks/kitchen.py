"""Made-up data sets of any size in the schema of RT-1's kitchen data, for measuring and for tests.

Frames are 256x320 JPEGs of quality 95 with halved colour, as TFDS encodes them, of about 25 kB, as
RT-1's. A few hundred are drawn and dealt out to the steps. The instruction holds the episode's
number, so that whoever reads a batch can count the episodes in it.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
from typing import Any

from etils import epath
import numpy as np
import simplejpeg
import tensorflow_datasets as tfds

from rt2_jax.data import cards
from rt2_jax.data.robot import rlds_writer
from rt2_jax.data.web import compose, pictures as picture_lib

NAME = 'fractal20220817_data'
VERSION = '0.1.0'
HEIGHT, WIDTH = 256, 320

# About as many as a shard of RT-1's data holds.
EPISODES_A_SHARD = 100

CARD = cards.find(NAME)


def spec() -> tuple[dict[str, Any], dict[str, Any]]:
    """Features of a step and of an episode of `fractal20220817_data` in the TFDS catalogue."""
    steps, episode = small_spec(HEIGHT, WIDTH)
    steps['observation'] |= {
        name: _floats(*shape)
        for name, shape in {
            'natural_language_embedding': (512,),
            'base_pose_tool_reached': (7,),
            'gripper_closed': (1,),
            'gripper_closedness_commanded': (1,),
            'height_to_bottom': (1,),
            'orientation_box': (2, 3),
            'orientation_start': (4,),
            'robot_orientation_positions_box': (3, 3),
            'rotation_delta_to_go': (3,),
            'src_rotation': (4,),
            'vector_to_go': (3,),
            'workspace_bounds': (3, 3),
        }.items()
    }
    steps['action'] |= {
        'base_displacement_vector': _floats(2),
        'base_displacement_vertical_rotation': _floats(1),
    }
    steps['reward'] = tfds.features.Scalar(dtype=np.float32)
    episode['aspects'] |= _flags('already_success', 'feasible', 'has_aspects', 'undesirable')
    names = 'collection_mode', 'data_type', 'env', 'location', 'objects_family', 'task_family'
    episode['attributes'] = {name: tfds.features.Scalar(dtype=np.int64) for name in names}
    episode['attributes'] |= {f'{name}_name': tfds.features.Text() for name in names}
    return steps, episode


def small_spec(height: int, width: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """As `spec`, with pictures of another size and little beside what the card names."""
    f = tfds.features
    steps = {
        'observation': {
            'image': f.Image(shape=(height, width, 3), encoding_format='jpeg'),
            'natural_language_instruction': f.Text(),
        },
        'action': {
            'world_vector': _floats(3),
            'rotation_delta': _floats(3),
            'gripper_closedness_action': _floats(1),
            'terminate_episode': f.Tensor(shape=(3,), dtype=np.int32),
        },
        **_flags('is_first', 'is_last', 'is_terminal'),
    }
    return steps, {'aspects': _flags('success')}


def _floats(*shape: int) -> tfds.features.Tensor:
    return tfds.features.Tensor(shape=shape, dtype=np.float32)


def _flags(*names: str) -> dict[str, Any]:
    return {name: tfds.features.Scalar(dtype=np.bool_) for name in names}


def frames(number: int, seed: int = 0) -> list[bytes]:
    """`number` different JPEGs."""
    rng = np.random.default_rng(seed)
    return [_frame(rng) for _ in range(number)]


def _frame(rng: np.random.Generator) -> bytes:
    canvas = np.ascontiguousarray(compose.background(rng, WIDTH))
    catalogue = picture_lib.catalogue()
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


def write(
    directory: epath.PathLike,
    *,
    episodes: int,
    pictures: Sequence[bytes],
    steps: int = 30,
    spread: bool = True,
    features: tuple[dict[str, Any], dict[str, Any]] | None = None,
    links: int = 1,
    seed: int = 0,
) -> None:
    """Writes a data set, unless it is there; one that was interrupted goes on where it was.

    Args:
        directory: its folder.
        episodes: how many.
        pictures: encoded, each the frame of many steps.
        steps: steps an episode.
        spread: whether lengths vary, from half of `steps` to one and a half.
        features: of a step and of an episode; `spec()` by default.
        links: names under which each shard appears (hard links), so that a set is this many times as
            large as its files.
        seed: of everything.
    """
    directory = epath.Path(directory)
    if (directory / rlds_writer.DATASET_INFO_JSON).exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
    step, episode = features or spec()
    schema = rlds_writer.features_dict({'steps': step, **episode})
    encode = rlds_writer.EpisodeEncoder(schema)
    parts = np.array_split(np.arange(episodes), -(-episodes // EPISODES_A_SHARD))
    for shard, numbers in enumerate(parts):
        names = [
            directory / rlds_writer.shard_name(NAME, 'train', copy, links * len(parts))
            for copy in range(shard, links * len(parts), len(parts))
        ]
        if not names[0].exists():
            made = (_episode(int(n), steps, spread, pictures, schema, seed) for n in numbers)
            rlds_writer.write_shard(names[0], map(encode, made))
        for name in names[1:]:
            if not name.exists():
                os.link(names[0], name)
    rlds_writer.finish(
        directory,
        schema,
        name=NAME,
        version=VERSION,
        description='Made up: for measuring.',
        shard_lengths=[len(numbers) for numbers in parts] * links,
    )


def _episode(
    number: int,
    steps: int,
    spread: bool,
    pictures: Sequence[bytes],
    schema: tfds.features.FeaturesDict,
    seed: int,
) -> dict[str, Any]:
    rng = np.random.default_rng([seed, number])
    length = int(rng.integers(steps // 2, steps + steps // 2 + 1)) if spread else steps
    episode = {key: fill(schema[key], rng) for key in schema if key != 'steps'}
    episode['steps'] = []
    for t in range(length):
        last = t == length - 1
        step = fill(schema['steps'].feature, rng)
        step['observation']['image'] = pictures[int(rng.integers(len(pictures)))]
        step['observation']['natural_language_instruction'] = f'pick thing {number}'
        step['action']['terminate_episode'] = np.array([last, not last, 0], np.int32)
        step |= {'is_first': t == 0, 'is_last': last, 'is_terminal': last}
        episode['steps'].append(step)
    return episode


def fill(feature: Any, rng: np.random.Generator) -> Any:
    """Random content of a feature's type and shape; of a FeaturesDict, nested dicts."""
    f = tfds.features
    if isinstance(feature, f.FeaturesDict):
        return {key: fill(feature[key], rng) for key in feature}
    if isinstance(feature, f.Image):
        height, width, _ = feature.shape
        return np.repeat(rng.integers(0, 255, [height, 1, 3], np.uint8), width, axis=1)
    if feature.np_dtype in (np.str_, object):
        return f'text {rng.integers(100)}'
    if feature.np_dtype == np.bool_:
        return bool(rng.integers(2))
    if np.issubdtype(feature.np_dtype, np.integer):
        return np.asarray(rng.integers(0, 9, feature.shape), feature.np_dtype)
    return np.asarray(rng.uniform(-0.05, 0.05, feature.shape), np.float32)
