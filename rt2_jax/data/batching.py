"""Rows -> batches, by threads that each write runs of rows where they belong in the batch.

grain's own reading threads take an element at a time, and its transformations keep statistics of
each; beside a JPEG of half a millisecond that, and stacking the rows afterwards, cost as much again
as half the decoding. What is said of all rows of a run at once costs next to nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
import math
import weakref

import numpy as np

Shapes = Mapping[str, tuple[Sequence[int], np.dtype]]
Write = Callable[[Sequence[int], Mapping[str, np.ndarray]], None]

# Handing a run of rows to a thread costs as much as 30 us, and what is done for all rows of a run some
# 300; while that is done, though, Python's other threads wait.
_LONGEST_RUN = 64

_ALIGNMENT = 64

# With two batches under way no thread waits for the last rows of one.
_UNDER_WAY = 2


def read(
    write: Write, shapes: Shapes, batches: Iterable[Sequence[int]], threads: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yields each batch as arrays, rows in the order given.

    Args:
      write: write(numbers, rows) writes the rows of these numbers, from any thread; `rows` has the
        part of each of the batch's arrays where they belong, [len(numbers), ...], and holds what an
        earlier batch left there.
      shapes: shape and dtype of a row, by the arrays' names.
      batches: the numbers of each batch's rows.
      threads: how many read.

    Raises:
      What `write` raises.
    """
    pool = futures.ThreadPoolExecutor(threads, 'reading')
    memory, under_way = Memory(), deque()
    try:
        for numbers in batches:
            under_way.append(_Batch(write, shapes, numbers, memory, pool, threads))
            if len(under_way) == _UNDER_WAY:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Memory:
    """Gives out arrays in the memory of earlier ones that nobody holds any more.

    The system would clear fresh pages for each batch, which takes longer than filling them does.
    Arrays begin where JAX takes them for its own on a CPU, without a copy.
    """

    def __init__(self):
        self._unused: dict[int, list[memoryview]] = {}

    def empty(self, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """As np.empty."""
        size = math.prod(shape) * dtype.itemsize
        unused = self._unused.setdefault(size, [])
        block = unused.pop() if unused else _aligned(size)
        # Every view of it, however derived, holds this array, since its own base is no array.
        array = np.frombuffer(block, dtype)
        weakref.finalize(array, unused.append, block).atexit = False
        return array.reshape(shape)


def _aligned(size: int) -> memoryview:
    whole = np.empty(size + _ALIGNMENT, np.uint8)
    start = -whole.ctypes.data % _ALIGNMENT
    return memoryview(whole[start : start + size])


class _Batch:
    """A batch that is being filled."""

    def __init__(self, write: Write, shapes: Shapes, numbers, memory: Memory, pool, threads: int):
        self._write, self._numbers = write, numbers
        self._arrays = {
            name: memory.empty((len(numbers), *shape), np.dtype(dtype))
            for name, (shape, dtype) in shapes.items()
        }
        run = min(max(1, len(numbers) // (4 * threads)), _LONGEST_RUN)
        self._runs = [
            pool.submit(self._fill, slice(start, start + run))
            for start in range(0, len(numbers), run)
        ]

    def result(self) -> dict[str, np.ndarray]:
        # Waiting for each run in its turn would wake this thread, and stop a reading one, at each.
        futures.wait(self._runs, return_when=futures.FIRST_EXCEPTION)
        for run in self._runs:
            run.result()
        return self._arrays

    def _fill(self, places: slice) -> None:
        rows = {name: array[places] for name, array in self._arrays.items()}
        self._write(self._numbers[places], rows)
