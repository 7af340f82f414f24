"""Arrays of an index: parts written by workers, joined on disk, opened memory-mapped.

A part is an .npz of one file's arrays with a JSON text `about`, written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
import json
import os
from typing import Any

from etils import epath
import google_crc32c
import numpy as np

from rt2_jax.data.data_errors import IndexMismatch

_VERIFY_ROWS = 1 << 18


def write_part(path: epath.PathLike, arrays: Mapping[str, np.ndarray], about: Any) -> None:
    """Writes a part whole or not at all."""
    temporary = f'{os.fspath(path)}.incomplete-{os.getpid()}'
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    try:
        with open(temporary, 'wb') as file:
            np.savez(file, **{**arrays, 'about': text})  # type: ignore[arg-type]  # of its flags
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def about_part(path: epath.PathLike) -> Any:
    """What JSON says of a part."""
    with np.load(path) as part:
        return json.loads(part['about'].tobytes())


def of_parts(paths: Iterable[epath.PathLike], name: str) -> Iterator[np.ndarray]:
    """An array of each part that has it."""
    for path in paths:
        with np.load(path) as part:
            if name in part.files:
                yield part[name]


class Writer:
    """Writes the arrays of an index.

    Args:
        folder: of the index.

    Attributes:
        arrays: name -> {'bytes', 'crc32c'} of the values of each array so far.
    """

    def __init__(self, folder: epath.Path) -> None:
        self._folder = folder
        self.arrays: dict[str, dict[str, int]] = {}

    def write(self, name: str, parts: Iterable[np.ndarray], rows: int) -> None:
        """Writes NAME.npy, of `rows` rows, from its parts.

        Not through a memory map: a full disk would kill the process.
        """
        checksum, size, begun = 0, 0, False
        with open(self._folder / f'{name}.npy', 'wb') as file:
            for part in parts:
                # An empty part doesn't know how wide its arrays would be.
                if not begun and (len(part) or not rows):
                    begun = True
                    header = np.lib.format.header_data_from_array_1_0(part)
                    header['shape'] = (rows, *part.shape[1:])
                    header['fortran_order'] = False
                    np.lib.format.write_array_header_1_0(file, header)
                data = part.tobytes()
                file.write(data)
                checksum, size = google_crc32c.extend(checksum, data), size + len(data)
        self.arrays[name] = {'bytes': size, 'crc32c': checksum}


def mapped(folder: epath.Path, abouts: Mapping[str, Mapping[str, int]]) -> dict[str, np.ndarray]:
    """The arrays that `Writer` wrote, memory-mapped, by name."""
    # As plain arrays: indexing numpy's memmap class costs several times as much. An empty file
    # can't be mapped.
    return {
        name: np.asarray(np.load(folder / f'{name}.npy', mmap_mode='r' if about['bytes'] else None))
        for name, about in abouts.items()
    }


def verify(
    folder: epath.Path,
    abouts: Mapping[str, Mapping[str, int]],
    arrays: Mapping[str, np.ndarray],
    remedy: str,
) -> None:
    """Reads arrays from end to end and compares their checksums.

    Raises:
        IndexMismatch: naming the damaged file, and the remedy.
    """
    for name, about in abouts.items():
        checksum = 0
        for part in chunks(arrays[name], _VERIFY_ROWS):
            checksum = google_crc32c.extend(checksum, part.tobytes())
        if checksum != about['crc32c']:
            raise IndexMismatch(f'{folder / name}.npy is damaged: its checksum differs. {remedy}')


def chunks(array: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """An array by runs of rows, for what would take too much memory at once."""
    for start in range(0, len(array), rows):
        yield array[start : start + rows]
