"""Which records of a web set are held out for validation, and whether any is trained on all the same.

A record is known by its picture, which the index knows by length and checksum: all that is asked about
one picture is on one side, in this set and, with the same share, in others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging
import numpy as np

from rt2_jax.data.holdouts import LISTED, Leakage
from rt2_jax.data.web.cards import TEXTS
from rt2_jax.data.web.table import WebTable
from rt2_jax.data.web.web_set import WebSet

ROWS = 1 << 18  # at a time


def check_apart(trained: Mapping[str, Any], validated: Mapping[str, Any]) -> None:
    """Compares the records of two groups of sources, by name; sources of other kinds are let by.

    Records that show the same picture with other texts are counted and logged.

    Raises:
      Leakage: a record, picture and texts, is in both; lists the first few.
    """
    theirs = _Known(_distinct(validated))
    if not len(theirs):
        return
    same, alike = [], []
    for name, source in _distinct(trained).items():
        for row, whose, other in theirs.found_in(source):
            line = f'record {other} of {whose} = record {row} of {name}'
            table = theirs.sources[whose].table
            (same if _said(table, other) == _said(source.table, row) else alike).append(line)
            if len(same) == LISTED:
                break
    if same:
        raise Leakage(
            f'{len(same)} records{" or more" * (len(same) == LISTED)} are held out for validation and '
            'trained on as well:\n'
            + '\n'.join(f'  {line}' for line in same)
            + '\nHold out by `holdout`, which keeps copies of a picture together, or take the copies '
            'away.'
        )
    if alike:
        logging.warning(
            '%d times a held-out picture is trained on with other texts; hold out the same share of '
            'each set with these pictures if that shall not be:\n%s',
            len(alike),
            '\n'.join(f'  {line}' for line in alike[:LISTED]),
        )


class _Known:
    """The records of sources, to be found by their pictures.

    Args:
      sources: by name.
    """

    def __init__(self, sources: Mapping[str, WebSet]):
        self.sources = dict(sources)
        names, rows, known = [], [], [np.zeros(0, np.uint64)]
        for number, source in enumerate(self.sources.values()):
            for part in _rows(source):
                names.append(np.full(len(part), number, np.int32))
                rows.append(part)
                known.append(source.table.pictures(part))
        joined = np.concatenate(known)
        by_number = np.argsort(joined)
        self._known = joined[by_number]
        self._names = np.concatenate(names)[by_number] if names else np.zeros(0, np.int32)
        self._rows = np.concatenate(rows)[by_number] if rows else np.zeros(0, np.int64)
        # Most pictures are told apart by a look into a small table.
        self._few = np.zeros(1 << 22, bool)
        self._few[self._slots(self._known)] = True

    def __len__(self) -> int:
        return len(self._known)

    def found_in(self, source: WebSet) -> Iterator[tuple[int, str, int]]:
        """(row, name, row there) of each two records with one picture."""
        names = list(self.sources)
        for rows in _rows(source):
            known = source.table.pictures(rows)
            perhaps = np.flatnonzero(self._few[self._slots(known)])
            first = np.searchsorted(self._known, known[perhaps])
            last = np.searchsorted(self._known, known[perhaps], side='right')
            for i in np.flatnonzero(last > first):
                for place in range(first[i], last[i]):
                    row = int(rows[perhaps[i]])
                    yield row, names[self._names[place]], int(self._rows[place])

    def _slots(self, known: np.ndarray) -> np.ndarray:
        return known >> np.uint64(64 - 22)


def _distinct(sources: Mapping[str, Any]) -> dict[str, WebSet]:
    return {name: source for name, source in sources.items() if isinstance(source, WebSet)}


def _rows(source: WebSet) -> Iterator[np.ndarray]:
    """The rows that a source uses, each once, in parts."""
    rows = source.selection.rows
    size = sum(source.selection.counts)
    for start in range(0, size, ROWS):
        stop = min(start + ROWS, size)
        yield np.arange(start, stop) if rows is None else np.asarray(rows[start:stop], np.int64)


def _said(table: WebTable, row: int) -> list[list[str]]:
    return [table.texts(field, row) for field in TEXTS]
