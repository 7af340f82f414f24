"""The index of a web set, opened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from etils import epath
import numpy as np

from rt2_jax.data import files, holdouts
from rt2_jax.data.index.opened_index import OpenedIndex
from rt2_jax.data.readers.web_format import WebFormat
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


class WebTable(OpenedIndex):
    """Records of a web set; see web_columns for the arrays, OpenedIndex for the rest.

    Attributes:
        languages: the set's languages, by the numbers that arrays hold.
        folder: where pictures are that have files of their own; else ''.
    """

    def __init__(
        self, dataset: WebFormat, location: epath.PathLike | None = None, *, together: bool = False
    ) -> None:
        super().__init__(dataset, location, together=together)
        self.languages: list[str] = self.about['languages']
        self.folder = dataset.folder

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
        """The language of a record's texts."""
        return self.languages[int(self.arrays['language'][row])]

    def place(self, row: int) -> Place:
        """Where a picture lies."""
        own = self.texts('path', row)
        return Place(
            None if own else int(self.arrays['picture_file'][row]),
            files.within(self.folder, own[0]) if own else '',
            int(self.arrays['picture_offset'][row]),
            int(self.arrays['picture_length'][row]),
            int(self.arrays['picture_checksum'][row]),
        )

    def holds(self, row: int, fields: Sequence[str]) -> bool:
        """Whether a record has text in all of the fields."""
        return all((int(self.arrays['holds'][row]) >> TEXTS.index(f)) & 1 for f in fields)

    def holding(self, *fields: str, rows: slice = slice(None)) -> np.ndarray:
        """Which records have text in all of the fields, bool [records]."""
        bits = sum(1 << TEXTS.index(field) for field in fields)
        return (self.arrays['holds'][rows] & bits) == bits

    def pictures(self, rows: slice | np.ndarray) -> np.ndarray:
        """What the pictures of records are known by, uint64 [rows]: their lengths and checksums."""
        lengths = self.arrays['picture_length'][rows].astype(np.uint64)
        return holdouts.mixed((lengths << np.uint64(32)) + self.arrays['picture_checksum'][rows])
