"""The device mesh: `data` (replicas), `fsdp` (batch and parameters split), `tensor`.

Slices of TPUs that are joined by a data-centre network lie along `data`, where only gradients cross,
once a step; `fsdp` and `tensor`, which talk in every layer, stay inside a slice.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import Mesh
import numpy as np

from rt2_jax.nearest import nearest

AXES = ('data', 'fsdp', 'tensor')


def axis_sizes(sizes: Mapping[str, int], devices: int) -> dict[str, int]:
    """Completes the sizes of the mesh axes; at most one may be -1, "all devices that are left".

    Args:
        sizes: axis name -> size; a missing axis has size 1.
        devices: how many devices the mesh has in all.

    Returns:
        axis name -> size for every axis of `AXES`, in that order; the product is `devices`.

    Raises:
        ValueError: an unknown axis, a size below 1, several -1, or sizes that do not multiply to
            `devices`.
    """
    for name in sizes:
        if name not in AXES:
            raise ValueError(f'config.mesh has no axis {name!r}{nearest(name, AXES)}')
    full = {name: int(sizes.get(name, 1)) for name in AXES}
    rest = [name for name, size in full.items() if size == -1]
    bad = {name: size for name, size in full.items() if size < 1 and size != -1}
    if bad or len(rest) > 1:
        raise ValueError(
            f'config.mesh must hold sizes >= 1 and at most one -1 (the rest), got {full}'
        )
    known = int(np.prod([size for size in full.values() if size != -1]))
    if rest and devices % known == 0:
        full[rest[0]] = devices // known
    if int(np.prod(list(full.values()))) != devices:
        raise ValueError(
            f'config.mesh {dict(sizes)} does not fit {devices} devices: the sizes must multiply '
            f'to {devices}; give one axis -1 to take what is left, and let the others divide '
            f'{devices}'
        )
    return full


def make_mesh(sizes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over all devices of all processes (or over `devices`), axes as in `AXES`.

    Neighbours in the mesh are neighbours in the torus of a slice.

    Raises:
        ValueError: as `axis_sizes`, or several slices that do not divide `data`.
    """
    devices = jax.devices() if devices is None else list(devices)
    full = axis_sizes(sizes, len(devices))
    automatic = (jax.sharding.AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, 'slice_index', None) or 0 for device in devices})
    if full['data'] % slices:
        raise ValueError(
            f'{slices} slices lie along the mesh axis data, so config.mesh.data={full["data"]} must '
            f'be a multiple of {slices}'
        )
    inside = tuple((full | {'data': full['data'] // slices}).values())
    # An axis of 4 may be half of a torus axis of 8.
    if slices == 1:
        arranged = mesh_utils.create_device_mesh(
            inside, devices=devices, allow_split_physical_axes=True
        )
    else:
        arranged = mesh_utils.create_hybrid_device_mesh(
            inside, (slices, 1, 1), devices=devices, allow_split_physical_axes=True
        )
    return Mesh(arranged, AXES, axis_types=automatic)
