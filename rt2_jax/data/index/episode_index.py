"""A byte index, opened; rlds_index builds it and says what it holds."""

import bisect
from collections.abc import Sequence
import json
from typing import Any

from absl import logging
from etils import epath
import numpy as np

from rt2_jax.data import files, robot_card
from rt2_jax.data.errors import IndexMismatch
from rt2_jax.data.index import index_arrays, index_jobs, index_places, rlds_index
from rt2_jax.data.readers import tfds_directory


class Texts(Sequence):
    """The index's distinct texts, decoded one at a time.

    Args:
      run: uint8 [bytes], the texts' UTF-8 one behind another.
      ends: int64 [texts], where each ends.
    """

    def __init__(self, run: np.ndarray, ends: np.ndarray):
        self._run, self._ends = run, ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < len(self._ends):
            raise IndexError(f'text {i} of {len(self)}')
        start = int(self._ends[i - 1]) if i else 0
        return self._run[start : int(self._ends[i])].tobytes().decode()


class Index:
    """An opened byte index; arrays are memory-mapped, see rlds_index for what they hold.

    Args:
      directory: the data set.
      card: the embodiment's card.
      split: which split.
      location: the index's folder, see `rlds_index.place`.
      together: whether all processes of a job open it at once; one of them then checks a remote set.

    Raises:
      FileNotFoundError: no index there.
      IndexMismatch: the index isn't this data's, this card's, or this version's.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        card: robot_card.RobotCard,
        *,
        split: str = 'train',
        location: epath.PathLike | None = None,
        together: bool = False,
    ):
        self.directory = files.path(directory)
        self.card = card
        self.location = rlds_index.place(directory, card, split, location)
        if not index_places.exists(self.location):
            raise FileNotFoundError(
                f'no index at {self.location}; build it with rt2_jax.data.index.rlds_index.build'
            )
        folder = index_places.on_this_machine(self.location)
        path = folder / index_places.ABOUT
        try:
            self.about: dict[str, Any] = json.loads(path.read_text())
        except ValueError as error:
            raise IndexMismatch(
                f'{path} is damaged ({error}). Delete {self.location} and index again.'
            ) from error
        self.files = [self.directory / file['name'] for file in self.about['files']]
        self.stamps = index_jobs.checked(lambda: self._check(split), self.directory, together)
        self.fingerprint: str = self.about['fingerprint']
        self.arrays = index_arrays.mapped(folder, self.about['arrays'])
        self.texts = Texts(self.arrays['text'], self.arrays['text_end'])

    @property
    def episodes(self) -> int:
        return self.about['episodes']

    @property
    def steps(self) -> int:
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

    def verify(self) -> None:
        """Reads all of the index and compares its checksums; as long as reading it takes.

        Raises:
          IndexMismatch: naming the damaged file.
        """
        index_arrays.verify(self.location, self.about['arrays'], self.arrays, self._remedy)

    @property
    def _remedy(self) -> str:
        return f'Delete {self.location} and index again (rt2_jax.data.index.rlds_index.build).'

    def _check(self, split: str) -> list[dict[str, Any]]:
        """Compares the data with the index; returns the stamps of the shards as of now."""
        remedy = self._remedy
        expected = {
            'format': rlds_index.FORMAT,
            'card': self.card.name,
            'card_fingerprint': self.card.fingerprint,
            'split': split,
        }
        for name, value in expected.items():
            if self.about.get(name) != value:
                raise IndexMismatch(
                    f'the index at {self.location} was built with {name} {self.about.get(name)!r}, '
                    f'but {value!r} is wanted. {remedy}'
                )
        present = tfds_directory.shard_names(self.directory, split)
        indexed = [file['name'] for file in self.about['files']]
        if present != indexed:
            raise IndexMismatch(
                f'the index at {self.location} covers {len(indexed)} shards, the data at '
                f'{self.directory} have {len(present)}. {remedy}'
            )
        touched = False
        stamps = files.stamps(self.files)
        for file, stamp in zip(self.about['files'], stamps, strict=True):
            if stamp['size'] != file['size']:
                raise IndexMismatch(
                    f'{self.directory / file["name"]} has {stamp["size"]} bytes; the index at '
                    f'{self.location} was built when it had {file["size"]}. {remedy}'
                )
            touched |= {'name': file['name'], **stamp} != file
        if touched:
            self._check_content(remedy)
        return stamps

    def _check_content(self, remedy: str) -> None:
        # Copying changes times but not content, and the records' own checksums tell the two apart.
        names = [file['name'] for file in self.about['files']]
        prints = [rlds_index.framing_fingerprint(self.directory / name) for name in names]
        if index_jobs.combined(prints) != self.about['fingerprint']:
            raise IndexMismatch(
                f'the data at {self.directory} have changed since the index at {self.location} was '
                f'built: same sizes, other records. {remedy}'
            )
        logging.info('%s: other times than when indexed, same records', self.directory)
