"""Columns of an index of web pairs: a part for each unit, joined into memory-mapped arrays.

    picture_{file,offset,length,checksum}.npy   one entry a record
    language.npy, score.npy, holds.npy          likewise
    {caption,question,answer,ocr,label}*.npy    texts that the set holds
    path*.npy                                   pictures' own files, where they have them
    box.npy                                     float32 [labels, 4]: top, left, bottom, right

A column of texts is a blob of UTF-8 with the end of each text, and the first text of each record:

    caption.npy         uint8 [bytes]
    caption_end.npy     uint32 or uint64 [texts + 1], from 0
    caption_first.npy   likewise [records + 1], from 0

In a part the two hold lengths and counts instead; joining adds them up. Neither a part in the making
nor joining holds more than the columns of one unit in memory.
"""

from __future__ import annotations

import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from etils import epath
import numpy as np

from rt2_jax.data.index import index_arrays
from rt2_jax.data.index.indexable import Part
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


class WebColumns:
    """The columns of one unit, in the making."""

    def __init__(self) -> None:
        # As numbers, not objects: a shard may hold a million records.
        self._plain: dict[str, array.array] = {
            name: array.array(np.dtype(dtype).char) for name, dtype in PLAIN.items()
        }
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

    def finish(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays, and what JSON says of them."""
        arrays = {name: np.frombuffer(x, PLAIN[name]) for name, x in self._plain.items()}
        texts = {name: len(lengths) for name, lengths in self._lengths.items() if lengths}
        for name in texts:
            arrays[f'{name}_first'] = np.frombuffer(self._counts[name], np.uint32)
            arrays[f'{name}_end'] = np.frombuffer(self._lengths[name], np.uint32)
            arrays[name] = np.frombuffer(self._blobs[name], np.uint8)
        if self._boxes:
            arrays['box'] = np.concatenate(self._boxes)
        return arrays, {
            'rows': len(self._plain['holds']),
            'languages': [*self._languages],
            'texts': texts,
            'bytes': {name: len(self._blobs[name]) for name in texts},
        }


def join(parts: Sequence[Part], folder: epath.Path) -> dict[str, Any]:
    """Writes the columns of all parts, one after another.

    Args:
        parts: of all units, in order.
        folder: of the index.

    Returns:
        What index.json says: the number of records, the languages, and the arrays.
    """
    paths, records = [part.path for part in parts], sum(part.about['rows'] for part in parts)
    languages = sorted({language for part in parts for language in part.about['languages']})
    writer = index_arrays.Writer(folder)
    files = (np.full(part.about['rows'], part.file, np.int32) for part in parts)
    writer.write('picture_file', files, records)
    for name in PLAIN:
        arrays = index_arrays.of_parts(paths, name)
        if name == 'language':
            arrays = (
                np.array([languages.index(x) for x in part.about['languages']], PLAIN[name])[rows]
                for part, rows in zip(parts, arrays, strict=True)
            )
        writer.write(name, arrays, records)
    for name in TEXT_COLUMNS:
        texts, size = (
            sum(part.about[key].get(name, 0) for part in parts) for key in ('texts', 'bytes')
        )
        if texts:
            writer.write(name, index_arrays.of_parts(paths, name), size)
            ends = _sums(index_arrays.of_parts(paths, f'{name}_end'), size)
            writer.write(f'{name}_end', ends, texts + 1)
            writer.write(f'{name}_first', _sums(_counts(parts, name), texts), records + 1)
    if boxes := sum(part.about['texts'].get('label', 0) for part in parts):
        writer.write('box', index_arrays.of_parts(paths, 'box'), boxes)
    return {'records': records, 'languages': languages, 'arrays': writer.arrays}


def _counts(parts: Sequence[Part], name: str) -> Iterator[np.ndarray]:
    """How many texts each record has, by part; a part without such texts has none in each."""
    for part in parts:
        if name in part.about['texts']:
            yield from index_arrays.of_parts([part.path], f'{name}_first')
        else:
            yield np.zeros(part.about['rows'], np.uint32)


def _sums(parts: Iterable[np.ndarray], whole: int) -> Iterator[np.ndarray]:
    """0 and the running sums up to `whole`, a part at a time, in as few bytes as hold them."""
    dtype = np.uint32 if whole < 1 << 32 else np.uint64
    total = 0
    yield np.zeros(1, dtype)
    for part in parts:
        sums = total + np.cumsum(part, dtype=np.int64)
        total = int(sums[-1]) if len(sums) else total
        yield sums.astype(dtype)
