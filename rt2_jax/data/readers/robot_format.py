"""The format of a robot data set, by what its folder holds."""

from __future__ import annotations

from etils import epath

from rt2_jax.data import robot_card
from rt2_jax.data.index.indexable import RobotEpisodes
from rt2_jax.data.readers import lerobot_directory, tfds_directory
from rt2_jax.data.readers.lerobot_episodes import LeRobot
from rt2_jax.data.readers.rlds_episodes import Rlds


def opened(
    directory: epath.PathLike, card: robot_card.RobotCard, split: str = 'train'
) -> RobotEpisodes:
    """The reader of a data set: LeRobot's where there is a meta/info.json, else RLDS'.

    Args:
        directory: the data set, of this machine or remote; of RLDS, the folder above its one version
            will do.
        card: what its features mean.
        split: which split.

    Raises:
        DataSetError: it has several versions.
    """
    if lerobot_directory.is_lerobot(directory):
        return LeRobot(directory, card, split)
    return Rlds(tfds_directory.version_folder(directory), card, split)
