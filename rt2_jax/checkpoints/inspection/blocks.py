"""Arrays on disk in blocks, so that no more than a block of them is in memory.

`BLOCK_BYTES` bounds a block, but for arrays that are stored in larger pieces: such a piece is
compressed as one, and has to be read as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
import itertools
import math
import tempfile
from typing import Any
import zipfile
import zlib

from etils import epath
import ml_dtypes
import numpy as np

from rt2_jax.weights.tensors import SourceError, Tensor

BLOCK_BYTES = 16 << 20
Box = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Stored:
    """An array on disk.

    Attributes:
        shape, dtype: of the whole.
        reader: returns a function that reads a box of it.
        chunk: shape of the pieces that it is stored in; None where any part can be read by itself.
        spec: the mesh axes that each of its axes was split over when it was saved; None if unknown.
        mesh: sizes of the axes of that mesh, by name.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    reader: Callable[[], Callable[[Box], np.ndarray]]
    chunk: tuple[int, ...] | None = None
    spec: tuple[Any, ...] | None = None
    mesh: dict[str, int] | None = None

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.count * self.dtype.itemsize

    def boxes(self) -> Iterator[Box]:
        """Boxes that cover the array, each of whole pieces and as large as a block may be."""
        return boxes(self.shape, self.dtype.itemsize, self.chunk)


def boxes(
    shape: tuple[int, ...], itemsize: int, chunk: tuple[int, ...] | None, limit: int = BLOCK_BYTES
) -> Iterator[Box]:
    """See `Stored.boxes`.

    >>> list(boxes((4, 6), 1, (2, 3), limit=6))[1]
    (slice(0, 2, None), slice(3, 6, None))
    """
    box = [min(n, c) for n, c in zip(shape, chunk)] if chunk else [1] * len(shape)
    for axis in reversed(range(len(shape))):
        others = itemsize * math.prod(box[:axis] + box[axis + 1 :])
        fitting = limit // max(1, others) // max(1, box[axis]) * box[axis]
        box[axis] = min(shape[axis], max(box[axis], fitting))
        if box[axis] < shape[axis]:
            break
    starts = (range(0, n, max(1, b)) for n, b in zip(shape, box))
    for corner in itertools.product(*starts):
        yield tuple(slice(s, min(s + b, n)) for s, b, n in zip(corner, box, shape))


def of_tensor(tensor: Tensor) -> Stored:
    """A tensor of a safetensors file."""
    return Stored(tensor.shape, tensor.dtype, lambda: lambda box: tensor[box])


def of_npz(path: epath.Path, name: str, tensor: Tensor, dtype: np.dtype) -> Stored:
    """An array of an npz file, whose bits are numbers of `dtype`.

    A compressed array can only be read from its beginning on, so a large one is unpacked into a
    temporary file first.
    """

    def reader() -> Callable[[Box], np.ndarray]:
        try:
            with path.open('rb') as file, zipfile.ZipFile(file) as archive:
                with archive.open(f'{name}.npy') as entry:
                    return _unpacked(entry, dtype)
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise SourceError(f'{path}: {name} cannot be read: {error}') from error

    return Stored(tensor.shape, np.dtype(dtype), reader)


def _unpacked(entry: Any, dtype: np.dtype) -> Callable[[Box], np.ndarray]:
    version = np.lib.format.read_magic(entry)
    readers = {(1, 0): np.lib.format.read_array_header_1_0}
    shape, backwards, _ = readers.get(version, np.lib.format.read_array_header_2_0)(entry)
    order = 'F' if backwards else 'C'
    # The file is gone with the last reference to it, which is the function's.
    file = tempfile.TemporaryFile()
    while piece := entry.read(BLOCK_BYTES):
        file.write(piece)
    file.flush()
    if file.tell() != math.prod(shape) * np.dtype(dtype).itemsize:
        raise ValueError(f'it has {file.tell():,} bytes, which are not {shape} of {dtype}')
    if not file.tell():
        return lambda box: np.zeros(shape, dtype)[box]
    # Mapped anew for each box: pages that were read would stay in memory with the mapping.
    return lambda box: np.array(np.memmap(file, dtype, 'r', 0, shape, order)[box])


def type_of(name: str) -> np.dtype:
    """The NumPy type of a name, 'bfloat16' among them."""
    return np.dtype(getattr(ml_dtypes, name, name))
