"""A web set of any format as a random-access source of Examples, by way of its index.

web_sources opens it. An Example takes one pread and one decode.
"""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import json

from absl import logging
import numpy as np

from rt2_jax.data import files, picture_files
from rt2_jax.data.errors import DataSetError
from rt2_jax.data.example import Example
from rt2_jax.data.index.web_table import WebTable
from rt2_jax.data.picture_files import PictureFiles
from rt2_jax.data.stand_ins import StandIns
from rt2_jax.data.web import tasks as web_tasks
from rt2_jax.data.web.selection import Selection, Shares, language_shares, select
from rt2_jax.nearest import check


class WebSet:
    """Questions about the pictures of an indexed web set; item `i` is a pure function of (seed, i).

    An epoch holds every selected record `passes` times, as far as languages aren't weighted.

    Args:
      table: the opened index.
      name: the source's name.
      tasks: task (see web_tasks) -> how often; among those that a record has the texts for.
      wording: how questions are worded, 'rt2' or 'pali'.
      languages: language -> weight; languages left out aren't used. Empty: as in the data.
      temperature: instead of weights, 1 keeps the data's own shares of languages, more raises those
        of rare ones: they go with count ** (1 / temperature).
      keep_top: the share of records, by score, that are kept (PaLI keeps 0.1 of WebLI).
      min_score: the lowest score that is kept.
      holdout: the share, or number, of the set's records that are held out (see splits).
      part: 'train' for the other records, 'validation' for those.
      most_boxes: objects that an answer of `detect` names at most.
      passes: how often an epoch goes over the records; each time anew is drawn which of several
        captions, answers and tasks it is.
      seed: another seed draws others.
      on_corrupt: what to do when a picture can't be read back as indexed. 'raise', or 'skip': the
        nearest following readable record stands in for it, which is logged and counted.

    Attributes:
      fingerprint: changes with the data, the card or any of the settings.
    """

    def __init__(
        self,
        table: WebTable,
        *,
        tasks: Mapping[str, float],
        name: str = 'web',
        wording: str = 'rt2',
        languages: Mapping[str, float] | None = None,
        temperature: float = 1.0,
        keep_top: float = 1.0,
        min_score: float | None = None,
        holdout: float = 0,
        part: str = 'train',
        most_boxes: int = 8,
        passes: int = 1,
        seed: int = 0,
        on_corrupt: str = 'raise',
    ):
        check('wording', wording, web_tasks.WORDINGS)
        self.table, self.name, self._wording = table, name, wording
        self._stand_ins = StandIns(name, on_corrupt)
        self._most_boxes, self._passes, self._seed = most_boxes, passes, seed
        self._tasks = _positive('task', tasks, web_tasks.TASKS)
        weights = _positive(f'language of {table.directory}:', languages or {}, table.languages)
        if temperature != 1 and weights:
            raise ValueError('give weights of languages or a temperature, not both')
        if temperature < 1 or passes < 1 or most_boxes < 1:
            raise ValueError(
                f'temperature, passes and most_boxes must be at least 1; got {temperature}, '
                f'{passes}, {most_boxes}'
            )
        self.selection: Selection = select(
            table,
            [web_tasks.TASKS[task] for task in self._tasks],
            languages=tuple(weights),
            grouped=bool(weights) or temperature != 1,
            keep_top=keep_top,
            min_score=min_score,
            holdout=holdout,
            part=part,
        )
        if lost := sorted(set(weights) - set(self.selection.languages)) if weights else []:
            raise DataSetError(
                f'{table.directory}: no record of language {lost[0]!r} is left, though its weight is '
                f'{weights[lost[0]]:g}; left out were {dict(self.selection.left_out)}'
            )
        for reason, count in self.selection.left_out.items():
            logging.info('%s: %d of %d records: %s', name, count, len(table), reason)
        shares = language_shares(self.selection, weights, temperature)
        self._shares = Shares(self.selection, shares)
        settings = [
            table.fingerprint,
            sorted(self._tasks.items()),
            wording,
            sorted(weights.items()),
        ]
        settings += [temperature, keep_top, min_score, most_boxes, passes, seed]
        settings += [holdout, part] if holdout else []
        self.fingerprint = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]
        self._files = PictureFiles(table.files, table.stamps)

    @property
    def skipped(self) -> int:
        """How many times another record stood in for one that can't be read."""
        return self._stand_ins.count

    @property
    def kinds(self) -> tuple[str, ...]:
        """The tasks, which are the kinds of its Examples."""
        return tuple(sorted(self._tasks))

    def __len__(self) -> int:
        return len(self._shares) * self._passes

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < len(self):
            raise IndexError(f'example {i} of {len(self)}')
        return self._stand_ins.read(int(i), len(self), self._example)

    def __repr__(self) -> str:
        return f'WebSet({self.name}, {sum(self.selection.counts)} of {len(self.table)} records)'

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
        rng = np.random.Generator(np.random.Philox(key=[self._seed, i]))
        task = self._task(row, rng)
        prompt, answer = web_tasks.ask(task, self.table, row, rng, self._wording, self._most_boxes)
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


def _positive(what: str, weights: Mapping[str, float], valid) -> dict[str, float]:
    """Weights above zero, names checked."""
    for name, weight in weights.items():
        check(what, name, valid)
        if not 0 <= weight < float('inf'):
            raise ValueError(f'{what} {name!r} has the weight {weight}: 0 or more is expected')
    kept = {name: float(weight) for name, weight in weights.items() if weight > 0}
    if weights and not kept:
        raise ValueError(f'{what} the weights add up to nothing: {dict(weights)}')
    return kept
