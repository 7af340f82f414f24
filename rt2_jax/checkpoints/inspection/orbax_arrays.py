"""The parameters of an Orbax checkpoint as arrays on disk, read through TensorStore.

Orbax restores whole arrays onto devices; here a box is read at a time, and nothing is put anywhere.
Format: a folder with an OCDBT key-value store, in it a zarr array a parameter, named by its path with
dots (github.com/google/orbax, serialization/tensorstore_utils.py).
"""

from __future__ import annotations

from typing import Any

from etils import epath
import numpy as np
import tensorstore as ts

from rt2_jax import records
from rt2_jax.checkpoints.checkpoint import Checkpoints
from rt2_jax.checkpoints.inspection.blocks import Box, Stored
from rt2_jax.parallel.sharding import named_leaves
from rt2_jax.weights.tensors import SourceError

# Blocks are read one after another; each thread more would keep the memory of one more.
_CONTEXT = ts.Context({'data_copy_concurrency': {'limit': 1}, 'file_io_concurrency': {'limit': 1}})


def open_arrays(checkpoints: Checkpoints, step: int) -> dict[str, Stored]:
    """The parameters of a step by name, none of them read.

    Raises:
        CheckpointError: a file is missing or truncated, or they cannot be listed.
    """
    return {
        name: _stored(name, listed)
        for name, listed in named_leaves(checkpoints.parameter_shapes(step)).items()
    }


def _stored(name: str, listed: Any) -> Stored:
    """An array from what Orbax says of it (`orbax.checkpoint.metadata.ArrayMetadata`)."""
    sharding, spec, mesh = listed.sharding, None, None
    if hasattr(sharding, 'partition_spec'):
        entries = tuple(sharding.partition_spec)
        spec = entries + (None,) * (len(listed.shape) - len(entries))
        mesh = dict(zip(sharding.axis_names, np.ravel(sharding.shape).tolist(), strict=True))
    return Stored(
        shape=tuple(listed.shape),
        dtype=np.dtype(listed.dtype),
        reader=lambda: _reader(name, epath.Path(listed.directory), listed.name),
        chunk=tuple(listed.storage.chunk_shape) if listed.storage else None,
        spec=spec,
        mesh=mesh,
    )


def _reader(name: str, folder: epath.Path, key: str):
    newer = records.read(folder / '_METADATA').get('use_zarr3', False)
    root = str(folder) if '://' in str(folder) else f'file://{folder}'
    spec = {
        'driver': 'zarr3' if newer else 'zarr',
        'kvstore': {'driver': 'ocdbt', 'base': f'{root}/', 'path': f'{key}/'},
        'fill_missing_data_reads': False,  # else what is lost would be zeros
    }
    try:
        store = ts.open(spec, open=True, context=_CONTEXT).result()
    except ValueError as error:
        raise SourceError(f'{folder} has no {name}: {str(error).split(" [")[0]}') from error

    def read(box: Box) -> np.ndarray:
        return store[box].read().result() if box else np.asarray(store.read().result())

    return read
