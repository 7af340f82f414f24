"""The index of robot episodes, opened."""

from __future__ import annotations

import bisect
from collections.abc import Iterator

from etils import epath
import numpy as np

from rt2_jax.data.index.indexable import RobotEpisodes
from rt2_jax.data.index.opened_index import OpenedIndex


class Texts:
    """The index's distinct texts, decoded when they are looked up.

    Args:
        run: uint8 [bytes], the texts' UTF-8 one behind another.
        ends: int64 [texts], where each ends.
    """

    def __init__(self, run: np.ndarray, ends: np.ndarray) -> None:
        self._run, self._ends = run, ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < len(self._ends):
            raise IndexError(f'text {i} of {len(self)}')
        start = int(self._ends[i - 1]) if i else 0
        return self._run[start : int(self._ends[i])].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


class EpisodeIndex(OpenedIndex):
    """Episodes and their steps; see episode_columns for the arrays, OpenedIndex for the rest.

    Attributes:
        card: of the robot.
        texts: instructions and texts of columns, by the rows that arrays hold.
    """

    def __init__(
        self,
        dataset: RobotEpisodes,
        location: epath.PathLike | None = None,
        *,
        together: bool = False,
    ) -> None:
        super().__init__(dataset, location, together=together)
        self.card = dataset.card

    def _map(self) -> None:
        super()._map()
        self.texts = Texts(self.arrays['text'], self.arrays['text_end'])

    @property
    def episodes(self) -> int:
        """The number of episodes."""
        return self.about['episodes']

    @property
    def steps(self) -> int:
        """The number of steps."""
        return self.about['steps']

    def episode_of(self, step: int) -> int:
        """The episode that a step belongs to."""
        return bisect.bisect_right(self.arrays['episode_first'], step) - 1

    @property
    def statistics(self) -> dict[str, dict[str, float]]:
        """Of each action dimension: 'min', 'max', 'mean', 'std', 'q01' and 'q99'."""
        return self.about['statistics']

    def without_picture(self, camera: int) -> int:
        """How many steps have no picture of one of the card's cameras."""
        # Older indexes were built only where all had one.
        return self.about.get('without_picture', [0] * len(self.card.images))[camera]
