"""The parameters of an Orbax checkpoint as tensors on disk, read through TensorStore.

Orbax restores whole arrays onto devices; here a box is read at a time, and nothing is put anywhere.
Format: a folder with an OCDBT key-value store, in it a zarr array a parameter, named by its path with
dots (github.com/google/orbax, serialization/tensorstore_utils.py).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from etils import epath
import numpy as np
import tensorstore as ts

from rt2_jax import records
from rt2_jax.checkpoints.checkpoint import Checkpoints
from rt2_jax.parallel.sharding import named_leaves
from rt2_jax.weights.tensors import Box, SourceError, Tensor

# Blocks are read one after another; each thread more would keep the memory of one more.
_CONTEXT = ts.Context({'data_copy_concurrency': {'limit': 1}, 'file_io_concurrency': {'limit': 1}})


@dataclasses.dataclass(frozen=True)
class Placement:
    """How an array lay on a mesh when it was saved.

    Attributes:
        spec: the mesh axes that each of its axes was split over.
        mesh: sizes of the mesh axes, by name.
    """

    spec: tuple[Any, ...]
    mesh: dict[str, int]


def open_arrays(
    checkpoints: Checkpoints, step: int
) -> tuple[dict[str, Tensor], dict[str, Placement]]:
    """The parameters of a step by name, none of them read, and how they lay on a mesh, if known.

    Raises:
        CheckpointError: a file is missing or truncated, or they cannot be listed.
    """
    listed = named_leaves(checkpoints.parameter_shapes(step))
    placements = {
        name: _placement(x) for name, x in listed.items() if hasattr(x.sharding, 'partition_spec')
    }
    return {name: _tensor(name, x) for name, x in listed.items()}, placements


def _placement(metadata: Any) -> Placement:
    spec, sharding = tuple(metadata.sharding.partition_spec), metadata.sharding
    mesh = zip(sharding.axis_names, np.ravel(sharding.shape).tolist(), strict=True)
    return Placement(spec + (None,) * (len(metadata.shape) - len(spec)), dict(mesh))


def _tensor(name: str, metadata: Any) -> Tensor:
    """A tensor from its `orbax.checkpoint.metadata.ArrayMetadata`."""
    store = functools.cache(functools.partial(_open, name, metadata.directory, metadata.name))

    def take(box: Box) -> np.ndarray:
        return np.asarray((store()[box] if box else store()).read().result())

    return Tensor(
        name=name,
        shape=tuple(metadata.shape),
        dtype=np.dtype(metadata.dtype),
        where=str(metadata.directory),
        read=lambda: take(()),
        take=take,
        chunk=tuple(metadata.storage.chunk_shape) if metadata.storage else None,
    )


def _open(name: str, folder: Any, key: str) -> ts.TensorStore:
    newer = records.read(epath.Path(folder) / '_METADATA').get('use_zarr3', False)
    root = str(folder) if '://' in str(folder) else f'file://{folder}'
    spec = {
        'driver': 'zarr3' if newer else 'zarr',
        'kvstore': {'driver': 'ocdbt', 'base': f'{root}/', 'path': f'{key}/'},
        'fill_missing_data_reads': False,  # else what is lost would be zeros
    }
    try:
        return ts.open(spec, open=True, context=_CONTEXT).result()
    except ValueError as error:
        raise SourceError(f'{folder} has no {name}: {str(error).split(" [")[0]}') from error
