"""Encoded pictures inside the files of an indexed data set, compared with the index.

A picture that has changed is a tfrecord.CorruptRecord; a remote store that gives up is not, for the
picture may be whole.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
import resource
import threading
from typing import Any

import numpy as np

from rt2_jax.data import files, images, remote_files
from rt2_jax.data.readers import tfrecord

# Files kept open at once: some of what a process may open, which often is 1,024. A set of a thousand
# shards, of which most must be opened for each picture, takes 1.5 times as long to read.
OPEN_FILES = max(64, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)


class PictureFiles:
    """Reads stretches of many files at random, from any thread; many files stay open.

    Args:
        paths: the files, which `read` takes by number.
        stamps: of each file, as of when the index was opened: a remote file is then read as of that
            version only.
    """

    def __init__(self, paths: Sequence[files.Path], stamps: Sequence[dict[str, Any]]) -> None:
        self.paths, self._stamps = list(paths), list(stamps)
        self._opened: dict[int, files.LocalFile | remote_files.RemoteFile] = {}
        self._lock = threading.Lock()

    def read(self, number: int, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes at each (offset, length) of a file.

        Raises:
            tfrecord.CorruptRecord: they aren't there.
        """
        path = self.paths[number]
        try:
            contents = self._read(number, spans)
        except FileNotFoundError as error:
            raise vanished(path, spans[0][0]) from error
        for (offset, length), data in zip(spans, contents, strict=True):
            check_length(data, length, path, offset)
        return contents

    def _read(self, number: int, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        file = self._opened.get(number)
        if file is None:
            with self._lock:
                file = self._opened.get(number)
                if file is None and len(self._opened) < OPEN_FILES:
                    file = self._opened[number] = self._open(number)
        if file is not None:
            return file.read_many(spans)
        with self._open(number) as file:
            return file.read_many(spans)

    def _open(self, number: int) -> files.LocalFile | remote_files.RemoteFile:
        return files.open_file(self.paths[number], self._stamps[number])

    def __getstate__(self) -> dict[str, Any]:
        # Descriptors and locks belong to one process.
        return {**self.__dict__, '_opened': {}, '_lock': None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


def vanished(path: os.PathLike | str, offset: int) -> tfrecord.CorruptRecord:
    """The error for a file that isn't there any more."""
    return tfrecord.CorruptRecord(path, offset, 'the file has vanished since it was indexed')


def check_length(data: bytes, length: int, path: os.PathLike | str, offset: int) -> None:
    """Raises tfrecord.CorruptRecord where bytes are missing."""
    if len(data) < length:
        raise tfrecord.CorruptRecord(
            path, offset, f'truncated: {len(data)} of {length} bytes are there'
        )


def check(encoded: bytes, checksum: int, path: os.PathLike | str, offset: int) -> bytes:
    """Returns the picture; raises tfrecord.CorruptRecord if it isn't that of the checksum."""
    if tfrecord.checksum(encoded) != checksum:
        raise tfrecord.CorruptRecord(
            path,
            offset,
            f'the {len(encoded)} bytes of a picture have changed since they were indexed',
        )
    return encoded


def decode(encoded: bytes, checksum: int, path: os.PathLike | str, offset: int) -> np.ndarray:
    """The pixels, uint8 [H, W, 3]; raises tfrecord.CorruptRecord for no picture, or a wrong checksum."""
    check(encoded, checksum, path, offset)
    try:
        return images.decode(encoded)
    except ValueError as error:
        raise tfrecord.CorruptRecord(path, offset, f'picture: {error}') from error
