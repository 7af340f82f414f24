"""Opens RLDS robot episodes by way of the byte index, which the first use makes.

source = rlds.open_source('runs/data/tabletop', 'tabletop', frames=2)
source[12345]
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from absl import logging
from etils import epath

from rt2_jax.data import cards, robot_card
from rt2_jax.data.data_config import RobotSet
from rt2_jax.data.index import index_jobs, index_places, rlds_index
from rt2_jax.data.index.episode_index import Index
from rt2_jax.data.readers import tfds_directory, tfrecord
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
    index = open_index(
        robot_set.directory,
        robot_set.card,
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
) -> Index:
    """The index of a data set, built first if there is none.

    Args:
        directory: a TFDS data set in RLDS form, of this machine or remote (see remote).
        card: a robot's card, its name, or a JSON file that holds one.
        split: which split.
        location: the index's folder, of this machine or of a bucket; for the default see
            `index_places.place`.
        indexes: a folder that all processes of a job reach and that all of them give, to make and
            check the index together; None for a process that is alone.
        on_corrupt: 'raise' or 'skip', for unreadable records and pictures alike.

    Raises:
        tfrecord.CorruptRecord: an unreadable record, or an index that leaves some out, with
            on_corrupt='raise'.
        DataSetError: not a whole data set, or one that doesn't fit the card.
    """
    card = cards.find(card) if isinstance(card, str) else card
    directory = tfds_directory.version_folder(directory)
    place = rlds_index.place(directory, card, split, location, indexes)
    settings = {'split': split, 'location': place, 'together': index_places.are_several(indexes)}
    build = functools.partial(rlds_index.build, directory, card, on_corrupt=on_corrupt, **settings)
    index_jobs.ensure(place, directory, build, together=settings['together'])
    index = Index(directory, card, **settings)
    if skipped := index.about['skipped']:
        file, offset, reason = skipped[0]
        if on_corrupt == 'raise':
            raise tfrecord.CorruptRecord(
                index.directory / file,
                offset,
                f'{reason}. It is the first of {len(skipped)} unreadable records that the index at '
                f"{place} leaves out; repair the data and delete the index, or set on_corrupt='skip'.",
            )
        logging.warning(
            '%s: %d unreadable records are left out, the first: %s, byte %d: %s',
            directory,
            len(skipped),
            file,
            offset,
            reason,
        )
    return index
