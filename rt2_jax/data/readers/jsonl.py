"""JSONL and a folder of pictures: one object a line, which names its picture's file.

    {"image": "a/1.jpg", "question": "what is it", "answer": ["a cat", "cat"], "language": "en"}

A file of many lines is indexed in stretches, each from the first line that begins inside it. A file
may be one array of such objects, too (see json_objects).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import concurrent.futures
import dataclasses
import functools
import itertools
import json
import os
from typing import Any

from rt2_jax.data import files, remote_files
from rt2_jax.data.data_errors import lfs_remedy
from rt2_jax.data.index.indexable import Unit
from rt2_jax.data.readers import file_patterns, json_objects, tfrecord, web_records
from rt2_jax.data.readers.web_format import WebFormat
from rt2_jax.data.readers.web_records import Record

# Large enough to keep a process busy for seconds, small enough to share out one file's lines.
UNIT_BYTES = 8 << 20

# Remote pictures that are asked for together, each by a request of its own.
TOGETHER = 512

_BLOCK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Jsonl(WebFormat):
    """Lines of JSON beside pictures.

    Attributes:
        directory: the set, of this machine or remote.
        card: paths are keys of a line's object.
        pattern: the JSONL files within the directory (see file_patterns).
        pictures: folder that pictures' names are relative to, within the directory or elsewhere; the
            directory itself if ''.
    """

    pattern: str = '*.jsonl'
    pictures: str = ''

    kind = 'jsonl'

    @property
    def fingerprint(self) -> str:
        """Changes with the card, the pattern and the folder of pictures."""
        return f'{self.kind} {self.card.fingerprint} {self.pattern} {self.pictures}'

    @functools.cached_property
    def folder(self) -> str:
        """Where the pictures are."""
        if not self.pictures or remote_files.is_remote(self.pictures):
            return self.pictures or self.directory
        return os.fspath(files.path(self.directory) / self.pictures)

    def files(self) -> list[str]:
        """The JSONL files."""
        return file_patterns.matching(self.directory, self.pattern)

    def units(self, sizes: Sequence[int]) -> list[Unit]:
        """Stretches of UNIT_BYTES."""
        return [
            Unit(number, start, min(start + UNIT_BYTES, size))
            for number, size in enumerate(sizes)
            for start in range(0, size, UNIT_BYTES)
        ]

    def records(
        self, path: str, unit: Unit, digest: Any
    ) -> Iterator[Record | tfrecord.CorruptRecord]:
        """Of the objects that begin inside the unit."""
        together = TOGETHER if remote_files.is_remote(self.folder) else 1
        numbers = _LineNumbers(path)
        with concurrent.futures.ThreadPoolExecutor(files.THREADS) as pool:
            run = pool.map if together > 1 else map
            for lines in _groups(json_objects.read(path, unit), together):
                made = run(self._attempt, (line for _, line in lines))
                for (offset, line), records in zip(lines, made, strict=True):
                    digest.update(line)
                    if not isinstance(records, ValueError):
                        yield from records
                        continue
                    # To count lines means to read all that is before them.
                    place = '' if remote_files.is_remote(path) else f'line {numbers(offset)}: '
                    yield tfrecord.CorruptRecord(path, offset, f'{place}{records}')

    def framing(self, path: str, unit: Unit, digest: Any) -> None:
        """Of the lines themselves; pictures are checked when they are read."""
        for _, line in json_objects.read(path, unit):
            digest.update(line)

    def keys(self) -> list[str]:
        """Paths of the first line."""
        for name in self.files():
            path = os.fspath(files.path(self.directory) / name)
            for _, line in json_objects.read(path, Unit(0, 0, UNIT_BYTES)):
                return web_records.paths(json.loads(line))
        return []

    def _attempt(self, line: bytes) -> list[Record] | ValueError:
        try:
            return self._records(line)
        except ValueError as error:
            return error

    def _records(self, line: bytes) -> list[Record]:
        if remedy := lfs_remedy(line):
            raise ValueError(remedy)
        try:
            tree = json.loads(line)
        except RecursionError as error:
            raise ValueError('brackets nested too deeply') from error
        except UnicodeDecodeError as error:
            raise ValueError(f'not UTF-8: {error}') from error
        except json.JSONDecodeError as error:
            raise ValueError(f'not JSON: {error}') from error
        names = web_records.look_up(tree, self.card.image)
        if len(names) != 1 or not isinstance(names[0], str):
            keys = ', '.join(sorted(tree)) if isinstance(tree, dict) else type(tree).__name__
            raise ValueError(
                f'{self.card.image!r} names no picture; the line holds {keys}. Texts without a '
                "picture, and videos, can't be used; on_corrupt='skip' leaves them out"
            )
        picture = self._picture(names[0])
        values = {
            field: web_records.look_up(tree, place) for field, place in self.card.paths.items()
        }
        return web_records.make(values, picture, 0, self.card, names[0])

    def _picture(self, name: str) -> bytes:
        path = files.within(self.folder, name)
        try:
            return files.read(path)
        except remote_files.RemoteError:  # the picture may be whole
            raise
        except OSError as error:
            raise ValueError(f'picture {path}: {error.strerror or "no such file"}') from error


def _groups(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while group := list(itertools.islice(items, size)):
        yield group


class _LineNumbers:
    """Counts a file's lines up to a byte; offsets must not fall."""

    def __init__(self, path: str) -> None:
        self._path, self._at, self._lines = path, 0, 1

    def __call__(self, offset: int) -> int:
        """The line that begins at a byte, from 1."""
        with files.open_file(self._path) as file:
            while self._at < offset:
                block = file.read(self._at, min(offset - self._at, _BLOCK_BYTES))
                self._lines += block.count(b'\n')
                self._at += len(block)
        return self._lines
