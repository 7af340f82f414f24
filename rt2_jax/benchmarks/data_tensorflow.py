"""The peer that benchmarks/data.py measures: RLDS episodes through tf.data.

It is built as Octo (octo/data/dataset.py: make_interleaved_dataset), OpenVLA
(prismatic/vla/datasets/rlds/dataset.py, the same function) and their library dlimp
(dlimp/dataset.py: from_rlds, flatten, iterator; dlimp/utils.py: resize_image) build theirs, for one
data set, one frame and no augmentation. Tokens are theirs to make later, so here texts stay texts.

TensorFlow is an extra, in an interpreter of its own if need be: nothing but this and harness.py of
the project is imported.
"""

from __future__ import annotations

import os
import pathlib
import tempfile
import time
from typing import Any

from rt2_jax.benchmarks import harness


def stream(
    directory: str,
    batch_size: int,
    shuffle: int,
    image_size: int = 224,
    method: str = 'lanczos3',
    antialias: bool = True,
) -> harness.Stream:
    """A worker; see harness.py.

    Args:
        directory: the data set, made by benchmarks/kitchen.py.
        batch_size: steps a batch.
        shuffle: steps in the shuffle buffer.
        image_size: side of the frames, pixels; 0 leaves them encoded.
        method: of tf.image.resize; Octo and OpenVLA take 'lanczos3', antialiased.
        antialias: whether resizing filters first.
    """
    import tensorflow as tf
    import tensorflow_datasets  # noqa: F401

    tf.config.set_visible_devices([], 'GPU')
    imported = time.time()

    def decode(step: dict[str, Any]) -> dict[str, Any]:
        image = tf.io.decode_image(step['image'], expand_animations=False, dtype=tf.uint8)
        image = tf.image.resize(image, (image_size,) * 2, method=method, antialias=antialias)
        image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
        return {**step, 'image': image}

    dataset = _steps(directory, shuffle)
    if image_size:
        dataset = dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.autotune.ram_budget = 1 << 30
    dataset = dataset.batch(batch_size).with_options(options).prefetch(tf.data.AUTOTUNE)
    iterator = dataset.as_numpy_iterator()

    def state_bytes() -> int:
        with tempfile.TemporaryDirectory() as folder:
            tf.train.Checkpoint(iterator=iterator).write(os.path.join(folder, 'state'))
            return sum(path.stat().st_size for path in pathlib.Path(folder).iterdir())

    return harness.Stream(
        iterator, lambda batch: batch['instruction'].tolist(), state_bytes, imported
    )


def _steps(directory: str, shuffle: int) -> Any:
    """A tf.data.Dataset of single steps, pictures still encoded, shuffled by a buffer of `shuffle`."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    episodes = tfds.builder_from_directory(directory).as_dataset(
        split='train',
        shuffle_files=True,
        decoders={'steps': tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(
            skip_prefetch=True,
            num_parallel_calls_for_interleave_files=tf.data.AUTOTUNE,
            interleave_cycle_length=tf.data.AUTOTUNE,
        ),
    )
    options = tf.data.Options()
    options.autotune.enabled = True
    options.experimental_optimization.apply_default_optimizations = True
    options.experimental_optimization.map_fusion = True

    def select(episode: dict[str, Any]) -> dict[str, Any]:
        observation, action = episode['steps']['observation'], episode['steps']['action']
        parts = ('world_vector', 'rotation_delta', 'gripper_closedness_action')
        return {
            'image': observation['image'],
            'instruction': observation['natural_language_instruction'],
            'action': tf.concat([action[name] for name in parts], axis=1),
            'timestep': tf.range(tf.shape(observation['image'])[0]),
        }

    return (
        episodes.with_options(options)
        .repeat()
        .map(select, num_parallel_calls=tf.data.AUTOTUNE)
        .interleave(
            tf.data.Dataset.from_tensor_slices,
            cycle_length=tf.data.AUTOTUNE,
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .shuffle(shuffle)
    )
