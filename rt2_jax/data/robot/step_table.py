"""The selected steps of an indexed data set as a table; nothing here reads a picture."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.index.episode_index import EpisodeIndex
from rt2_jax.data.robot.paraphrases import Paraphrases
from rt2_jax.nearest import nearest

INSTRUCTION = 'instruction'


class StepTable:
    """Steps of selected episodes, numbered from 0 in the order of the episodes.

    A step has a *number* in this table and a *row* in the index's arrays, an episode a *position* among
    the selected ones and a number in the data set.

    Args:
        index: the opened index.
        name: of the data set, for error messages.
        episodes: int64, numbers of the selected episodes.
        paraphrases: other words for the instructions of prompts.

    Attributes:
        index: the opened index.
        episodes: int64, numbers of the selected episodes.
    """

    def __init__(
        self,
        index: EpisodeIndex,
        name: str,
        episodes: np.ndarray,
        paraphrases: Paraphrases | None = None,
    ) -> None:
        self.index, self.episodes = index, episodes
        self._name, self._paraphrases = name, paraphrases
        first = np.asarray(index.arrays['episode_first'])
        self._ends = np.cumsum(np.diff(first)[episodes])
        # What is added to a step's number for its row, by position of its episode.
        self._row_offsets = first[1:][episodes] - self._ends

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def rows(self, numbers: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of steps in the index's arrays, and their episodes in the data set, int64 [N].

        Raises:
            IndexError: there is no such step.
        """
        numbers = np.asarray(numbers)
        wrong = (numbers < -len(self)) | (numbers >= len(self))
        if wrong.any():
            raise IndexError(f'step {numbers[wrong][0]} of {len(self)}')
        numbers = numbers % len(self)
        positions = np.searchsorted(self._ends, numbers, side='right')
        return numbers + self._row_offsets[positions], self.episodes[positions]

    def all_rows(self) -> np.ndarray:
        """Rows of all steps in the index's arrays, int64 [len(self)]."""
        lengths = np.diff(self._ends, prepend=0)
        return np.repeat(self._row_offsets, lengths) + np.arange(len(self))

    def row(self, i: int) -> int:
        """The i-th step's row in the index's arrays."""
        return int(self.rows([i])[0][0])

    def episode_index(self, i: int) -> int:
        """The episode, in the whole data set, of the i-th step."""
        return int(self.rows([i])[1][0])

    def episode_steps(self, position: int) -> range:
        """The steps of the episode at this position."""
        before = int(self._ends[position - 1]) if position else 0
        return range(before, int(self._ends[position]))

    def episode_around(self, i: int) -> range:
        """The steps of the episode of the i-th."""
        return self.episode_steps(bisect.bisect_right(self._ends, i))

    def where(self, i: int) -> str:
        """The i-th step's place in the data set, for error messages."""
        row, episode = self.row(i), self.episode_index(i)
        first = int(self.index.arrays['episode_first'][episode])
        return f'step {row - first} of episode {episode}'

    def instruction(self, i: int) -> str:
        """The i-th step's instruction as the data have it."""
        return self.index.texts[int(self.index.arrays[INSTRUCTION][self.row(i)])]

    def wording(self, i: int) -> str:
        """The i-th step's instruction as its prompts have it: paraphrased, or as it is."""
        return self.wordings(self.rows([i])[0])[0]

    def success(self, i: int) -> int:
        """Of the i-th step's episode: 1, 0, or -1 where the data don't say."""
        return int(self.index.arrays['episode_success'][self.episode_index(i)])

    def action(self, i: int) -> np.ndarray:
        """float32 [L], the numbers of the action space."""
        return np.array(self.index.arrays['action'][self.row(i)])

    def raw(self, i: int) -> dict[str, Any]:
        """The i-th step as a flat dict: its place, its instruction and the card's columns.

        Keys: 'episode', 'step' (within the episode), 'success' (1, 0 or -1: unknown),
        'instruction', 'action' float32 [L], and each column under its path.
        """
        return next(self.raws(*self.rows([i])))

    def raws(self, rows: np.ndarray, episodes: np.ndarray) -> Iterator[dict[str, Any]]:
        """As `raw`, for several steps by their rows and episodes, int64 [N]."""
        arrays, texts = self.index.arrays, self.index.texts
        columns = {
            'episode': episodes.tolist(),
            'step': (rows - arrays['episode_first'][episodes]).tolist(),
            'success': arrays['episode_success'][episodes].tolist(),
            'instruction': [texts[number] for number in arrays[INSTRUCTION][rows].tolist()],
            'action': arrays['action'][rows],
        }
        for path, column in self.index.about['columns'].items():
            values = arrays[column['array']][rows]
            columns[path] = (
                [texts[number] for number in values.tolist()] if column['text'] else values
            )
        return (
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        )

    def wordings(self, rows: np.ndarray) -> list[str]:
        """As `wording`, for several steps by their rows, int64 [N]."""
        numbers = self.index.arrays[INSTRUCTION][rows].tolist()
        texts = [self.index.texts[number] for number in numbers]
        if self._paraphrases:
            return list(map(self._paraphrases.draw, texts, rows.tolist()))
        return texts

    def numbers(self, path: str) -> np.ndarray:
        """A column of numbers, of all steps: float [len(self), D].

        Raises:
            DataSetError: the index keeps no such column, or it is one of texts.
        """
        return self._column(path, text=False)[self.all_rows()].reshape(len(self), -1)

    def texts(self, path: str = INSTRUCTION) -> tuple[np.ndarray, list[str]]:
        """A column of texts, or the instructions: the different ones, and which it is of each step.

        Returns:
            int64 [len(self)], and the texts that these numbers stand for.

        Raises:
            DataSetError: the index keeps no such column, or it is one of numbers.
        """
        column = (
            self.index.arrays[INSTRUCTION] if path == INSTRUCTION else self._column(path, text=True)
        )
        # Counted, not sorted: there may be millions of steps.
        which = column[self.all_rows()]
        present = np.flatnonzero(np.bincount(which))
        return np.searchsorted(present, which), [self.index.texts[int(n)] for n in present]

    def require(self, paths: Iterable[str]) -> None:
        """Raises DataSetError if the index keeps no column of one of these paths."""
        for path in paths:
            self._find(path)

    def _column(self, path: str, text: bool) -> np.ndarray:
        column = self._find(path)
        if column['text'] != text:
            raise DataSetError(
                f'{self._name}: column {path!r} holds {"text" if column["text"] else "numbers"}; '
                f'{"text is" if text else "numbers are"} needed here'
            )
        return self.index.arrays[column['array']]

    def _find(self, path: str) -> dict[str, Any]:
        columns = self.index.about['columns']
        if path not in columns:
            raise DataSetError(
                f'{self._name}: the index of {self.index.directory} keeps no column {path!r}'
                f"{nearest(path, columns)} Name it in the card's `columns` to have it kept."
            )
        return columns[path]
