"""What a data set offers in order to be indexed; the readers of formats implement it."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any, ClassVar, Protocol, Self

from etils import epath
import numpy as np


@dataclasses.dataclass(frozen=True)
class Unit:
    """A stretch of a data set that is indexed in one go.

    Attributes:
        file: number of the file, the first of them where there are several.
        start: first byte of the stretch in the file, or its first episode.
        stop: the byte, or the episode, behind it.
        records: how many the data set declares; 0 if unknown.
    """

    file: int
    start: int
    stop: int
    records: int = 0


@dataclasses.dataclass(frozen=True)
class Part:
    """The columns of one unit, on disk.

    Attributes:
        path: the .npz.
        file: number of the unit's file.
        about: 'framing', 'skipped' (`CorruptRecord.as_json` of each), 'skipped_count', and what
            `Columns.finish` adds.
    """

    path: str
    file: int
    about: Mapping[str, Any]


class Columns(Protocol):
    """The columns of one unit, in the making."""

    def add(self, record: Any) -> None:
        """Appends a record."""

    def finish(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays, and what JSON says of them; 'rows' at least, the number of rows."""


class Indexable(abc.ABC):
    """A data set that can be indexed, in some format.

    Attributes:
        directory: the data set, of this machine or remote.
        rows: what a row of the index is: 'steps' or 'records'.
        parallel_bytes: below this size of the data, starting processes costs more than it saves.
    """

    directory: Any  # epath.PathLike
    rows: ClassVar[str]
    parallel_bytes: ClassVar[int]

    @property
    @abc.abstractmethod
    def index_name(self) -> str:
        """Name of the index among those of the data set."""

    @property
    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """What an index must have been built with; index.json repeats it."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Changes with all that decides, beside the data, what a part holds."""

    def prepare(self) -> Self:
        """Itself, with what indexing alone needs; a DataSetError where the card doesn't fit."""
        return self

    @abc.abstractmethod
    def files(self) -> list[str]:
        """Names of the files that are walked, within the directory."""

    def units(self, sizes: Sequence[int]) -> list[Unit]:
        """What is walked in one go, of files of so many bytes: by default each file."""
        return [Unit(number, 0, size) for number, size in enumerate(sizes)]

    def files_of(self, unit: Unit) -> Sequence[int]:
        """Numbers of the files that a unit's records are read from."""
        return (unit.file,)

    @abc.abstractmethod
    def records(self, path: str, unit: Unit, digest: Any) -> Iterator[Any]:
        """A unit's records in order, a CorruptRecord in the place of each that is damaged.

        Updates the hashlib `digest` as `framing` does.
        """

    @abc.abstractmethod
    def framing(self, path: str, unit: Unit, digest: Any) -> None:
        """Updates a hashlib digest with what a unit holds but for pixels, as cheaply as possible."""

    @abc.abstractmethod
    def columns(self) -> Columns:
        """Columns for the records of one unit."""

    @abc.abstractmethod
    def join(self, parts: Sequence[Part], folder: epath.Path, framing: str) -> dict[str, Any]:
        """Writes the columns of all parts, in order, into the index's folder.

        Args:
            parts: of all units.
            folder: of the index.
            framing: the digests of all units as one.

        Returns:
            The format's share of index.json; 'fingerprint' and 'arrays' at least.
        """


class RobotEpisodes(Indexable):
    """Episodes of a robot, in some format.

    Attributes:
        card: what their features mean.
        split: which split of the data set.
    """

    card: Any  # robot_card.RobotCard
    split: str
    rows = 'steps'
    parallel_bytes = 256 << 20

    @property
    def index_name(self) -> str:
        """One index for each split and card."""
        return f'{self.split}-{self.card.name}-{self.card.fingerprint[:8]}'
