"""Reads batches: threads that each write runs of rows where they belong in the batch.

grain's own reading threads take an element at a time, and its transformations keep statistics of
each; beside a JPEG of half a millisecond that, and stacking the rows afterwards, cost as much again
as half the decoding. What is computed for all rows of a run at once costs next to nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent import futures
import dataclasses
import math
import weakref

import numpy as np

from rt2_jax.data.encoding import ExampleEncoder
from rt2_jax.data.order import RunExamples

# Handing a run of rows to a thread costs as much as 30 us, and what is done for all rows of a run some
# 300; while that is done, though, Python's other threads wait.
_LONGEST_RUN = 64

_ALIGNMENT = 64

# With two batches under way no thread waits for the last rows of one.
_UNDER_WAY = 2


class BatchReader:
    """Batches of a run's examples, as numpy arrays.

    Args:
        examples: of the run, by number.
        encoder: writes them into rows of a batch.
        threads: how many read.
    """

    def __init__(self, examples: RunExamples, encoder: ExampleEncoder, threads: int) -> None:
        self._examples, self._encoder, self._threads = examples, encoder, threads

    def read(self, batches: Iterable[Sequence[int]]) -> Generator[dict[str, np.ndarray]]:
        """Yields each batch as arrays by name, see `ExampleEncoder.write`.

        Args:
            batches: the numbers of each batch's examples, in the order of its rows.

        Raises:
            Exception: whatever reading or encoding an example raises.
        """
        pool = futures.ThreadPoolExecutor(self._threads, 'reading')
        memory, under_way = Memory(), deque[_Batch]()
        try:
            for numbers in batches:
                under_way.append(self._start(numbers, memory, pool))
                if len(under_way) == _UNDER_WAY:
                    yield under_way.popleft().finished()
            while under_way:
                yield under_way.popleft().finished()
        finally:
            pool.shutdown(cancel_futures=True)

    def _start(self, numbers: Sequence[int], memory: Memory, pool: futures.Executor) -> _Batch:
        arrays = {
            name: memory.empty((len(numbers), *shape), np.dtype(dtype))
            for name, (shape, dtype) in self._encoder.shapes.items()
        }
        length = min(max(1, len(numbers) // (4 * self._threads)), _LONGEST_RUN)
        runs = [slice(start, start + length) for start in range(0, len(numbers), length)]
        return _Batch(arrays, [pool.submit(self._write, numbers, arrays, run) for run in runs])

    def _write(self, numbers: Sequence[int], arrays: dict[str, np.ndarray], run: slice) -> None:
        examples = self._examples[numbers[run]]
        self._encoder.write(examples, {name: array[run] for name, array in arrays.items()})


class Memory:
    """Gives out arrays in the memory of earlier ones that nobody holds any more.

    The system would clear fresh pages for each batch, which takes longer than filling them does.
    Arrays begin where JAX takes them for its own on a CPU, without a copy.
    """

    def __init__(self) -> None:
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
    return whole[start : start + size].data


@dataclasses.dataclass(frozen=True)
class _Batch:
    """A batch that is being written."""

    arrays: dict[str, np.ndarray]
    runs: list[futures.Future]

    def finished(self) -> dict[str, np.ndarray]:
        # Waiting for each run in its turn would wake this thread, and stop a reading one, at each.
        futures.wait(self.runs, return_when=futures.FIRST_EXCEPTION)
        for run in self.runs:
            run.result()
        return self.arrays
