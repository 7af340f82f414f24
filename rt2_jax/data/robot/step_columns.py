"""Whole columns of a StepSource: one value for each of its steps, without reading a picture."""

from collections.abc import Iterable

import numpy as np

from rt2_jax.data.errors import DataSetError
from rt2_jax.data.robot.rlds import StepSource
from rt2_jax.nearest import nearest

INSTRUCTION = 'instruction'


def rows(steps: StepSource) -> np.ndarray:
    """Rows of the selected steps in the index's arrays, int64 [len(steps)]."""
    first = np.asarray(steps.index.arrays['episode_first'])
    starts, lengths = first[steps.episodes], np.diff(first)[steps.episodes]
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def numbers(steps: StepSource, path: str) -> np.ndarray:
    """A column of numbers, float [len(steps), D].

    Raises:
      DataSetError: the index keeps no such column, or it is one of texts.
    """
    column = _column(steps, path, text=False)
    return column[rows(steps)].reshape(len(steps), -1)


def texts(steps: StepSource, path: str = INSTRUCTION) -> tuple[np.ndarray, list[str]]:
    """A column of texts, or the instructions: the different ones, and which it is of each step.

    Returns:
      int64 [len(steps)], and the texts that these numbers stand for.

    Raises:
      DataSetError: the index keeps no such column, or it is one of numbers.
    """
    column = (
        steps.index.arrays[INSTRUCTION] if path == INSTRUCTION else _column(steps, path, text=True)
    )
    # Counted, not sorted: there may be millions of steps.
    which = column[rows(steps)]
    present = np.flatnonzero(np.bincount(which))
    return np.searchsorted(present, which), [steps.index.texts[int(number)] for number in present]


def require(steps: StepSource, paths: Iterable[str]) -> None:
    """Raises DataSetError if the index keeps no column of one of these paths."""
    for path in paths:
        _find(steps, path)


def _column(steps: StepSource, path: str, text: bool) -> np.ndarray:
    column = _find(steps, path)
    if column['text'] != text:
        raise DataSetError(
            f'{steps.name}: column {path!r} holds {"text" if column["text"] else "numbers"}; '
            f'{"text is" if text else "numbers are"} needed here'
        )
    return steps.index.arrays[column['array']]


def _find(steps: StepSource, path: str) -> dict:
    columns = steps.index.about['columns']
    if path not in columns:
        raise DataSetError(
            f'{steps.name}: the index of {steps.index.directory} keeps no column {path!r}'
            f"{nearest(path, columns)} Name it in the card's `columns` to have it kept."
        )
    return columns[path]
