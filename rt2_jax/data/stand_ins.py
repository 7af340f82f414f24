"""What becomes of an example that can't be read: an error, or the next one in its place."""

from __future__ import annotations

from collections.abc import Callable
import threading
from typing import Any

from absl import logging

from rt2_jax.data.errors import ON_CORRUPT
from rt2_jax.data.example import Example
from rt2_jax.data.readers import tfrecord
from rt2_jax.nearest import check


class StandIns:
    """Reads a source's examples as its `on_corrupt` says.

    Args:
      name: the source's.
      on_corrupt: 'raise', or 'skip': the nearest following readable example stands in for one that
        can't be read, which is logged and counted.

    Attributes:
      count: how many times another example stood in.
    """

    def __init__(self, name: str, on_corrupt: str):
        self._skips = check('on_corrupt', on_corrupt, ON_CORRUPT) == 'skip'
        self._name, self._lock, self.count = name, threading.Lock(), 0

    def read(
        self,
        i: int,
        length: int,
        example: Callable[[int], Example],
        first: Callable[[], Example] | None = None,
        where: Callable[[int], str] | None = None,
    ) -> Example:
        """Example `i` of `length`.

        Args:
          i, length: which, of how many.
          example: reads one by its number.
          first: reads number `i`, where it has been looked up already.
          where: says for an error message which part of the data an example is.

        Raises:
          tfrecord.CorruptRecord: with 'raise', or where none can be read.
        """
        try:
            return first() if first else example(i)
        except tfrecord.CorruptRecord as error:
            if where:
                reason = f'{error.reason} ({where(i)})'
                error = tfrecord.CorruptRecord(error.path, error.offset, reason)
            if not self._skips:
                raise error
            return self._next(i, length, example, error)

    def _next(self, i: int, length: int, example, error: tfrecord.CorruptRecord) -> Example:
        for other in (number % length for number in range(i + 1, i + length)):
            try:
                found = example(other)
            except tfrecord.CorruptRecord:
                continue
            with self._lock:
                self.count += 1
            logging.warning(
                "%s: example %d can't be read; %d stands in for it (%d times so far): %s",
                self._name,
                i,
                other,
                self.count,
                error,
            )
            return found
        raise error

    def __getstate__(self) -> dict[str, Any]:
        # A lock belongs to one process.
        return {**self.__dict__, '_lock': None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())
