"""Which records of a web set are used, and how often: tasks, scores, languages.

A selection is a column of rows, grouped by language where languages are weighted. It is computed
once, some rows at a time, kept beside the index, and opens memory-mapped, so that neither start-up
nor memory depend on size.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import hashlib
import json
import os
import shutil
from typing import Any, BinaryIO

from absl import logging
from etils import epath
import numpy as np

from rt2_jax import records
from rt2_jax.data.data_config import WebSet
from rt2_jax.data.data_errors import IndexMismatch
from rt2_jax.data.holdouts import PARTS
from rt2_jax.data.index import index_places
from rt2_jax.data.index.web_table import WebTable
from rt2_jax.data.web.filters import Filters, check_left
from rt2_jax.nearest import check

# The order in which an epoch is shuffled is one of so many places at most.
LONGEST = (1 << 31) - 1


@dataclasses.dataclass(frozen=True)
class Selection:
    """Rows that are used.

    Attributes:
        rows: int [n], grouped by language; None for all rows as they are.
        languages: the languages of the groups, or ('',) where they aren't weighted.
        counts: rows of each group.
        left_out: reason -> how many records it left out.
    """

    rows: np.ndarray | None
    languages: tuple[str, ...]
    counts: tuple[int, ...]
    left_out: Mapping[str, int]


class Shares:
    """Item -> row, so that groups come as often as their shares say, to within one item.

    An epoch is as long as it takes the group that is used the most sparingly to be seen once;
    others come around again, each row as often as any other of its group, or once more.

    Args:
        selection: the rows.
        shares: of each group; they add up to 1.
    """

    def __init__(self, selection: Selection, shares: Sequence[float]) -> None:
        self._rows, self._counts = selection.rows, selection.counts
        length = max(int(np.ceil(n / p - 1e-9)) for n, p in zip(selection.counts, shares))
        if length > LONGEST:
            worst = int(np.argmax([n / p for n, p in zip(selection.counts, shares)]))
            raise ValueError(
                f'language {selection.languages[worst]!r} has {selection.counts[worst]} records and '
                f'a share of {shares[worst]:.2g}: to see them all once takes {length} examples, more '
                f'than the {LONGEST} that an epoch may have; raise its share'
            )
        # Rounding running sums, not quotas, makes them add up.
        self._ends = [round(length * total) for total in np.cumsum(shares)]
        self._first = [0, *np.cumsum(selection.counts).tolist()]

    def __len__(self) -> int:
        return self._ends[-1]

    def row(self, item: int) -> int:
        """The row of an item in [0, length)."""
        group = bisect.bisect_right(self._ends, item)
        within = item - (self._ends[group - 1] if group else 0)
        position = self._first[group] + within % self._counts[group]
        return position if self._rows is None else int(self._rows[position])


def language_shares(
    selection: Selection, weights: Mapping[str, float], temperature: float
) -> list[float]:
    """Shares of the selection's groups.

    Args:
        selection: its counts n.
        weights: language -> weight; if empty, shares go with n ** (1 / temperature).
        temperature: 1 keeps the data's own shares, more raises those of rare languages.
    """
    raw = [
        float(weights[language]) if weights else count ** (1 / temperature)
        for language, count in zip(selection.languages, selection.counts, strict=True)
    ]
    return [x / sum(raw) for x in raw]


def select(
    table: WebTable,
    needs: Sequence[Sequence[str]],
    settings: WebSet,
    languages: Sequence[str] = (),
    part: str = 'train',
) -> Selection:
    """Selects records; kept beside the index, where that can be written.

    Applied in this order: a record must hold what some task needs, be in one of the languages, have at
    least `min_score`, be among the best `keep_top` by score (exact, ties go to those that come first in
    the set; records without a score are left out if it is below 1), and be of the part.

    Args:
        table: the opened index.
        needs: the fields that each task needs.
        settings: of the set.
        languages: languages to keep; all if empty.
        part: 'train' or 'validation' (see splits).

    Raises:
        DataSetError: nothing is left, or there are no scores.
    """
    for language in languages:
        check(f'language of {table.directory}:', language, table.languages)
    if not 0 < settings.keep_top <= 1:
        raise ValueError(f'keep_top must be above 0 and at most 1, not {settings.keep_top}')
    check('part', part, PARTS)
    # The name of the folder follows from it.
    key = {
        'needs': sorted(sorted(need) for need in needs),
        'languages': sorted(languages),
        'grouped': bool(languages) or settings.temperature != 1,
        'keep_top': settings.keep_top,
        'min_score': settings.min_score,
        'index': table.fingerprint,
        **({'holdout': settings.holdout, 'part': part} if settings.holdout else {}),
    }
    own = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = table.local / f'selection-{own}'
    if not (folder / 'selection.json').exists():
        return _compute(table, key, folder)
    about = records.read(folder / 'selection.json', IndexMismatch)
    return Selection(
        _mapped(folder / 'rows.npy'),
        tuple(about['languages']),
        tuple(about['counts']),
        about['left_out'],
    )


def _mapped(path: epath.Path) -> np.ndarray | None:
    return np.asarray(np.load(path, mmap_mode='r')) if path.exists() else None


def _filters(table: WebTable, settings: Mapping[str, Any]) -> Filters:
    filters = Filters(table)
    filters.add('has no text for any of the tasks', filters.holding(settings['needs']))
    if settings['languages']:
        filters.add('in another language', filters.among(settings['languages']))
    if settings['min_score'] is not None or settings['keep_top'] < 1:
        filters.add('has no score', filters.scored())
    if settings['min_score'] is not None:
        filters.add('scores lower', filters.at_least(settings['min_score']))
    if settings['keep_top'] < 1:
        # Of all, so that holding out some leaves the others as they were.
        filters.add('is not among the best', filters.best(settings['keep_top']))
    if holdout := settings.get('holdout'):
        part = settings['part']
        reason = 'is held out' if part == 'train' else 'is trained on'
        filters.add(reason, filters.part(holdout, part))
    return filters


def _compute(table: WebTable, settings: Mapping[str, Any], folder: epath.Path) -> Selection:
    filters = _filters(table, settings)
    lost: Counter[str] = Counter()
    counts = np.zeros(len(table.languages), np.int64)
    for rows, mask in filters.kept(lost):
        counts += np.bincount(table.arrays['language'][rows][mask], minlength=len(counts))
    left_out = check_left(table, int(counts.sum()), lost)
    names = tuple(name for name, n in zip(table.languages, counts) if n)
    if not settings['grouped']:
        names, counts = ('',), counts.sum(keepdims=True)
    selection = Selection(None, names, tuple(int(n) for n in counts if n), left_out)
    if not settings['grouped'] and counts[0] == len(table):
        _keep(folder, selection, lambda file: None)
        return selection
    return _with_rows(table, filters, counts, selection, folder)


def _with_rows(
    table: WebTable, filters: Filters, counts: np.ndarray, selection: Selection, folder: epath.Path
) -> Selection:
    """The selection with its rows, in a file or, where that can't be written, in memory."""
    dtype = np.dtype(np.uint32 if len(table) < 1 << 32 else np.int64)
    whole = (int(counts.sum()),)

    def write(file: BinaryIO) -> None:
        header = {'descr': dtype.str, 'fortran_order': False, 'shape': whole}
        np.lib.format.write_array_header_1_0(file, header)
        begin = file.tell()
        for place, rows in _grouped(table, filters, counts):
            file.seek(begin + place * dtype.itemsize)
            file.write(rows.astype(dtype).tobytes())

    if _keep(folder, selection, write):
        return dataclasses.replace(selection, rows=_mapped(folder / 'rows.npy'))
    out = np.empty(whole, dtype)
    for place, rows in _grouped(table, filters, counts):
        out[place : place + len(rows)] = rows
    return dataclasses.replace(selection, rows=out)


