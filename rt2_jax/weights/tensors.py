"""Tensors on disk by name, read when needed: safetensors (one file or several) and npz.

Formats: safetensors (github.com/huggingface/safetensors), its index of shards as `transformers` writes
it (`*.safetensors.index.json`), NumPy's npz. `file.npz:img` selects what is below `img/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import os
import re
from typing import Any
import zipfile
import zlib

from etils import epath
import ml_dtypes
import numpy as np

from rt2_jax import paths, records
from rt2_jax.errors import UserError
from rt2_jax.nearest import beside, nearest


class SourceError(UserError, ValueError):
    """A checkpoint on disk that cannot be read, or that is not what it should be."""


BLOCK_BYTES = 16 << 20
Box = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that is not read yet.

    Attributes:
        name: as the file has it.
        shape: of the whole.
        dtype: of the whole.
        where: the file that it is in.
        read: returns all of it.
        take: returns the part at an index without reading all; None if only all can be read.
        chunk: shape of the pieces that it is stored in; None if any part can be read by itself.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    where: str
    read: Callable[[], np.ndarray]
    take: Callable[[Any], np.ndarray] | None = None
    chunk: tuple[int, ...] | None = None

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.take(index) if self.take else self.read()[index]

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of its numbers."""
        return self.count * self.dtype.itemsize

    def view(self, dtype: np.dtype) -> Tensor:
        """The same bits as numbers of another type of this size; it can only be read whole."""
        return dataclasses.replace(
            self, dtype=dtype, read=lambda: self.read().view(dtype), take=None
        )

    def boxes(self) -> Iterator[Box]:
        """Boxes that cover it, each of whole pieces and as large as a block may be."""
        return boxes(self.shape, self.dtype.itemsize, self.chunk if self.take else self.shape)

    def reader(self) -> Callable[[Any], np.ndarray]:
        """Reads parts; a tensor without `take` is read now, once."""
        return self.take or self.read().__getitem__


def boxes(
    shape: tuple[int, ...], itemsize: int, chunk: tuple[int, ...] | None, limit: int = BLOCK_BYTES
) -> Iterator[Box]:
    """Boxes of whole chunks that cover an array, each of at most `limit` bytes if a chunk is.

    Without chunks, each box is one contiguous part of the array in C order.

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


def open_tensors(source: epath.PathLike) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, none of them read.

    Args:
        source: a `.safetensors` or `.npz` file, `FILE.npz:PREFIX`, or a directory with one
            `.safetensors` file or several and their index.

    Raises:
        SourceError: there is no such file, a shard is missing, a file is truncated or of another
            format.
    """
    source, _, prefix = str(source).partition('.npz:')
    path = paths.of(source + '.npz' if prefix else source)
    if not path.exists():
        raise SourceError(f'there is no {path}{beside(path)}')
    if path.is_dir():
        return _directory(path)
    if path.suffix == '.npz':
        return _npz(path, prefix)
    if path.suffix == '.safetensors':
        return _safetensors(path)
    raise SourceError(f'{path} is neither .safetensors nor .npz, nor a directory of these')


_PICKLED = r'(pytorch_model.*|model.*)\.(bin|pt|pth)(\.index\.json)?'


def _directory(path: epath.Path) -> dict[str, Tensor]:
    indices = sorted(path.glob('*.safetensors.index.json'))
    files = sorted(path.glob('*.safetensors'))
    if not indices and len(files) == 1:
        return _safetensors(files[0])
    if len(indices) != 1:
        names = sorted(p.name for p in path.iterdir())
        if not files and any(re.fullmatch(_PICKLED, name) for name in names):
            raise SourceError(_remedy(path))
        present = ', '.join(names[:20] + ['...'] * (len(names) > 20)) or 'nothing'
        raise SourceError(
            f'{path} has {len(files)} .safetensors files and {len(indices)} indices '
            f'(*.safetensors.index.json); one file, or several and one index, are needed. It holds '
            f'{present}'
        )
    index = records.read(indices[0], SourceError)
    if not isinstance(index, dict) or not isinstance(index.get('weight_map'), dict):
        raise SourceError(f'{indices[0]} lacks weight_map')
    shards: Mapping[str, str] = index['weight_map']
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(shards.values())):
        if not (path / name).exists():
            lost = [tensor for tensor, shard in shards.items() if shard == name]
            raise SourceError(
                f'{path / name} is missing: {indices[0].name} says it holds {len(lost)} tensors, '
                f'{lost[0]} among them'
            )
        tensors |= _safetensors(path / name)
    for tensor, shard in shards.items():
        if tensor not in tensors:
            raise SourceError(f'{path / shard} lacks {tensor}, which {indices[0].name} says it has')
    return {name: tensors[name] for name in shards}


