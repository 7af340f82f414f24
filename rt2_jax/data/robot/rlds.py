"""Opens robot episodes, of RLDS or LeRobot, by way of the byte index, which the first use makes.

source = rlds.open_source('runs/data/tabletop', 'tabletop', frames=2)
source[12345]
"""

from __future__ import annotations

import dataclasses
from typing import Any

from etils import epath

from rt2_jax.data import cards, robot_card
from rt2_jax.data.data_config import RobotSet
from rt2_jax.data.index import opened_index
from rt2_jax.data.index.episode_index import EpisodeIndex
from rt2_jax.data.readers import robot_format
from rt2_jax.data.robot.paraphrases import Paraphrases
from rt2_jax.data.robot.step_source import StepSource
from rt2_jax.nearest import check_fields


def open_source(
    directory: epath.PathLike,
    card: str | robot_card.RobotCard,
    *,
    part: str = 'train',
    indexes: epath.PathLike | None = None,
    **fields: Any,
) -> StepSource:
    """The steps of a data set: `open_set` of the RobotSet with these fields.

    Raises:
        ValueError: a field that RobotSet doesn't have, with the nearest valid one.
    """
    names = [field.name for field in dataclasses.fields(RobotSet)]
    fields = check_fields('RobotSet', fields, names)
    return open_set(RobotSet(directory=str(directory), card=card, **fields), part, indexes)


def open_set(
    robot_set: RobotSet, part: str = 'train', indexes: epath.PathLike | None = None
) -> StepSource:
    """The steps of a data set.

    Args:
        robot_set: the set, and which of its steps.
        part: 'train' for the episodes that aren't held out, 'validation' for those that are.
        indexes: as for `open_index`.

    Raises:
        Exception: as `open_index`, `Paraphrases.read` and StepSource.
    """
    paraphrases = None
    if robot_set.paraphrases:
        paraphrases = Paraphrases.read(robot_set.paraphrases, robot_set.paraphrase_keep)
    card = robot_set.card
    card = cards.find(card) if isinstance(card, str) else card
    index = open_index(
        robot_set.directory,
        card if robot_set.state else card.without_state(),
        split=robot_set.split,
        location=robot_set.location,
        indexes=indexes,
        on_corrupt=robot_set.on_corrupt,
    )
    source = StepSource(index, robot_set, part=part, paraphrases=paraphrases)
    if paraphrases:
        paraphrases.check(source.table.texts()[1], f'{source.name}, {robot_set.paraphrases}')
    return source


def open_index(
    directory: epath.PathLike,
    card: str | robot_card.RobotCard,
    *,
    split: str = 'train',
    location: epath.PathLike | None = None,
    indexes: epath.PathLike | None = None,
    on_corrupt: str = 'raise',
) -> EpisodeIndex:
    """The index of a data set, built first if there is none.

    Args:
        directory: a TFDS data set in RLDS form, or a LeRobot data set, of this machine or remote (see
            remote).
        card: a robot's card, its name, or a JSON file that holds one.
        split: which split.
        location: the index's folder, of this machine or of a bucket; for the default see
            `index_places.place`.
        indexes: a folder that all processes of a job reach and that all of them give, to make and
            check the index together; None for a process that is alone.
        on_corrupt: 'raise' or 'skip', for unreadable records and pictures alike.

    Raises:
        CorruptRecord: an unreadable record, or an index that leaves some out, with
            on_corrupt='raise'.
        DataSetError: not a whole data set, or one that doesn't fit the card.
    """
    card = cards.find(card) if isinstance(card, str) else card
    return opened_index.open_index(
        EpisodeIndex,
        robot_format.opened(directory, card, split),
        location=location,
        indexes=indexes,
        on_corrupt=on_corrupt,
    )
