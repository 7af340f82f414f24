"""Which records of a web set are used, and how often: tasks, scores, languages.

A selection is a column of rows, grouped by language where languages are weighted. It is computed
once, kept beside the index, and opens memory-mapped, so that start-up doesn't depend on size.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import os
import shutil
from typing import Any

from absl import logging
from etils import epath
import numpy as np

from rt2_jax.data.errors import DataSetError
from rt2_jax.data.web.table import WebTable
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

    def __init__(self, selection: Selection, shares: Sequence[float]):
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
    *,
    languages: Sequence[str] = (),
    grouped: bool = False,
    keep_top: float = 1.0,
    min_score: float | None = None,
) -> Selection:
    """Selects records; kept beside the index, where that can be written.

    Applied in this order: a record must hold what some task needs, be in one of the languages, have
    at least the score, and be among the best.

    Args:
      table: the opened index.
      needs: the fields that each task needs.
      languages: languages to keep; all if empty.
      grouped: group rows by language.
      keep_top: the share of records, by score, that are kept; exact, ties go to those that come
        first in the set. Records without a score are left out if this is below 1.
      min_score: the lowest score that is kept.

    Raises:
      DataSetError: nothing is left, or there are no scores.
    """
    for language in languages:
        check(f'language of {table.directory}:', language, table.languages)
    if not 0 < keep_top <= 1:
        raise ValueError(f'keep_top must be above 0 and at most 1, not {keep_top}')
    settings = {
        'needs': sorted(sorted(need) for need in needs),
        'languages': sorted(languages),
        'grouped': grouped,
        'keep_top': keep_top,
        'min_score': min_score,
        'index': table.fingerprint,
    }
    own = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    folder = table.location / f'selection-{own}'
    if not (folder / 'selection.json').exists():
        selection = _compute(table, settings)
        _keep(folder, selection)
        return selection
    about = json.loads((folder / 'selection.json').read_text())
    rows = folder / 'rows.npy'
    return Selection(
        np.asarray(np.load(rows, mmap_mode='r')) if rows.exists() else None,
        tuple(about['languages']),
        tuple(about['counts']),
        about['left_out'],
    )


def _compute(table: WebTable, settings: Mapping[str, Any]) -> Selection:
    arrays, left_out = table.arrays, {}
    kept = np.zeros(len(table), bool)
    for need in settings['needs']:
        kept |= table.holding(*need)

    def keep(reason: str, mask: np.ndarray) -> None:
        nonlocal kept
        if lost := int((kept & ~mask).sum()):
            left_out[reason] = lost
        kept = kept & mask
        if not kept.any():
            raise DataSetError(
                f'{table.directory}: no record is left; of {len(table)}, these were left out: '
                f'{left_out}'
            )

    if lost := int((~kept).sum()):
        left_out['has no text for any of the tasks'] = lost
    keep('', np.ones(len(table), bool))
    if settings['languages']:
        numbers = [table.languages.index(language) for language in settings['languages']]
        keep('in another language', np.isin(arrays['language'], numbers))
    if settings['min_score'] is not None or settings['keep_top'] < 1:
        keep('has no score', ~np.isnan(arrays['score']))
    if settings['min_score'] is not None:
        keep('scores lower', arrays['score'] >= settings['min_score'])
    if settings['keep_top'] < 1:
        keep('is not among the best', _best(arrays['score'], kept, settings['keep_top']))
    return _grouped(table, kept, settings['grouped'], left_out)


def _best(score: np.ndarray, kept: np.ndarray, share: float) -> np.ndarray:
    """bool [records]: the best `share` of those kept, to the record."""
    candidates = np.flatnonzero(kept)
    count = max(1, round(share * len(candidates)))
    values = score[candidates]
    threshold = np.partition(values, len(values) - count)[len(values) - count]
    above = candidates[values > threshold]
    ties = candidates[values == threshold][: count - len(above)]
    mask = np.zeros(len(score), bool)
    mask[above] = mask[ties] = True
    return mask


def _grouped(table: WebTable, kept, grouped: bool, left_out) -> Selection:
    if not grouped:
        count = int(kept.sum())
        rows = None if count == len(table) else np.flatnonzero(kept)
        return Selection(_small(rows, len(table)), ('',), (count,), left_out)
    rows = np.flatnonzero(kept)
    numbers = table.arrays['language'][rows]
    counts = np.bincount(numbers, minlength=len(table.languages))
    rows = rows[np.argsort(numbers, kind='stable')]
    present = [k for k in range(len(counts)) if counts[k]]
    names = tuple(table.languages[k] for k in present)
    return Selection(
        _small(rows, len(table)), names, tuple(int(counts[k]) for k in present), left_out
    )


def _small(rows: np.ndarray | None, size: int) -> np.ndarray | None:
    return rows if rows is None else rows.astype(np.uint32 if size < 1 << 32 else np.int64)


def _keep(folder: epath.Path, selection: Selection) -> None:
    temporary = folder.with_name(f'{folder.name}.incomplete-{os.getpid()}')
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        if selection.rows is not None:
            np.save(temporary / 'rows.npy', selection.rows)
        about = {
            'languages': selection.languages,
            'counts': selection.counts,
            'left_out': selection.left_out,
        }
        (temporary / 'selection.json').write_text(json.dumps(about))
        os.rename(temporary, folder)
    except OSError as error:
        # The index may lie where nothing can be written, or another process came first.
        if not (folder / 'selection.json').exists():
            logging.warning('the selection is kept in memory alone: %s', error)
        shutil.rmtree(temporary, ignore_errors=True)
