"""A web set of any format as a random-access source of Examples, by way of its index.

An Example takes one pread and one decode. web/sources.py opens one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import functools
import hashlib
import json

from absl import logging
import numpy as np

from rt2_jax.data import files, picture_files
from rt2_jax.data.data_config import WebSet
from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.example import Example
from rt2_jax.data.index.web_table import WebTable
from rt2_jax.data.picture_files import PictureFiles
from rt2_jax.data.skip_corrupt import SkipCorrupt
from rt2_jax.data.web import web_tasks
from rt2_jax.data.web.record_selection import Selection, Shares, language_shares, select
from rt2_jax.nearest import check


class WebSource(SkipCorrupt):
    """Questions about the pictures of an indexed web set; item `i` is a pure function of (seed, i).

    Args:
        table: the opened index.
        settings: which records, how they are weighted, and what is asked about them.
        part: 'train' for the records that aren't held out, 'validation' for those that are.

    Attributes:
        name: the source's name.
        table: the opened index.
        settings: of the set.
        selection: the records that are used.
        fingerprint: changes with the data, the card or any of the settings.

    Raises:
        DataSetError: no record is left, or none of a language that has a weight.
        ValueError: a setting that can't be.
    """

    def __init__(self, table: WebTable, settings: WebSet, part: str = 'train') -> None:
        self.table, self.settings, self.name = table, settings, settings.name
        check('wording', settings.wording, web_tasks.WORDINGS)
        self._tasks = _positive('task', settings.tasks, web_tasks.TASKS)
        what = f'language of {table.directory}:'
        weights = _positive(what, settings.languages, table.languages)
        if settings.temperature != 1 and weights:
            raise ValueError('give weights of languages or a temperature, not both')
        if min(settings.temperature, settings.passes, settings.most_boxes) < 1:
            raise ValueError(
                'temperature, passes and most_boxes must be at least 1; got '
                f'{settings.temperature}, {settings.passes}, {settings.most_boxes}'
            )
        needs = [web_tasks.TASKS[task] for task in self._tasks]
        self.selection: Selection = select(table, needs, settings, tuple(weights), part)
        if lost := sorted(set(weights) - set(self.selection.languages)) if weights else []:
            raise DataSetError(
                f'{table.directory}: no record of language {lost[0]!r} is left, though its weight is '
                f'{weights[lost[0]]:g}; left out were {dict(self.selection.left_out)}'
            )
        for reason, count in self.selection.left_out.items():
            logging.info('%s: %d of %d records: %s', self.name, count, len(table), reason)
        shares = language_shares(self.selection, weights, settings.temperature)
        self._shares = Shares(self.selection, shares)
        self.fingerprint = self._fingerprint(weights, part)
        self._files = PictureFiles(table.files, table.stamps)

    def _fingerprint(self, languages: Mapping[str, float], part: str) -> str:
        settings = self.settings
        content = [
            self.table.fingerprint,
            sorted(self._tasks.items()),
            settings.wording,
            sorted(languages.items()),
            settings.temperature,
            settings.keep_top,
            settings.min_score,
            settings.most_boxes,
            settings.passes,
            settings.seed,
        ]
        content += [settings.holdout, part] if settings.holdout else []
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]

    @property
    def on_corrupt(self) -> str:
        """As the set's settings say."""
        return self.settings.on_corrupt

    @property
    def kinds(self) -> tuple[str, ...]:
        """The tasks, which are the kinds of its Examples."""
        return tuple(sorted(self._tasks))

    def __len__(self) -> int:
        return len(self._shares) * self.settings.passes

    def readers(self, numbers: Sequence[int]) -> Iterator[Callable[[], Example]]:
        """See `SkipCorrupt.readers`."""
        for number in map(int, numbers):
            if not 0 <= number < len(self):
                raise IndexError(f'example {number} of {len(self)}')
            yield functools.partial(self._example, number)

    def __repr__(self) -> str:
        return f'WebSource({self.name}, {sum(self.selection.counts)} of {len(self.table)} records)'

    def row(self, i: int) -> int:
        """The record, in the table, that example `i` is about."""
        return self._shares.row(i % len(self._shares))

    def encoded(self, row: int) -> bytes:
        """The encoded picture of a record.

        Raises:
            tfrecord.CorruptRecord: it isn't what it was when it was indexed.
        """
        return picture_files.check(*self._read(row))

    def _read(self, row: int) -> tuple[bytes, int, files.Path | str, int]:
        """A picture's bytes as they are now, the checksum that they had, their file and its byte."""
        place = self.table.place(row)
        if place.file is not None:
            (data,) = self._files.read(place.file, [(place.offset, place.length)])
            return data, place.checksum, self.table.files[place.file], place.offset
        try:
            data = files.read(place.path)
        except FileNotFoundError as error:
            raise picture_files.vanished(place.path, 0) from error
        picture_files.check_length(data, place.length, place.path, 0)
        return data, place.checksum, place.path, 0

    def _example(self, i: int) -> Example:
        row = self.row(i)
        settings = self.settings
        rng = np.random.Generator(np.random.Philox(key=[settings.seed, i]))
        task = self._task(row, rng)
        prompt, answer = web_tasks.ask(
            task, self.table, row, rng, settings.wording, settings.most_boxes
        )
        frame = picture_files.decode(*self._read(row))
        return Example(
            frames=frame[None], prompt=prompt, answer=answer, source=self.name, kind=task, clip=True
        )

    def _task(self, row: int, rng: np.random.Generator) -> str:
        if len(self._tasks) == 1:
            return next(iter(self._tasks))
        able = [task for task in self._tasks if self.table.holds(row, web_tasks.TASKS[task])]
        totals = np.cumsum([self._tasks[task] for task in able])
        return able[int(np.searchsorted(totals, rng.random() * totals[-1], side='right'))]


def _positive(what: str, weights: Mapping[str, float], valid: Iterable[str]) -> dict[str, float]:
    """Weights above zero, names checked."""
    for name, weight in weights.items():
        check(what, name, valid)
        if not 0 <= weight < float('inf'):
            raise ValueError(f'{what} {name!r} has the weight {weight}: 0 or more is expected')
    kept = {name: float(weight) for name, weight in weights.items() if weight > 0}
    if weights and not kept:
        raise ValueError(f'{what} the weights add up to nothing: {dict(weights)}')
    return kept
