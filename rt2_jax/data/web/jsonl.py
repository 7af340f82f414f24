"""JSONL and a folder of pictures: one object a line, which names its picture's file.

    {"image": "a/1.jpg", "question": "what is it", "answer": ["a cat", "cat"], "language": "en"}

A file of many lines is indexed in stretches, each from the first line that begins inside it.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import json
import os
from typing import Any

from etils import epath

from rt2_jax.data import tfrecord
from rt2_jax.data.robot import rlds_index
from rt2_jax.data.web import records as web_records
from rt2_jax.data.web.cards import WebCard
from rt2_jax.data.web.records import Record, Unit
from rt2_jax.nearest import beside

# Large enough to keep a process busy for seconds, small enough to share out one file's lines.
UNIT_BYTES = 8 << 20


@dataclasses.dataclass(frozen=True)
class Jsonl:
    """Lines of JSON beside pictures.

    Attributes:
      directory: the set.
      card: paths are keys of a line's object.
      files: the JSONL files, as a pattern within the directory.
      pictures: folder that pictures' names are relative to; the directory itself if ''.
    """

    directory: str
    card: WebCard
    files: str = '*.jsonl'
    pictures: str = ''

    kind = 'jsonl'

    @property
    def fingerprint(self) -> str:
        return f'{self.kind} {self.card.fingerprint} {self.files} {self.pictures}'

    @property
    def folder(self) -> str:
        """Where the pictures are."""
        return os.path.join(self.directory, self.pictures)

    def prepare(self) -> Jsonl:
        """Nothing to prepare: there is no schema."""
        return self

    def units(self) -> list[Unit]:
        """Stretches of UNIT_BYTES."""
        return [
            Unit(number, path, start, min(start + UNIT_BYTES, size))
            for number, path in enumerate(matching(self.directory, self.files))
            for size in [os.path.getsize(path)]
            for start in range(0, size, UNIT_BYTES)
        ]

    def records(self, unit: Unit, digest: Any) -> Iterator[Record | tfrecord.CorruptRecord]:
        """The lines that begin inside the unit; blank ones say nothing."""
        for offset, line in _lines(unit):
            digest.update(line)
            try:
                yield self._record(line)
            except ValueError as error:
                number = _line_number(unit.path, offset)
                yield tfrecord.CorruptRecord(unit.path, offset, f'line {number}: {error}')

    def framing(self, unit: Unit, digest: Any) -> None:
        """Of the lines themselves; pictures are checked when they are read."""
        for _, line in _lines(unit):
            digest.update(line)

    def keys(self) -> list[str]:
        """Paths of the first line."""
        for unit in self.units():
            for _, line in _lines(unit):
                return web_records.paths(json.loads(line))
        return []

    def _record(self, line: bytes) -> Record:
        try:
            tree = json.loads(line)
        except UnicodeDecodeError as error:
            raise ValueError(f'not UTF-8: {error}') from error
        except json.JSONDecodeError as error:
            raise ValueError(f'not JSON: {error}') from error
        names = web_records.look_up(tree, self.card.image)
        if len(names) != 1 or not isinstance(names[0], str):
            keys = ', '.join(sorted(tree)) if isinstance(tree, dict) else type(tree).__name__
            raise ValueError(f'{self.card.image!r} names no picture; the line holds {keys}')
        path = os.path.join(self.folder, names[0])
        try:
            with open(path, 'rb', buffering=0) as file:
                picture = file.read()
        except OSError as error:
            raise ValueError(f'picture {path}: {error.strerror}') from error
        values = {
            field: web_records.look_up(tree, place) for field, place in self.card.paths.items()
        }
        return web_records.make(values, picture, 0, self.card, names[0])


def matching(directory: str, pattern: str) -> list[str]:
    """Files of a directory that match a pattern, in order.

    Raises:
      rlds_index.DataSetError: there are none.
    """
    folder = epath.Path(directory)
    if not folder.exists():
        raise rlds_index.DataSetError(
            f'no data set at {directory}: there is no such directory{beside(directory)}'
        )
    files = sorted(os.fspath(path) for path in folder.glob(pattern))
    if not files:
        present = sorted(path.name for path in folder.iterdir())[:8]
        raise rlds_index.DataSetError(
            f'{directory} has no file {pattern!r}; it holds {", ".join(present) or "nothing"}'
        )
    return files


def _lines(unit: Unit) -> Iterator[tuple[int, bytes]]:
    with open(unit.path, 'rb') as file:
        if unit.start:
            # The byte before tells whether a line begins here or is another unit's.
            file.seek(unit.start - 1)
            file.readline()
        while (offset := file.tell()) < unit.stop:
            line = file.readline()
            if line.strip():
                yield offset, line


def _line_number(path: str, offset: int) -> int:
    """The line that begins at a byte, from 1; lines are only counted when one is to be named."""
    lines = 1
    with open(path, 'rb') as file:
        while offset > 0:
            block = file.read(min(offset, 1 << 20))
            lines += block.count(b'\n')
            offset -= len(block)
    return lines
