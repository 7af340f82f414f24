"""Encoded pictures inside the files of an indexed data set, checked against what was indexed.

A picture that isn't what it was is a tfrecord.CorruptRecord; a remote store that gives up is not, for
the picture may be whole.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
from typing import Any

import numpy as np

from rt2_jax.data import files, images
from rt2_jax.data.readers import tfrecord


class PictureFiles:
    """Reads stretches of many files at random, from any thread.

    Args:
      paths: the files, which `read` takes by number.
      known: their stamps as of when the index was opened.
    """

    def __init__(self, paths: Sequence[files.Path], known: Sequence[dict[str, Any]]):
        self.paths = list(paths)
        self._files = files.Pool(paths, known)

    def read(self, number: int, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes at each (offset, length) of a file.

        Raises:
          tfrecord.CorruptRecord: they aren't there.
        """
        path = self.paths[number]
        try:
            found = self._files.read(number, spans)
        except FileNotFoundError as error:
            raise vanished(path, spans[0][0]) from error
        for (offset, length), data in zip(spans, found, strict=True):
            check_length(data, length, path, offset)
        return found


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
    """uint8 [H, W, 3]; raises tfrecord.CorruptRecord where it is none, or not that of the checksum."""
    check(encoded, checksum, path, offset)
    try:
        return images.decode(encoded)
    except ValueError as error:
        raise tfrecord.CorruptRecord(path, offset, f'picture: {error}') from error
