"""Norm, extremes and NaN of tensors, and how two differ, read block by block."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import math

import numpy as np

from rt2_jax.weights.tensors import SourceError, Tensor

_AT_A_TIME = 1 << 16  # numbers that are made float64 at a time, so that they stay in the cache


@dataclasses.dataclass
class Measures:
    """Statistics of a tensor's numbers, or of several tensors'.

    Attributes:
        count: how many numbers.
        nan: how many NaN.
        infinite: how many infinities.
        zeros: how many zeros.
        squares: sum of the squares of the finite ones.
        low: least finite number.
        high: greatest finite number.
    """

    count: int = 0
    nan: int = 0
    infinite: int = 0
    zeros: int = 0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    @property
    def norm(self) -> float:
        """Euclidean norm of the finite numbers."""
        return math.sqrt(self.squares)

    def add(self, numbers: np.ndarray) -> None:
        """Adds numbers, float64 [n]."""
        self.count += numbers.size
        self.zeros += int(np.count_nonzero(numbers == 0))
        squares = _squares(numbers)
        # Squares of float32 don't overflow float64: the sum is finite if every number is.
        if not math.isfinite(squares):
            nan = np.isnan(numbers)
            finite = numbers[np.isfinite(numbers)]
            self.nan += int(nan.sum())
            self.infinite += numbers.size - finite.size - int(nan.sum())
            numbers, squares = finite, _squares(finite)
        self.squares += squares
        if numbers.size:
            self.low = min(self.low, float(numbers.min()))
            self.high = max(self.high, float(numbers.max()))

    def join(self, other: Measures) -> None:
        """Adds those of another."""
        for name in ('count', 'nan', 'infinite', 'zeros', 'squares'):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def report(self) -> dict[str, float | int | None]:
        """For JSON."""
        any_finite = self.low <= self.high
        return {
            'norm': self.norm,
            'min': self.low if any_finite else None,
            'max': self.high if any_finite else None,
            'nan': self.nan,
            'inf': self.infinite,
            'zeros': self.zeros / self.count if self.count else 0.0,
        }


@dataclasses.dataclass
class Change:
    """How two arrays of one shape differ; the first is the later one.

    Attributes:
        equal: to the bit; arrays of different types are not.
        squares: sum of the squares of the differences, where both are finite.
        largest: the largest difference.
        incomparable: how many places have NaN or infinity in one of them.
    """

    equal: bool = True
    squares: float = 0.0
    largest: float = 0.0
    incomparable: int = 0

    def add(self, later: np.ndarray, earlier: np.ndarray) -> None:
        """Adds numbers of each, float64 [n]."""
        with np.errstate(invalid='ignore'):
            difference = later - earlier
        squares = _squares(difference)
        if not math.isfinite(squares):
            finite = difference[np.isfinite(difference)]
            self.incomparable += difference.size - finite.size
            difference, squares = finite, _squares(finite)
        self.squares += squares
        if difference.size:
            self.largest = max(self.largest, float(np.abs(difference).max()))

    def join(self, other: Change) -> None:
        """Adds those of another."""
        self.equal = self.equal and other.equal
        self.squares += other.squares
        self.largest = max(self.largest, other.largest)
        self.incomparable += other.incomparable

    def report(self, later: Measures, earlier: Measures) -> dict[str, float | int | bool | None]:
        """For JSON; `relative` is the norm of the difference in units of the earlier norm."""
        ratio = lambda x: x / earlier.norm if earlier.norm else (0.0 if x == 0 else None)
        return {
            'equal': self.equal,
            'relative': ratio(math.sqrt(self.squares)),
            'norm': ratio(later.norm - earlier.norm),
            'largest': self.largest,
            'incomparable': self.incomparable,
        }


def measure(tensor: Tensor) -> Measures:
    """Reads all of a tensor.

    Raises:
        SourceError: it cannot be read.
    """
    measures = Measures()
    for block in _blocks(tensor, tensor):
        for numbers in _numbers(block):
            measures.add(numbers)
    return measures


def compare(later: Tensor, earlier: Tensor) -> tuple[Measures, Measures, Change]:
    """Reads two tensors of one shape side by side; raises as `measure`."""
    of_later, of_earlier, change = Measures(), Measures(), Change(later.dtype == earlier.dtype)
    pairs = zip(_blocks(later, later), _blocks(earlier, later), strict=True)
    for block, other in pairs:
        if change.equal:
            change.equal = np.array_equal(_bits(block), _bits(other))
        for numbers, others in zip(_numbers(block), _numbers(other), strict=True):
            of_later.add(numbers)
            of_earlier.add(others)
            change.add(numbers, others)
    return of_later, of_earlier, change


def _blocks(tensor: Tensor, like: Tensor) -> Iterator[np.ndarray]:
    """Blocks of a tensor, in the boxes of `like`."""
    read = tensor.reader()
    for box in like.boxes():
        try:
            yield read(box)
        except SourceError:
            raise
        except (ValueError, OSError) as error:
            reason = str(error).split(' [')[0]
            raise SourceError(f'{tensor.name} cannot be read: {reason}') from error


def _numbers(block: np.ndarray) -> Iterator[np.ndarray]:
    """Pieces of a block as float64 [n]."""
    flat = np.ascontiguousarray(block).reshape(-1)
    for start in range(0, flat.size, _AT_A_TIME):
        yield flat[start : start + _AT_A_TIME].astype(np.float64)


def _bits(block: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(block).reshape(-1).view(np.uint8)


def _squares(numbers: np.ndarray) -> float:
    """Their sum; not by BLAS, whose threads wait for each other longer than this takes."""
    return float(np.einsum('i,i', numbers, numbers))
