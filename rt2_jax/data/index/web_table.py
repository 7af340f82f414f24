"""A web set's index, opened; index builds it and says what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import logging
from etils import epath
import numpy as np

from rt2_jax import records
from rt2_jax.data import files, holdouts
from rt2_jax.data.errors import IndexMismatch
from rt2_jax.data.index import index_arrays, index_jobs, index_places, web_index
from rt2_jax.data.readers import jsonl
from rt2_jax.data.readers.web_records import Format
from rt2_jax.data.web.web_cards import TEXTS


class Place(NamedTuple):
    """Where a picture lies.

    Attributes:
      file: number of the file that it is a part of; None where it has one of its own.
      path: of its own file.
      offset: first byte.
      length: number of bytes.
      checksum: CRC-32C of them.
    """

    file: int | None
    path: str
    offset: int
    length: int
    checksum: int


class WebTable:
    """Records of an indexed web set; arrays are memory-mapped, see index for what they hold.

    Args:
      dataset: the set.
      location: the index's folder, see `index.place`.
      together: whether all processes of a job open it at once; one of them then checks a remote set.

    Attributes:
      location: the index's folder.
      local: the folder of this machine that it is mapped from.

    Raises:
      FileNotFoundError: no index there.
      IndexMismatch: the index isn't this set's, this card's, or this version's.
    """

    def __init__(
        self, dataset: Format, location: epath.PathLike | None = None, *, together: bool = False
    ):
        self.location = web_index.place(dataset, location)
        if not index_places.exists(self.location):
            raise FileNotFoundError(
                f'no index at {self.location}; build it with rt2_jax.data.index.web_index.build'
            )
        self.directory = dataset.directory
        self.local = index_places.on_this_machine(self.location)
        self.about = records.read(self.local / index_places.ABOUT, IndexMismatch)
        self.stamps = index_jobs.checked(lambda: self._check(dataset), dataset.directory, together)
        self.fingerprint: str = self.about['fingerprint']
        self.languages: list[str] = self.about['languages']
        folder = files.path(self.directory)
        self.files = [folder / file['name'] for file in self.about['files']]
        self.folder = dataset.folder
        self.arrays = index_arrays.mapped(self.local, self.about['arrays'])

    def __len__(self) -> int:
        return self.about['records']

    def texts(self, field: str, row: int) -> list[str]:
        """The texts of a field of a record, in the set's order."""
        first = self.arrays.get(f'{field}_first')
        if first is None:
            return []
        begin, stop = int(first[row]), int(first[row + 1])
        ends = self.arrays[f'{field}_end'][begin : stop + 1].tolist()
        blob = self.arrays[field]
        return [bytes(blob[a:b]).decode() for a, b in zip(ends, ends[1:])]

    def boxes(self, row: int) -> np.ndarray:
        """float32 [labels, 4]: top, left, bottom, right, fractions of the picture's sides."""
        if 'box' not in self.arrays:
            return np.zeros([0, 4], np.float32)
        first = self.arrays['label_first']
        return np.array(self.arrays['box'][int(first[row]) : int(first[row + 1])])

    def language(self, row: int) -> str:
        return self.languages[int(self.arrays['language'][row])]

    def place(self, row: int) -> Place:
        """Where a picture lies."""
        own = self.texts('path', row)
        return Place(
            None if own else int(self.arrays['picture_file'][row]),
            jsonl.within(self.folder, own[0]) if own else '',
            int(self.arrays['picture_offset'][row]),
            int(self.arrays['picture_length'][row]),
            int(self.arrays['picture_checksum'][row]),
        )

    def holds(self, row: int, fields: Sequence[str]) -> bool:
        """Whether a record has text in all of the fields."""
        return all((int(self.arrays['holds'][row]) >> TEXTS.index(f)) & 1 for f in fields)

    def holding(self, *fields: str, rows: slice = slice(None)) -> np.ndarray:
        """bool [records]: which have text in all of the fields."""
        bits = sum(1 << TEXTS.index(field) for field in fields)
        return (self.arrays['holds'][rows] & bits) == bits

    def pictures(self, rows: slice | np.ndarray) -> np.ndarray:
        """What the pictures of records are known by, uint64 [rows]: their lengths and checksums."""
        lengths = self.arrays['picture_length'][rows].astype(np.uint64)
        return holdouts.mixed((lengths << np.uint64(32)) + self.arrays['picture_checksum'][rows])

    def verify(self) -> None:
        """Reads all of the index and compares its checksums; as long as reading it takes.

        Raises:
          IndexMismatch: naming the damaged file.
        """
        index_arrays.verify(self.location, self.about['arrays'], self.arrays, self._remedy)

    @property
    def _remedy(self) -> str:
        return f'Delete {self.location} and index again (rt2_jax.data.index.web_index.build).'

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the files itself.
        return {**self.__dict__, 'arrays': None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.arrays = index_arrays.mapped(self.local, self.about['arrays'])

    def _check(self, dataset: Format) -> list[dict[str, Any]]:
        """Compares the data with the index; returns the stamps of the files as of now."""
        remedy = self._remedy
        expected = {'format': web_index.FORMAT, 'dataset': dataset.fingerprint}
        for name, value in expected.items():
            if self.about.get(name) != value:
                raise IndexMismatch(
                    f'the index at {self.location} was built with {name} {self.about.get(name)!r}, '
                    f'but {value!r} is wanted. {remedy}'
                )
        then, now = self.about['files'], web_index.stamps(dataset)
        if [file['name'] for file in then] != [file['name'] for file in now]:
            raise IndexMismatch(
                f'the index at {self.location} covers {len(then)} files, {self.directory} has '
                f'{len(now)}, or others. {remedy}'
            )
        for old, new in zip(then, now, strict=True):
            if old['size'] != new['size']:
                raise IndexMismatch(
                    f'{self.directory}/{new["name"]} has {new["size"]} bytes; the index '
                    f'at {self.location} was built when it had {old["size"]}. {remedy}'
                )
        if then != now:
            # Copying changes times but not content.
            if web_index.recheck(dataset, now) != self.about['framing']:
                raise IndexMismatch(
                    f'{self.directory} has changed since the index at {self.location} was built: '
                    f'same sizes, other records. {remedy}'
                )
            logging.info('%s: other times than when indexed, same records', self.directory)
        return now
