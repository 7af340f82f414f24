"""Which records of a web set are held out for validation, and whether any is trained on as well.

A record is known by its picture, which the index knows by length and checksum: all questions about one
picture are on one side, in this set and, with the same share, in others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from absl import logging
import numpy as np

from rt2_jax.data.holdouts import LISTED, Leakage
from rt2_jax.data.index.web_table import WebTable
from rt2_jax.data.web.web_cards import TEXTS
from rt2_jax.data.web.web_source import WebSource

ROWS = 1 << 18  # at a time

Texts: TypeAlias = tuple[tuple[str, ...], ...]  # of a record, by field


def check_apart(trained: Mapping[str, Any], validated: Mapping[str, Any]) -> None:
    """Compares the records of two groups of sources, by name; other sources are ignored.

    Records that show the same picture with other texts are counted and logged.

    Raises:
        Leakage: a record, picture and texts, is in both; lists the first few.
    """
    theirs = _Known(_distinct(validated))
    if not len(theirs):
        return
    same: list[str] = []
    alike: list[str] = []
    count = 0
    for name, source in _distinct(trained).items():
        for row, place in theirs.shared_with(source):
            others = theirs.with_picture(place)
            other = others.get(_texts(source.table, row))
            lines = same if other else alike
            count += not other
            whose, number = other or next(iter(others.values()))
            if len(lines) < LISTED:
                lines.append(f'record {number} of {whose} = record {row} of {name}')
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
            count,
            '\n'.join(f'  {line}' for line in alike),
        )


class _Known:
    """The records of sources, to be found by their pictures.

    Args:
        sources: by name.
    """

    def __init__(self, sources: Mapping[str, WebSource]) -> None:
        self.sources = dict(sources)
        names, rows, known = [], [], [np.zeros(0, np.uint64)]
        for number, source in enumerate(self.sources.values()):
            for part in _rows(source):
                names.append(np.full(len(part), number, np.int32))
                rows.append(part)
                known.append(source.table.pictures(part))
        joined = np.concatenate(known)
        by_number = np.argsort(joined, kind='stable')
        self._known = joined[by_number]
        self._names = np.concatenate(names)[by_number] if names else np.zeros(0, np.int32)
        self._rows = np.concatenate(rows)[by_number] if rows else np.zeros(0, np.int64)
        self._texts: dict[int, dict[Texts, tuple[str, int]]] = {}
        # Most pictures are told apart by a look into a small table.
        self._few = np.zeros(1 << 22, bool)
        self._few[self._slots(self._known)] = True

    def __len__(self) -> int:
        return len(self._known)

    def shared_with(self, source: WebSource) -> Iterator[tuple[int, int]]:
        """Rows of a source whose picture is here too, and the first record here with that picture."""
        for rows in _rows(source):
            known = source.table.pictures(rows)
            perhaps = np.flatnonzero(self._few[self._slots(known)])
            place = np.searchsorted(self._known, known[perhaps])
            there = np.minimum(place, len(self) - 1)
            for i in np.flatnonzero(self._known[there] == known[perhaps]):
                yield int(rows[perhaps[i]]), int(place[i])

    def with_picture(self, place: int) -> dict[Texts, tuple[str, int]]:
        """Texts about the picture at a place -> name and row of the first record that has them."""
        # A picture that says "not available" may be there thousands of times.
        if place not in self._texts:
            last = np.searchsorted(self._known, self._known[place], side='right')
            names = list(self.sources)
            records: dict[Texts, tuple[str, int]] = {}
            for at in range(place, last):
                name, row = names[self._names[at]], int(self._rows[at])
                records.setdefault(_texts(self.sources[name].table, row), (name, row))
            self._texts[place] = records
        return self._texts[place]

    def _slots(self, known: np.ndarray) -> np.ndarray:
        return known >> np.uint64(64 - 22)


def _distinct(sources: Mapping[str, Any]) -> dict[str, WebSource]:
    return {name: source for name, source in sources.items() if isinstance(source, WebSource)}


def _rows(source: WebSource) -> Iterator[np.ndarray]:
    """The rows that a source uses, each once, in parts."""
    rows = source.selection.rows
    size = sum(source.selection.counts)
    for start in range(0, size, ROWS):
        stop = min(start + ROWS, size)
        yield np.arange(start, stop) if rows is None else np.asarray(rows[start:stop], np.int64)


def _texts(table: WebTable, row: int) -> Texts:
    return tuple(tuple(table.texts(field, row)) for field in TEXTS)
