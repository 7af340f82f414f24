"""Which of a data set's episodes a source shows."""

from __future__ import annotations

from absl import logging
import numpy as np

from rt2_jax.data import views
from rt2_jax.data.data_config import RobotSet
from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.index.episode_index import EpisodeIndex
from rt2_jax.data.robot import episode_splits
from rt2_jax.nearest import check

MISSING_INSTRUCTIONS = ('drop', 'raise')


def choose(index: EpisodeIndex, settings: RobotSet, part: str = 'train') -> tuple[np.ndarray, int]:
    """Selects the episodes that a set's settings ask for.

    With missing_instructions='drop', episodes with a step that has no instruction are left out; with
    on_corrupt='skip', those with a step that has no picture of a camera shown. Both are logged.

    Args:
        index: of the whole set.
        settings: of the set; see RobotSet.
        part: 'train' or 'validation' (see splits).

    Returns:
        Numbers of the episodes, int64 [N], and how many were left out for want of an instruction.

    Raises:
        DataSetError: the data don't say what a setting needs, or too few episodes are left.
    """
    check('missing_instructions', settings.missing_instructions, MISSING_INSTRUCTIONS)
    check('part', part, episode_splits.PARTS)
    chosen, unlabelled = _labelled(index, settings.missing_instructions)
    for camera in views.shown(index.card, settings):
        chosen = _seen(index, chosen, camera, settings.on_corrupt)
    if settings.holdout:
        chosen = chosen[np.isin(chosen, episode_splits.part_of(index, settings.holdout, part))]
    if settings.success_only:
        chosen = chosen[_success(index)[chosen] == 1]
    if settings.episodes is not None:
        if not 0 < settings.episodes <= len(chosen):
            raise DataSetError(
                f'{index.directory} has {len(chosen)} episodes to choose from'
                f'{" (successful ones)" if settings.success_only else ""}; {settings.episodes} are '
                'asked for (None takes all)'
            )
        chosen = chosen[: settings.episodes]
    return chosen, unlabelled


def _labelled(index: EpisodeIndex, missing_instructions: str) -> tuple[np.ndarray, int]:
    """Episodes that have steps, all of them with an instruction; and how many had not."""
    unlabelled = np.asarray(index.arrays['episode_unlabelled']) > 0
    count = int(unlabelled.sum())
    if count and missing_instructions == 'raise':
        raise DataSetError(
            f'{index.directory}: {count} of {index.episodes} episodes have steps without an '
            f'instruction, first episode {int(np.argmax(unlabelled))}; '
            "missing_instructions='drop' leaves them out"
        )
    if count:
        logging.warning(
            '%s: %d of %d episodes have steps without an instruction and are left out',
            index.directory,
            count,
            index.episodes,
        )
    lengths = np.diff(index.arrays['episode_first'])
    return np.flatnonzero((lengths > 0) & ~unlabelled), count


def _seen(index: EpisodeIndex, chosen: np.ndarray, camera: int, on_corrupt: str) -> np.ndarray:
    """Those of the chosen episodes whose steps all have a picture of the camera."""
    if not index.without_picture(camera):
        return chosen
    first, path = index.arrays['episode_first'], index.card.images[camera]
    rows = np.flatnonzero(index.arrays['image_length'][:, camera] == 0)
    blind = np.unique(np.searchsorted(first, rows, side='right') - 1)
    row, episode = int(rows[0]), int(blind[0])
    problem = (
        f'{index.directory}: {len(rows)} of {index.steps} steps, in {len(blind)} of {index.episodes} '
        f'episodes, have no picture of the camera {path!r}, first step {row - int(first[episode])} of '
        f'episode {episode}'
    )
    if on_corrupt == 'raise' or len(blind) == index.episodes:
        others = [
            f'{number} ({other})'
            for number, other in enumerate(index.card.images)
            if not index.without_picture(number)
        ]
        raise DataSetError(
            f"{problem}; set on_corrupt='skip' to leave those episodes out, or another camera"
            f'{": " + ", ".join(others) if others else ""}'
        )
    logging.warning('%s; those episodes are left out', problem)
    return np.setdiff1d(chosen, blind)


def _success(index: EpisodeIndex) -> np.ndarray:
    success = np.asarray(index.arrays['episode_success'])
    if (success < 0).any():
        raise DataSetError(
            f"{index.directory} doesn't say which episodes succeeded (the card {index.card.name!r} "
            "names no such feature), so they can't be selected; set success_only=False"
        )
    return success
