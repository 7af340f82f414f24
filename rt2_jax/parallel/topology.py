"""The devices of a slice that nobody has rented: `v5p:8x8x8`, two such slices, or this machine's.

The TPU compiler (the `tpu` extra) describes any slice without a TPU, and compiles programs for it
(`jax.experimental.topologies`).
"""

from collections.abc import Iterator, Sequence
import contextlib
import importlib.util
import os
import re
import sys
import tempfile
from typing import Any, TextIO

import jax
from jax.experimental import topologies

from rt2_jax.parallel import chips, slices
from rt2_jax.parallel.slices import TopologyError

_HERE = re.compile(r'^(cpu|gpu):(\d+)$')


def devices(name: str) -> list[Any]:
    """The devices of a slice.

    Args:
        name: as `slices.parse` takes it, e.g. 'v5p:4x4x8', 'v5p-256' or '2xv5p:4x4x8'; 'cpu:8' or
            'gpu:8' for the first 8 devices that are here.

    Raises:
        TopologyError: no such slice, too few devices here, or no TPU compiler.
    """
    if match := _HERE.match(name):
        return _here(name, match[1], int(match[2]))
    slice_ = slices.parse(name)
    # It only compiles, so several may do so at once.
    os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', 'true')
    options: dict[str, Any] = {'num_slices': slice_.count} if slice_.count > 1 else {}
    if slice_.family.chip == 'v4':
        # A v4 chip's two cores are one device, as they are by default on the machine.
        options['chip_config_name'] = 'megacore'
    if slice_.chips_per_host == 1:
        options['chips_per_host_bounds'] = [1, 1, 1]
    try:
        with quiet():
            return list(
                topologies.get_topology_desc(
                    platform='tpu',
                    topology_name=f'{slice_.family.chip}:{slice_.topology}',
                    **options,
                ).devices
            )
    except Exception as error:
        message = str(error).strip().splitlines()[0] if str(error) else repr(error)
        if importlib.util.find_spec('libtpu') is None:
            message = "the TPU compiler is missing: pip install 'rt2_jax[tpu]'"
        raise TopologyError(f'--topology={name}: {message}') from error


def is_here(name: str) -> bool:
    """Whether a name is of devices of this machine, as 'cpu:8' and 'gpu:8' are."""
    return bool(_HERE.match(name))


def _here(name: str, platform: str, count: int) -> list[Any]:
    present = jax.devices(platform)
    if len(present) < count:
        raise TopologyError(
            f'--topology={name}: {len(present)} {platform} devices are here'
            + ('; set --xla_force_host_platform_device_count in XLA_FLAGS' * (platform == 'cpu'))
        )
    return present[:count]


def chip_of(device: Any) -> chips.Chip | None:
    """The chip of a device; None where the table of chips does not have it (a CPU)."""
    try:
        return chips.find(device.device_kind)
    except ValueError:
        return None


def extents(devices: Sequence[Any]) -> tuple[int, ...]:
    """Lengths of the axes of a slice; () where devices have no coordinates."""
    places = [getattr(device, 'coords', None) for device in devices]
    if None in places:
        return ()
    return tuple(max(axis) + 1 for axis in zip(*places))


@contextlib.contextmanager
def quiet() -> Iterator[TextIO]:
    """Drops what is written to file descriptor 2: the TPU compiler's log.

    Yields:
        The real stderr.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as log, os.fdopen(os.dup(2), 'w', buffering=1) as stderr:
        os.dup2(log.fileno(), 2)
        try:
            yield stderr
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