def _remedy(path: epath.Path) -> str:
    """What to do where there are only torch's pickles, which are not read since they can run code."""
    config = path / 'config.json'
    names = json.loads(config.read_text()).get('architectures') if config.exists() else None
    name = names[0] if names else 'CLASS'
    return (
        f'{path} has its weights as pickles of torch, and no safetensors. Write them anew, in Python:\n'
        f'  from transformers import {name}\n'
        f"  {name}.from_pretrained('{path}').save_pretrained('NEW', safe_serialization=True)\n"
        'then copy the files of the tokenizer and of the preprocessor to NEW, and convert that'
    )


_TYPES = {
    'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16,
    'I64': np.int64, 'I32': np.int32, 'I16': np.int16, 'I8': np.int8, 'U8': np.uint8, 'BOOL': np.bool_,
    'F8_E4M3': ml_dtypes.float8_e4m3fn, 'F8_E5M2': ml_dtypes.float8_e5m2,
}  # fmt: skip


def _safetensors(path: epath.Path) -> dict[str, Tensor]:
    """By the header, so that nothing is mapped into memory and a file may be remote."""
    size = path.stat().length
    with path.open('rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        if size < 8 or length > size - 8:
            raise SourceError(f'{path} is truncated or no safetensors file: {size:,} bytes')
        header = records.parse(file.read(length), f'the header of {path}', SourceError)
    header.pop('__metadata__', None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry['data_offsets'])
        if end > size:
            raise SourceError(
                f'{path} is truncated: {name} ends at byte {end:,}, the file at {size:,}'
            )
        if entry['dtype'] not in _TYPES:
            raise SourceError(
                f'{path}: {name} is of type {entry["dtype"]}; known are {", ".join(_TYPES)}'
            )
        tensors[name] = _stored(path, name, begin, _TYPES[entry['dtype']], tuple(entry['shape']))
    return tensors


def _stored(path: epath.Path, name: str, begin: int, dtype: Any, shape: tuple[int, ...]) -> Tensor:
    """A tensor that lies in a file as it is."""
    count = math.prod(shape)

    def read() -> np.ndarray:
        with path.open('rb') as file:
            file.seek(begin)
            data = file.read(count * np.dtype(dtype).itemsize)
        return np.frombuffer(data, dtype, count).reshape(shape)

    def take(index: Any) -> np.ndarray:
        mapped = np.memmap(os.fspath(path), dtype, 'r', begin, shape)
        return np.array(mapped[index])

    # Of a file that is here, only the pages that hold what is asked for are read.
    here = count > 0 and os.path.exists(os.fspath(path))
    return Tensor(name, shape, np.dtype(dtype), str(path), read, take if here and shape else None)


def _npz(path: epath.Path, prefix: str) -> dict[str, Tensor]:
    try:
        with path.open('rb') as file, zipfile.ZipFile(file) as archive:
            entries = {
                name.removesuffix('.npy'): _npy_header(archive, name) for name in archive.namelist()
            }
    except (zipfile.BadZipFile, ValueError) as error:
        raise SourceError(f'{path} is truncated or no npz file: {error}') from error
    roots = (f'params/{prefix}/', f'{prefix}/') if prefix else ('',)
    matching = (root for root in roots if any(name.startswith(root) for name in entries))
    start = next(matching, None if prefix else '')
    if start is None:
        parts = {name.removeprefix('params/').split('/')[0] for name in entries}
        raise SourceError(f'{path} has nothing below {prefix!r}{nearest(prefix, parts)}')
    tensors = {}
    for name, (shape, dtype) in entries.items():
        if name.startswith(start):
            read = functools.partial(_read_npy, path, name, dtype)
            tensors[name.removeprefix(start)] = Tensor(name, shape, dtype, str(path), read)
    return tensors


def _read_npy(path: epath.Path, name: str, dtype: np.dtype) -> np.ndarray:
    try:
        with path.open('rb') as file, np.load(file) as arrays:
            return arrays[name].view(dtype)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise SourceError(f'{path}: {name} cannot be read: {error}') from error


def _npy_header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        reader = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = reader(file)
    # NumPy knows no bfloat16: it keeps its two bytes without a type.
    return shape, np.dtype(ml_dtypes.bfloat16) if dtype == np.dtype('V2') else dtype


_PIECE_BYTES = 64 << 20  # so much is copied at a time


@contextlib.contextmanager
def _whole(path: epath.Path) -> Iterator[Any]:
    """A file for writing that appears whole or not at all."""
    with paths.writing(path) as local, local.open('wb') as file:
        yield file


def write_safetensors(
    directory: epath.PathLike,
    tensors: Mapping[str, Tensor],
    *,
    stem: str = 'model',
    shard_bytes: int = 5 << 30,
    metadata: Mapping[str, str] | None = None,
) -> list[epath.Path]:
    """Writes tensors one after another, so that only one, or one layer of it, is in memory.

    Args:
        directory: where the files go.
        tensors: by the name that each gets.
        stem: of the files' names.
        shard_bytes: a file ends before it would grow beyond this; with several, an index is written.
        metadata: texts for the header.

    Returns:
        The files written, the index last if there is one.
    """
    shards: list[dict[str, Tensor]] = [{}]
    sizes = [0]
    for name, tensor in tensors.items():
        if sizes[-1] and sizes[-1] + tensor.bytes > shard_bytes:
            shards.append({})
            sizes.append(0)
        shards[-1][name] = tensor
        sizes[-1] += tensor.bytes
    directory, files, total = paths.of(directory), [], len(shards)
    directory.mkdir(parents=True, exist_ok=True)
    for number, shard in enumerate(shards, 1):
        part = f'-{number:05d}-of-{total:05d}' if total > 1 else ''
        name = f'{stem}{part}.safetensors'
        _write_shard(directory / name, shard, metadata or {})
        files.append(directory / name)
    if total > 1:
        where = {name: files[n].name for n, shard in enumerate(shards) for name in shard}
        index = directory / f'{stem}.safetensors.index.json'
        record = {'metadata': {'total_size': sum(sizes)}, 'weight_map': where}
        paths.write(index, json.dumps(record, indent=1).encode())
        files.append(index)
    return files


def _write_shard(
    path: epath.Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    names = {np.dtype(dtype): name for name, dtype in _TYPES.items()}
    header: dict[str, Any] = {'__metadata__': {'format': 'pt', **metadata}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.bytes
        header[name] = {
            'dtype': names[tensor.dtype],
            'shape': list(tensor.shape),
            'data_offsets': [offset, end],
        }
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b' ' * (-len(encoded) % 8)
    with _whole(path) as file:
        file.write(len(encoded).to_bytes(8, 'little') + encoded)
        for tensor in tensors.values():
            for piece in _pieces(tensor):
                file.write(
                    np.ascontiguousarray(piece, tensor.dtype).reshape(-1).view(np.uint8).data
                )


def _pieces(tensor: Tensor) -> Iterator[np.ndarray]:
    """A tensor in parts along its first axis, where they can be read apart."""
    if tensor.take is None:
        yield tensor.read()
        return
    row = math.prod(tensor.shape[1:]) * tensor.dtype.itemsize
    rows = max(1, _PIECE_BYTES // max(1, row))
    for start in range(0, tensor.shape[0], rows):
        yield tensor[start : start + rows]


def of_array(name: str, array: Any, where: str = 'memory') -> Tensor:
    """A tensor that is in memory already."""
    return Tensor(name, tuple(array.shape), np.dtype(array.dtype), where, lambda: np.asarray(array))
