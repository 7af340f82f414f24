"""How long a compiled program takes at best: arithmetic, memory and interconnect, each by itself.

A bound and not a forecast: each of the three runs at its full rate, and the longest hides the others
("How to scale your model", jax-ml.github.io/scaling-book, parts 1 and 3).
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

from rt2_jax.parallel import chips, compiled, topology


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds that a program needs at least.

    Attributes:
        compute: its matrix products at the chip's peak.
        memory: its traffic at the memory's bandwidth.
        interconnect: its collectives, each on the links that its group has.
    """

    compute: float
    memory: float
    interconnect: float

    @property
    def seconds(self) -> float:
        """The longest of the three."""
        return max(self.compute, self.memory, self.interconnect)

    @property
    def without_overlap(self) -> float:
        """The same, where nothing is computed while chips talk."""
        return max(self.compute, self.memory) + self.interconnect

    @property
    def bound(self) -> str:
        """Which one it is."""
        return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]


def roofline(
    program: compiled.Program, flops: float, devices: Sequence[Any], chip: chips.Chip
) -> Roofline:
    """The bounds of a program on a slice.

    Args:
        program: the compiled program, as one device runs it.
        flops: that all devices together do in a run.
        devices: of the mesh, in its order.
        chip: what they are.
    """
    return Roofline(
        compute=flops / len(devices) / chip.device_flops,
        memory=program.memory_traffic() / (chip.hbm_bandwidth / chip.cores),
        interconnect=sum(collective_seconds(c, devices, chip) for c in program.collectives()),
    )


def chips_in(devices: Sequence[Any]) -> int:
    """How many chips the devices are; a tpu7x chip is two devices."""
    places = {
        (
            getattr(d, 'slice_index', 0) or 0,
            tuple(coords) if (coords := getattr(d, 'coords', None)) else d.id,
        )
        for d in devices
    }
    return len(places)


def collective_seconds(
    collective: compiled.Collective, devices: Sequence[Any], chip: chips.Chip
) -> float:
    """Seconds a step spends in all runs of a collective, by bandwidth alone.

    On rings, an all-gather or a reduce-scatter sends (n - 1) / n of the array through each chip, an
    all-reduce twice that, an all-to-all a quarter of an all-gather of all that is exchanged.
    """
    n = len(collective.group)
    if n < 2:
        return 0.0
    group = [devices[i] for i in collective.group]
    bandwidth = _bandwidth(group, devices, chip)
    size = collective.bytes * (n - 1) / n
    factor = {'all-reduce': 2.0, 'all-to-all': n / 4, 'collective-permute': n / (n - 1)}
    return collective.times * size * factor.get(collective.kind, 1.0) / bandwidth


def _bandwidth(group: Sequence[Any], devices: Sequence[Any], chip: chips.Chip) -> float:
    slices = {getattr(device, 'slice_index', None) or 0 for device in group}
    if len(slices) > 1:
        return chip.dcn_bandwidth
    extents = topology.extents(devices)
    if not extents:
        return chip.link_bandwidth * chip.ports
    ports = chips.torus_axes([device.coords for device in group], extents, chip)
    # The two devices of one chip are nearer than any link.
    return chip.link_bandwidth * (sum(ports) or chip.ports)
