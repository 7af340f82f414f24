"""The devices of a slice that isn't here: `v5p:8x8x8`, two such slices, or fake devices of a CPU.

A TPU's compiler (the `tpu` extra) makes a description of any slice without a TPU, and programs can
be compiled for it (`jax.experimental.topologies`).
"""

from collections.abc import Iterator, Sequence
import contextlib
import importlib.util
import os
import re
import sys
import tempfile
from typing import Any

import jax
from jax.experimental import topologies

from rt2_jax.errors import UserError
from rt2_jax.nearest import check
from rt2_jax.parallel import chips

_FORM = re.compile(r'^(?:(\d+)x)?([a-z0-9]+):(\d+(?:x\d+)*)$', re.IGNORECASE)
_TPUS = ('v4', 'v5e', 'v5p', 'v6e', 'tpu7x')


class TopologyError(UserError, ValueError):
    """A name of no slice, or one that cannot be described here."""


def devices(name: str) -> list[Any]:
    """The devices of a slice.

    Args:
        name: CHIP:SHAPE as in 'v5p:4x4x8'; '2xv5p:4x4x8' for two slices; 'cpu:8' or 'gpu:8' for the
            first 8 devices that are here.

    Raises:
        TopologyError: the name has another form, the chip is unknown, no slice of it has this
            shape, or the TPU compiler is not installed.
    """
    found = _FORM.match(name)
    if not found:
        raise TopologyError(f"--topology={name} is not of the form 'v5p:4x4x8' or '2xv5p:4x4x8'")
    slices, chip, shape = int(found[1] or 1), found[2].lower(), found[3]
    try:
        check('chip', chip, (*_TPUS, 'cpu', 'gpu'))
    except ValueError as error:
        raise TopologyError(f'--topology={name}: {error}') from error
    if chip in ('cpu', 'gpu'):
        return _here(name, chip, int(shape))
    # It only compiles, so several may do so at once.
    os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', 'true')
    # Where a v4 chip's two cores are one device, as they are by default on the machine.
    options = {'chip_config_name': 'megacore'} if chip == 'v4' else {}
    options |= {'num_slices': slices} if slices > 1 else {}
    try:
        with quiet():
            return list(
                topologies.get_topology_desc(
                    platform='tpu', topology_name=f'{chip}:{shape}', **options
                ).devices
            )
    except Exception as error:
        message = str(error).strip().splitlines()[0] if str(error) else repr(error)
        if importlib.util.find_spec('libtpu') is None:
            message = "the TPU compiler is missing: pip install 'rt2_jax[tpu]'"
        raise TopologyError(f'--topology={name}: {message}') from error


def _here(name: str, platform: str, count: int) -> list[Any]:
    present = jax.devices(platform)
    if len(present) < count:
        raise TopologyError(
            f'--topology={name}: {len(present)} {platform} devices are here'
            + ('; set --xla_force_host_platform_device_count in XLA_FLAGS' * (platform == 'cpu'))
        )
    return present[:count]


def chip_of(device: Any) -> chips.Chip | None:
    """What the device is, None where the table of chips does not have it (a CPU)."""
    try:
        return chips.find(device.device_kind)
    except ValueError:
        return None


def extents(devices: Sequence[Any]) -> tuple[int, ...]:
    """Lengths of the axes of a slice; () where devices have no places."""
    places = [getattr(device, 'coords', None) for device in devices]
    if None in places:
        return ()
    return tuple(max(axis) + 1 for axis in zip(*places))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Throws away what is written to stderr, where the TPU compiler talks to itself."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log:
        kept = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
