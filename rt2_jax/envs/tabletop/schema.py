"""The TFDS schema of tabletop episodes: RLDS, laid out as RT-1's kitchen data are."""

from __future__ import annotations

import numpy as np
import tensorflow_datasets as tfds

from rt2_jax.data.robot import rlds_writer

NAME = 'tabletop'
VERSION = '0.2.0'
DESCRIPTION = (
    'Scripted episodes of the rt2_jax tabletop: tiles with OpenMoji pictures (CC BY-SA 4.0) that a '
    'floating two-finger gripper picks, pushes and turns, with some noise in the execution.'
)
TILES = 4  # rows of object_pixels; absent tiles are NaN


def features(image_size: int) -> tfds.features.FeaturesDict:
    """The schema for frames of `image_size` pixels; metres, radians, pixels in [0, 1] of the frame."""
    f = tfds.features

    def floats(*shape: int) -> tfds.features.Tensor:
        return f.Tensor(shape=shape, dtype=np.float32)

    def flag() -> tfds.features.Scalar:
        return f.Scalar(dtype=np.bool_)

    return rlds_writer.features_dict(
        {
            'steps': {
                'observation': {
                    'image': f.Image(shape=(image_size, image_size, 3), encoding_format='jpeg'),
                    'natural_language_instruction': f.Text(),
                    'gripper_xyz': floats(3),
                    'gripper_yaw': f.Scalar(dtype=np.float32),
                    'gripper_pixel': floats(2),
                    'gripper_opening': f.Scalar(dtype=np.float32),  # of the widest, 0 to 1
                    'object_names': f.Text(),
                    'object_pixels': floats(TILES, 2),
                },
                'action': {
                    'world_vector': floats(3),
                    'rotation_delta': floats(3),
                    'gripper_closedness_action': floats(1),
                    'terminate_episode': f.Tensor(shape=(1,), dtype=np.int32),
                },
                'reward': f.Scalar(dtype=np.float32),
                'discount': f.Scalar(dtype=np.float32),
                'is_first': flag(),
                'is_last': flag(),
                'is_terminal': flag(),
            },
            'episode_metadata': {
                'success': flag(),
                'task': f.Text(),
                'suite': f.Text(),
                'seed': f.Scalar(dtype=np.int64),
                'objects': f.Sequence(f.Text()),
            },
        }
    )
