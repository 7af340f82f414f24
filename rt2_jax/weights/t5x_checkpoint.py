"""A T5X checkpoint's tensors by name, read when needed.

Format: github.com/google-research/t5x, checkpoints.py, versions 2 and 3. A directory
`checkpoint_{step}` with a msgpack of Flax, `checkpoint`; in it small arrays as they are, and of each
other one the TensorStore spec of a zarr directory beside it, `target.encoder.encoder_norm.scale`. Of
the training state, `target` is read: the parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
import itertools
import math
from typing import Any

from etils import epath
from flax import serialization, traverse_util
import numpy as np
import tensorstore as ts

from rt2_jax import paths
from rt2_jax.nearest import beside
from rt2_jax.weights.tensors import SourceError, Tensor, of_array

STATE = 'checkpoint'  # the msgpack's name
VERSIONS = 2, 3
CHUNK_BYTES = 64 << 20  # of T5X's chunks, at most


def open_tensors(source: epath.PathLike) -> dict[str, Tensor]:
    """The parameters of a T5X checkpoint by name, 'target/encoder/encoder_norm/scale'.

    Arrays in the msgpack are read with it; of the others, all chunks are checked to exist.

    Args:
        source: a directory as T5X writes it, `checkpoint_1000000`, on a local disk.

    Raises:
        SourceError: there is no such directory, an array or a chunk of one is missing, or it is of
            another format.
    """
    path = paths.of(source)
    for scheme in paths.SCHEMES:
        paths.refuse(
            path, scheme, 'a T5X checkpoint is read from a local disk; copy it there first'
        )
    if not path.exists():
        raise SourceError(f'there is no {path}{beside(path)}')
    tensors = {}
    for name, value in traverse_util.flatten_dict(
        {'target': _target(path)}, is_leaf=lambda _, x: 'driver' in x, sep='/'
    ).items():
        if isinstance(value, np.ndarray):
            tensors[name] = of_array(name, value, str(path))
        elif isinstance(value, Mapping):
            tensors[name] = _stored(path, name, value)
        else:
            raise SourceError(f'{path / STATE}: {name} is {value!r}, no array nor where one is')
    return tensors


def _target(path: epath.Path) -> Mapping[str, Any]:
    """The parameters' part of the msgpack."""
    state = path / STATE
    if not state.exists():
        steps = sorted(p.name for p in path.glob('checkpoint_*')) if path.is_dir() else []
        raise SourceError(
            f'{state} is missing: a T5X checkpoint is a directory checkpoint_STEP that has it'
            + (f'; take one of {", ".join(steps)}' if steps else '')
        )
    try:
        contents = serialization.msgpack_restore(state.read_bytes())
    except ValueError as error:
        raise SourceError(f'{state} is truncated or no msgpack of T5X: {error}') from error
    try:
        version, target = contents['version'], contents['optimizer']['target']
    except (KeyError, TypeError) as error:
        raise SourceError(
            f"{state} has no {error}; T5X's has version and optimizer/target"
        ) from error
    if version not in VERSIONS:
        raise SourceError(f'{state} is of version {version}; known are {VERSIONS}')
    return target


def _stored(path: epath.Path, name: str, spec: Mapping[str, Any]) -> Tensor:
    """A tensor in a directory of its own."""
    store = _open(path, name, spec)

    def take(index: Any = ()) -> np.ndarray:
        index = index if isinstance(index, tuple) else (index,)
        # TensorStore takes no slice beyond the end.
        inside = [
            slice(*i.indices(n)) if isinstance(i, slice) else i for i, n in zip(index, store.shape)
        ]
        try:
            return store[(*inside, ...)].read().result()
        except ValueError as error:
            raise SourceError(f'{name} in {path} cannot be read: {_brief(error)}') from error

    dtype, chunk = np.dtype(store.dtype.numpy_dtype), store.chunk_layout.read_chunk.shape or ()
    # Reading a slice saves something only if chunks split the first axis alone.
    cut = (
        chunk[1:] == store.shape[1:]
        and math.prod(n or 1 for n in chunk) * dtype.itemsize <= CHUNK_BYTES
    )
    return Tensor(name, store.shape, dtype, str(path), take, take if cut else None)


def _open(path: epath.Path, name: str, spec: Mapping[str, Any]) -> ts.TensorStore:
    """Opens a tensor's directory; only its metadata is read."""
    if spec['driver'] != 'zarr':
        raise SourceError(f'{path / STATE}: {name} is kept as {spec["driver"]!r}; zarr is known')
    # Before TensorStore 0.1.14 the path is beside the store. Whatever that was, here it is files.
    folder = path / (spec['kvstore'].get('path') or spec['path'])
    if not (folder / '.zarray').exists():
        raise SourceError(
            f'{folder / ".zarray"} is missing: {path / STATE} says that {name} is there; copy all of '
            'the checkpoint'
        )
    here = {
        'driver': 'zarr',
        'dtype': spec['dtype'],
        'kvstore': {'driver': 'file', 'path': f'{folder}/'},
        'metadata': {'shape': spec['metadata']['shape']},
        'fill_missing_data_reads': False,  # else they would be zeros
    }
    try:
        store = ts.open(here, open=True).result()
    except ValueError as error:
        raise SourceError(
            f'{folder} is not {name} as {path / STATE} has it: {_brief(error)}'
        ) from error
    _check_chunks(folder, name, store)
    return store


def _check_chunks(folder: epath.Path, name: str, store: ts.TensorStore) -> None:
    """Raises if a chunk is missing: all are written, those of zeros too."""
    metadata = store.spec().to_json()['metadata']
    grid = [range(math.ceil(n / c)) for n, c in zip(metadata['shape'], metadata['chunks'])]
    separator = metadata['dimension_separator']
    files = [separator.join(map(str, i)) or '0' for i in itertools.product(*grid)]
    lost = [file for file in files if not (folder / file).exists()]
    if lost:
        raise SourceError(
            f'{folder / lost[0]} is missing ({len(lost)} of the {len(files)} chunks of {name}); copy '
            'all of the checkpoint'
        )


def _brief(error: ValueError) -> str:
    """TensorStore's message, without the specs that it adds in brackets."""
    return str(error).split(' [')[0]