def _grouped(
    table: WebTable, filters: Filters, counts: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Runs of rows of one group, with the place at which each goes."""
    places = np.cumsum(counts) - counts
    for rows, mask in filters.kept():
        kept = rows.start + np.flatnonzero(mask)
        if len(counts) == 1:
            groups = [kept]
        else:
            numbers = table.arrays['language'][kept]
            ordered = kept[np.argsort(numbers, kind='stable')]
            groups = np.split(ordered, np.cumsum(np.bincount(numbers, minlength=len(counts)))[:-1])
        for group, chosen in enumerate(groups):
            if len(chosen):
                yield int(places[group]), chosen
                places[group] += len(chosen)


def _keep(folder: epath.Path, selection: Selection, write: Callable[[BinaryIO], None]) -> bool:
    """Writes a selection beside the index; False where that can't be."""
    temporary = index_places.temporary_beside(folder)
    about = {
        'languages': selection.languages,
        'counts': selection.counts,
        'left_out': selection.left_out,
    }
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        with open(temporary / 'rows.npy', 'wb') as file:
            write(file)
            empty = not file.tell()
        if empty:
            os.remove(temporary / 'rows.npy')
        (temporary / 'selection.json').write_text(json.dumps(about))
        os.rename(temporary, folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        # The index may lie where nothing can be written, or another process came first.
        if not (folder / 'selection.json').exists():
            logging.warning('the selection is kept in memory alone: %s', error)
            return False
    return True
