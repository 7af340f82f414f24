"""Sources that read pictures: an example that can't be read is an error, or the next one is taken."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
import threading

from absl import logging

from rt2_jax.data.data_errors import CorruptRecord
from rt2_jax.data.example import Example

# One for all sources: they skip seldom, and a lock of their own would not go to another process.
_COUNT_LOCK = threading.Lock()


class SkipCorrupt(abc.ABC):
    """A source of Examples that raises where one can't be read, or takes the next readable one.

    Attributes:
        name: the source's name.
        skipped: how many times another example was taken.
    """

    name: str
    skipped = 0

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @property
    @abc.abstractmethod
    def on_corrupt(self) -> str:
        """'raise', or 'skip': the nearest following readable example is taken, logged and counted."""

    @abc.abstractmethod
    def readers(self, numbers: Sequence[int]) -> Iterator[Callable[[], Example]]:
        """For each of the numbers a function that reads its pictures and makes its Example.

        What can be looked up for all of them at once is looked up here.
        """

    def where(self, number: int) -> str:
        """The place of an example in the data, for error messages; '' if the error says enough."""
        del number
        return ''

    def __getitem__(self, i: int) -> Example:
        return next(self.examples([i]))

    def examples(self, numbers: Sequence[int]) -> Iterator[Example]:
        """The Examples of these numbers, read as they are asked for.

        Raises:
            CorruptRecord: with 'raise', or where none can be read.
        """
        for number, read in zip(numbers, self.readers(numbers), strict=True):
            try:
                example = read()
            except CorruptRecord as error:
                example = self._next_readable(int(number), self._with_place(error, int(number)))
            yield example
            del example  # so that the next one's frames lie in the same memory

    def _with_place(self, error: CorruptRecord, number: int) -> CorruptRecord:
        where = self.where(number)
        if not where:
            return error
        return type(error)(error.path, error.offset, f'{error.reason} ({where})')

    def _next_readable(self, number: int, error: CorruptRecord) -> Example:
        if self.on_corrupt != 'skip':
            raise error
        length = len(self)
        for other in (after % length for after in range(number + 1, number + length)):
            try:
                example = next(self.readers([other]))()
            except CorruptRecord:
                continue
            with _COUNT_LOCK:
                # Some sources are frozen dataclasses.
                object.__setattr__(self, 'skipped', self.skipped + 1)
            logging.warning(
                "%s: example %d can't be read; %d stands in for it (%d times so far): %s",
                self.name,
                number,
                other,
                self.skipped,
                error,
            )
            return example
        raise error
