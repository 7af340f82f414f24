"""Columns of a web index: a part for each unit, joined into one set of memory-mapped arrays.

A column of texts is a blob of UTF-8 with the end of each text, and the first text of each record:

    caption.npy         uint8 [bytes]
    caption_end.npy     uint32 or uint64 [texts + 1], from 0
    caption_first.npy   likewise [records + 1], from 0

In a part the two hold lengths and counts instead; joining adds them up. Neither a part in the making
nor joining holds more than the columns of one unit in memory.
"""

from __future__ import annotations

import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath
import numpy as np

from rt2_jax.data.index import index_arrays
from rt2_jax.data.readers.web_records import Record
from rt2_jax.data.web.web_cards import TEXTS

# One number a record.
PLAIN = {
    'picture_offset': np.int64,
    'picture_length': np.uint32,
    'picture_checksum': np.uint32,
    'score': np.float32,
    'language': np.int16,
    'holds': np.uint8,  # bit k: there are texts of TEXTS[k]
}
TEXT_COLUMNS = (*TEXTS, 'path')


class Part:
    """The columns of one unit, in the making."""

    def __init__(self):
        # As numbers, not objects: a shard may hold a million records.
        self._plain = {name: array.array(np.dtype(dtype).char) for name, dtype in PLAIN.items()}
        self._counts = {name: array.array('I') for name in TEXT_COLUMNS}
        self._lengths = {name: array.array('I') for name in TEXT_COLUMNS}
        self._blobs = {name: bytearray() for name in TEXT_COLUMNS}
        self._boxes: list[np.ndarray] = []
        self._languages: dict[str, int] = {}

    def add(self, record: Record) -> None:
        """Appends a record."""
        plain = self._plain
        plain['picture_offset'].append(record.offset)
        plain['picture_length'].append(record.length)
        plain['picture_checksum'].append(record.checksum)
        plain['score'].append(record.score)
        plain['language'].append(self._languages.setdefault(record.language, len(self._languages)))
        plain['holds'].append(sum(1 << k for k, f in enumerate(TEXTS) if f in record.texts))
        if len(record.boxes):
            self._boxes.append(record.boxes)
        for name in TEXT_COLUMNS:
            texts = [record.path] if name == 'path' and record.path else record.texts.get(name, ())
            self._counts[name].append(len(texts))
            for text in texts:
                encoded = text.encode()
                self._lengths[name].append(len(encoded))
                self._blobs[name] += encoded

    def write(self, path: epath.PathLike, about: Mapping[str, Any]) -> None:
        """Writes the part whole or not at all, with what `about` says of it."""
        found = {name: np.frombuffer(x, PLAIN[name]) for name, x in self._plain.items()}
        texts = {name: len(lengths) for name, lengths in self._lengths.items() if lengths}
        for name in texts:
            found[f'{name}_first'] = np.frombuffer(self._counts[name], np.uint32)
            found[f'{name}_end'] = np.frombuffer(self._lengths[name], np.uint32)
            found[name] = np.frombuffer(self._blobs[name], np.uint8)
        if self._boxes:
            found['box'] = np.concatenate(self._boxes)
        own = {
            'records': len(self._plain['holds']),
            'languages': [*self._languages],
            'texts': texts,
            'bytes': {name: len(self._blobs[name]) for name in texts},
        }
        index_arrays.write_part(path, found, {**about, **own})


def join(
    paths: Sequence[epath.PathLike],
    files: Sequence[int],
    abouts: Sequence[Mapping[str, Any]],
    languages: Sequence[str],
    folder: epath.Path,
) -> dict[str, Any]:
    """Writes the columns of all parts, one after another.

    Args:
      paths: the parts.
      files: of each the number of its file.
      abouts: what is said of each.
      languages: all languages, in the order of their numbers.
      folder: where the columns go.

    Returns:
      Name -> {'bytes', 'crc32c'} of each .npy file.
    """
    counts = [about['records'] for about in abouts]
    number = {language: k for k, language in enumerate(languages)}
    written = {}

    def write(name: str, parts: Iterable[np.ndarray], rows: int) -> None:
        written[name] = index_arrays.write(folder / f'{name}.npy', parts, rows)

    of_files = (np.full(n, file, np.int32) for file, n in zip(files, counts, strict=True))
    write('picture_file', of_files, sum(counts))
    for name in PLAIN:
        parts = index_arrays.of_parts(paths, name)
        if name == 'language':
            parts = (
                np.array([number[x] for x in about['languages']], PLAIN[name])[part]
                for part, about in zip(parts, abouts, strict=True)
            )
        write(name, parts, sum(counts))
    for name in TEXT_COLUMNS:
        texts, size = (
            sum(about[key].get(name, 0) for about in abouts) for key in ('texts', 'bytes')
        )
        if texts:
            write(name, index_arrays.of_parts(paths, name), size)
            write(
                f'{name}_end', _sums(index_arrays.of_parts(paths, f'{name}_end'), size), texts + 1
            )
            first = _sums(_counts(paths, abouts, name), texts)
            write(f'{name}_first', first, sum(counts) + 1)
    if boxes := sum(about['texts'].get('label', 0) for about in abouts):
        write('box', index_arrays.of_parts(paths, 'box'), boxes)
    return written


def _counts(paths, abouts, name: str) -> Iterator[np.ndarray]:
    """How many texts each record has, by part; a part without such texts has none in each."""
    for path, about in zip(paths, abouts, strict=True):
        if name in about['texts']:
            yield from index_arrays.of_parts([path], f'{name}_first')
        else:
            yield np.zeros(about['records'], np.uint32)


def _sums(parts: Iterable[np.ndarray], whole: int) -> Iterator[np.ndarray]:
    """0 and the running sums up to `whole`, a part at a time, in as few bytes as hold them."""
    dtype = np.uint32 if whole < 1 << 32 else np.uint64
    total = 0
    yield np.zeros(1, dtype)
    for part in parts:
        sums = total + np.cumsum(part, dtype=np.int64)
        total = int(sums[-1]) if len(sums) else total
        yield sums.astype(dtype)
