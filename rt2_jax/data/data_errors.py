"""What can be wrong with a data set as a whole, and with a single record of it."""

from __future__ import annotations

from collections.abc import Sequence
import os
from typing import Any, ClassVar

from rt2_jax.errors import UserError

# What to do about a record that can't be read: raise its error, or leave it out.
ON_CORRUPT = ('raise', 'skip')


class DataSetError(UserError, ValueError):
    """A data set that isn't whole, or lacks what a setting needs."""


class IndexMismatch(UserError, ValueError):
    """An index that doesn't belong to the data, the card or this version of the code."""


class CardError(UserError, ValueError):
    """A robot card that doesn't exist, or a file that holds none."""


class CorruptRecord(UserError, ValueError):
    """A record that cannot be trusted; names the file and the byte at which the record starts.

    Attributes:
        path: the file.
        offset: where it is in the file, in the unit of PLACE.
        reason: what is wrong.
    """

    PLACE: ClassVar[str] = 'record at byte {}'

    def __init__(self, path: str | os.PathLike, offset: float, reason: str) -> None:
        super().__init__(f'{os.fspath(path)}, {self.PLACE.format(offset)}: {reason}')
        self.path = os.fspath(path)
        self.offset = offset
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.offset, self.reason)

    def as_json(self, folder: str | os.PathLike) -> list[Any]:
        """What an index keeps of it: the file's name in the data set's folder, and so on."""
        name = self.path.removeprefix(os.fspath(folder)).lstrip('/')
        place = [name, self.offset, self.reason]
        return place if type(self) is CorruptRecord else [*place, type(self).__name__]

    @staticmethod
    def from_json(kept: Sequence[Any], folder: str | os.PathLike = '') -> CorruptRecord:
        """The inverse of `as_json`."""
        name, offset, reason, *kind = kept
        kinds = {cls.__name__: cls for cls in (CorruptFrame, CorruptEpisode)}
        path = f'{os.fspath(folder)}/{name}' if folder else name
        return kinds[kind[0]](path, offset, reason) if kind else CorruptRecord(path, offset, reason)


class CorruptFrame(CorruptRecord):
    """A frame of a video that cannot be read; names the video and the time of the frame in seconds."""

    PLACE = 'frame at {:.3f} s'


class CorruptEpisode(CorruptRecord):
    """An episode whose numbers in a table cannot be trusted; names the table and the episode."""

    PLACE = 'episode {}'


# How the files begin that git-lfs puts in the place of large ones (git-lfs/docs/spec.md).
GIT_LFS = b'version https://git-lfs'


def lfs_remedy(start: bytes) -> str:
    """What to do about a file whose first 12 bytes or more are these; '' if it is no git-lfs pointer."""
    is_pointer = len(start) >= 12 and start.startswith(GIT_LFS[: len(start)])
    remedy = 'it is a git-lfs pointer, not the file itself: run `git lfs pull` in its repository'
    return remedy if is_pointer else ''
