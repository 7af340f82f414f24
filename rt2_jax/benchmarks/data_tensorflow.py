"""The peer that benchmarks/data.py measures: RLDS episodes through tf.data.

It is built as Octo (octo/data/dataset.py: make_interleaved_dataset), OpenVLA
(prismatic/vla/datasets/rlds/dataset.py, the same function) and their library dlimp
(dlimp/dataset.py: from_rlds, flatten, iterator; dlimp/utils.py: resize_image) build theirs, for one
data set, one frame and no augmentation. Tokens are theirs to make later, so here texts stay texts.

TensorFlow is an extra, in an interpreter of its own if need be: nothing but this and turns.py of
the project is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
import os
import pathlib
import tempfile
import time
from typing import Any

from absl import flags

from rt2_jax import command
from rt2_jax.benchmarks import turns

FLAGS = flags.FLAGS


def steps(directory: str, shuffle: int) -> Any:
    """A tf.data.Dataset of single steps, pictures still encoded, shuffled by a buffer of `shuffle`."""
    import tensorflow as tf  # pylint: disable=g-import-not-at-top
    import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top

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

    def kept(episode):
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
        .map(kept, num_parallel_calls=tf.data.AUTOTUNE)
        .interleave(
            tf.data.Dataset.from_tensor_slices,
            cycle_length=tf.data.AUTOTUNE,
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .shuffle(shuffle)
    )


def batches(
    dataset: Any, *, image_size: int, batch_size: int, method: str, antialias: bool
) -> Iterator[dict[str, Any]]:
    """Batches of numpy arrays from `steps`.

    Args:
      dataset: steps.
      image_size: side of the frames, pixels; 0 leaves them encoded.
      batch_size: steps a batch.
      method: of tf.image.resize; Octo and OpenVLA take 'lanczos3', antialiased.
      antialias: whether resizing filters first.
    """
    import tensorflow as tf  # pylint: disable=g-import-not-at-top

    def decoded(step):
        image = tf.io.decode_image(step['image'], expand_animations=False, dtype=tf.uint8)
        image = tf.image.resize(image, (image_size,) * 2, method=method, antialias=antialias)
        image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
        return {**step, 'image': image}

    if image_size:
        dataset = dataset.map(decoded, num_parallel_calls=tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.autotune.ram_budget = 1 << 30
    dataset = dataset.batch(batch_size).with_options(options).prefetch(tf.data.AUTOTUNE)
    return dataset.as_numpy_iterator()


def _state_bytes(iterator: Iterator[Any]) -> int:
    import tensorflow as tf  # pylint: disable=g-import-not-at-top

    with tempfile.TemporaryDirectory() as folder:
        tf.train.Checkpoint(iterator=iterator).write(os.path.join(folder, 'state'))
        return sum(path.stat().st_size for path in pathlib.Path(folder).iterdir())


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('directory', None, 'The data set, made by benchmarks/kitchen.py.')
    flags.DEFINE_integer('batch_size', 256, 'Steps a batch.')
    flags.DEFINE_integer('image_size', 224, 'Side of the frames, pixels; 0: leave them encoded.')
    flags.DEFINE_integer('shuffle', 10_000, 'Steps in the shuffle buffer.')
    flags.DEFINE_string('method', 'lanczos3', 'How to resize.')
    flags.DEFINE_bool('antialias', True, 'Whether resizing filters first.')
    flags.mark_flags_as_required(['directory'])


def main(_: list[str]) -> None:
    import tensorflow as tf  # pylint: disable=g-import-not-at-top
    import tensorflow_datasets  # noqa: F401  pylint: disable=g-import-not-at-top,unused-import

    tf.config.set_visible_devices([], 'GPU')
    imported = time.time()
    iterator = batches(
        steps(FLAGS.directory, FLAGS.shuffle),
        image_size=FLAGS.image_size,
        batch_size=FLAGS.batch_size,
        method=FLAGS.method,
        antialias=FLAGS.antialias,
    )
    turns.serve(
        iterator,
        labels=lambda batch: batch['instruction'].tolist(),
        state_bytes=lambda: _state_bytes(iterator),
        imported=imported,
    )


if __name__ == '__main__':
    define_flags()
    command.run('data_tensorflow', main)
