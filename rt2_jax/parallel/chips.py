"""What accelerators can do: one table, with its sources.

TPUs: "System architecture" on docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, read on
2026-11-22, which give the interconnect of a chip in both directions together; half of it goes out,
an equal part on each port. v4's ports: arXiv 2304.01433, table 4 (six of 50 GB/s). GPUs: NVIDIA's
data sheets of the H100 SXM and H200 SXM, dense bfloat16, NVLink in both directions 900 GB/s.
"""

from collections.abc import Sequence
import dataclasses

from rt2_jax.nearest import check

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
        name: as in a topology, `v5p` of `v5p:8x8x8`.
        hbm_bytes: main memory.
        flops: bfloat16 FLOP/s at its best.
        hbm_bandwidth: bytes/s of main memory.
        link_bandwidth: bytes/s that leave by one port.
        ports: how many ports: two for each axis of a torus; 1 for a GPU behind a switch.
        wraps: an axis of a slice is a ring where its length is a multiple of this; else a line.
        dcn_bandwidth: bytes/s a chip sends to other slices or nodes.
        cores: JAX devices in a chip.
        device_kinds: what JAX calls it.
    """

    name: str
    hbm_bytes: int
    flops: float
    hbm_bandwidth: float
    link_bandwidth: float
    ports: int
    wraps: int
    dcn_bandwidth: float
    device_kinds: tuple[str, ...]
    cores: int = 1

    @property
    def device_flops(self) -> float:
        """bfloat16 FLOP/s of one JAX device."""
        return self.flops / self.cores


CHIPS = {
    chip.name: chip
    for chip in (
        Chip('v4', 32 * GIB, 275e12, 1.2e12, 50e9, 6, 4, 3.1e9, ('TPU v4',)),
        Chip('v5e', 16 * GIB, 197e12, 0.819e12, 50e9, 4, 16, 3.1e9, ('TPU v5 lite', 'TPU v5e')),
        Chip('v5p', 95 * GIB, 459e12, 2.765e12, 100e9, 6, 4, 6.25e9, ('TPU v5', 'TPU v5p')),
        Chip('v6e', 32 * GIB, 918e12, 1.638e12, 100e9, 4, 16, 12.5e9, ('TPU v6 lite', 'TPU v6e')),
        Chip('tpu7x', 192 * GIB, 2307e12, 7.38e12, 100e9, 6, 4, 12.5e9, ('TPU7x', 'TPU v7x'), 2),
        Chip('H100', 80 * 10**9, 989e12, 3.35e12, 450e9, 1, 1, 50e9, ('NVIDIA H100 80GB HBM3',)),
        Chip('H200', 141 * 10**9, 989e12, 4.8e12, 450e9, 1, 1, 50e9, ('NVIDIA H200',)),
    )
}


def find(name: str) -> Chip:
    """The chip called `name`, or of that JAX `device_kind`.

    Raises:
        ValueError: none is; the nearest is named.
    """
    for chip in CHIPS.values():
        if name in chip.device_kinds:
            return chip
    return CHIPS[check('chip', name, CHIPS)]


def torus_axes(
    coordinates: Sequence[Sequence[int]], extents: Sequence[int], chip: Chip
) -> list[int]:
    """Ports that a collective over chips at these coordinates sends by, for each torus axis it uses.

    Args:
        coordinates: of the chips of one group.
        extents: of the slice.
        chip: what the slice is of.

    Returns:
        2 for an axis that the group fills and that is a ring, 1 for one where it is on a line.
    """
    ports = []
    for axis, extent in enumerate(extents):
        length = len({tuple(place)[axis] for place in coordinates})
        if length > 1:
            ports.append(2 if length == extent and extent % chip.wraps == 0 else 1)
    return ports
