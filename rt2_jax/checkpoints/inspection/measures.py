"""What is measured of numbers as they are read, block by block, and of two arrays beside each other."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import math

import numpy as np

from rt2_jax.checkpoints.inspection.blocks import Stored
from rt2_jax.weights.tensors import SourceError

_AT_A_TIME = 1 << 16  # numbers that are made float64 at a time, so that they stay in the cache


@dataclasses.dataclass
class Measures:
    """Of an array's numbers, or of several arrays'.

    Attributes:
        count, nan, infinite, zeros: how many numbers there are, and of each kind.
        squares: sum of the squares of the finite ones.
        low, high: least and greatest finite number.
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
        return math.sqrt(self.squares)

    def add(self, numbers: np.ndarray) -> None:
        """Takes float64 [n] in."""
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
        """Takes another's numbers in."""
        for name in ('count', 'nan', 'infinite', 'zeros', 'squares'):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def report(self) -> dict[str, float | int | None]:
        """As JSON has it."""
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
    """Between two arrays of one shape, the first being the later one.

    Attributes:
        equal: to the bit; arrays of two types are not.
        squares: sum of the squares of the differences, where both are finite.
        largest: the largest difference.
        incomparable: how many places have NaN or infinity in one of them.
    """

    equal: bool = True
    squares: float = 0.0
    largest: float = 0.0
    incomparable: int = 0

    def add(self, one: np.ndarray, other: np.ndarray) -> None:
        """Takes float64 [n] of each in."""
        with np.errstate(invalid='ignore'):
            difference = one - other
        squares = _squares(difference)
        if not math.isfinite(squares):
            finite = difference[np.isfinite(difference)]
            self.incomparable += difference.size - finite.size
            difference, squares = finite, _squares(finite)
        self.squares += squares
        if difference.size:
            self.largest = max(self.largest, float(np.abs(difference).max()))

    def join(self, other: Change) -> None:
        """Takes another's differences in."""
        self.equal = self.equal and other.equal
        self.squares += other.squares
        self.largest = max(self.largest, other.largest)
        self.incomparable += other.incomparable

    def report(self, one: Measures, other: Measures) -> dict[str, float | int | bool | None]:
        """As JSON has it; `relative` is the norm of the difference in units of the other's norm."""
        ratio = lambda x: x / other.norm if other.norm else (0.0 if x == 0 else None)
        return {
            'equal': self.equal,
            'relative': ratio(math.sqrt(self.squares)),
            'norm': ratio(one.norm - other.norm),
            'largest': self.largest,
            'incomparable': self.incomparable,
        }


def measure(name: str, stored: Stored) -> Measures:
    """Reads all of an array.

    Raises:
        SourceError: it cannot be read.
    """
    found = Measures()
    for block in _blocks(name, stored, stored):
        for numbers in _numbers(block):
            found.add(numbers)
    return found


def compare(name: str, one: Stored, other: Stored) -> tuple[Measures, Measures, Change]:
    """Reads two arrays of one shape beside each other; raises as `measure`."""
    first, second, change = Measures(), Measures(), Change(equal=one.dtype == other.dtype)
    pairs = zip(_blocks(name, one, one), _blocks(name, other, one), strict=True)
    for block, beside in pairs:
        if change.equal:
            change.equal = np.array_equal(_bits(block), _bits(beside))
        for numbers, others in zip(_numbers(block), _numbers(beside), strict=True):
            first.add(numbers)
            second.add(others)
            change.add(numbers, others)
    return first, second, change


def _blocks(name: str, stored: Stored, like: Stored) -> Iterator[np.ndarray]:
    """Blocks of an array, in the boxes of `like`."""
    read = stored.reader()
    for box in like.boxes():
        try:
            yield read(box)
        except (ValueError, OSError) as error:
            raise SourceError(f'{name} cannot be read: {str(error).split(" [")[0]}') from error


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
