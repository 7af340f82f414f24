"""Slices of Cloud TPUs: the shapes that exist, their two names, and the machines that hold them.

A slice is called by its chip and its shape in chips, as in GKE ('v5p:8x8x8'), or by the accelerator
type of gcloud ('v5p-1024'). That number counts TensorCores for v4, v5p and tpu7x, which have two a
chip, and chips for v5litepod and v6e.

Sources, read on 2026-11-26: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x} for shapes, sizes and
the RAM of machines with four chips (v4's is not published there); cloud.google.com/tpu/docs/
types-topologies for the rule of three-dimensional shapes (A <= B <= C, multiples of 4 from 4x4x4 on);
docs.cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus for GKE's labels and machine types;
AI-Hypercomputer/xpk, system_characteristics.py, for the types of tpu7x, which gcloud does not name.
"""

from collections.abc import Iterator
import dataclasses
import functools
import itertools
import math
import re

from rt2_jax.errors import UserError
from rt2_jax.nearest import check

GB = 10**9
_SHAPE = re.compile(r'^(?:(\d+)x)?([a-z0-9]+):(\d+(?:x\d+)*)$', re.IGNORECASE)
_TYPE = re.compile(r'^(?:(\d+)x)?([a-z0-9]+)-(\d+)$', re.IGNORECASE)
_SQUARES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_BELOW_A_CUBE = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
_FROM_ONE = ((1, 1, 1), *_BELOW_A_CUBE)


class TopologyError(UserError, ValueError):
    """A name of no slice, or one that cannot be described here."""


@dataclasses.dataclass(frozen=True)
class Family:
    """What all slices of one chip share.

    Attributes:
        chip: its name in a topology.
        type_prefix: what an accelerator type begins with.
        type_unit: by how much one chip raises the number of an accelerator type.
        small: the shapes that follow no rule.
        most_chips: of the largest slice that is made of cubes of 4x4x4; 0 if there are no cubes.
        gke_label: value of GKE's node label cloud.google.com/gke-tpu-accelerator.
        machine: machine type with four chips.
        machine_ram: its memory in bytes, 0 if not published.
    """

    chip: str
    type_prefix: str
    type_unit: int
    small: tuple[tuple[int, ...], ...]
    most_chips: int
    gke_label: str
    machine: str
    machine_ram: int

    @functools.cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """All shapes that exist, by number of chips, the one nearest to a cube first."""
        shapes = [*self.small, *_cubes(self.most_chips)]
        return tuple(sorted(shapes, key=lambda shape: (math.prod(shape), sum(shape))))


FAMILIES = {
    family.chip: family
    for family in (
        Family('v4', 'v4', 2, _BELOW_A_CUBE, 4096, 'tpu-v4-podslice', 'ct4p-hightpu-4t', 0),
        Family(
            'v5e', 'v5litepod', 1, _SQUARES, 0, 'tpu-v5-lite-podslice', 'ct5lp-hightpu-4t', 192 * GB
        ),
        Family('v5p', 'v5p', 2, _BELOW_A_CUBE, 6144, 'tpu-v5p-slice', 'ct5p-hightpu-4t', 448 * GB),
        Family('v6e', 'v6e', 1, _SQUARES, 0, 'tpu-v6e-slice', 'ct6e-standard-4t', 720 * GB),
        Family('tpu7x', 'tpu7x', 2, _FROM_ONE, 9216, 'tpu7x', 'tpu7x-standard-4t', 960 * GB),
    )
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """One or several equal slices.

    Attributes:
        family: of the chip.
        shape: chips along each axis of one slice.
        count: how many slices.
    """

    family: Family
    shape: tuple[int, ...]
    count: int = 1

    @property
    def chips(self) -> int:
        """In all slices."""
        return self.count * math.prod(self.shape)

    @property
    def topology(self) -> str:
        """One slice as GKE's node label cloud.google.com/gke-tpu-topology: '8x8x8'."""
        return 'x'.join(map(str, self.shape))

    @property
    def name(self) -> str:
        """As `--topology` takes it: '2xv5p:8x8x8'."""
        return f'{self._prefix}{self.family.chip}:{self.topology}'

    @property
    def accelerator_type(self) -> str:
        """As gcloud takes it: '2xv5p-1024' for two slices of v5p-1024."""
        number = self.family.type_unit * math.prod(self.shape)
        return f'{self._prefix}{self.family.type_prefix}-{number}'

    @property
    def chips_per_host(self) -> int:
        """Chips of one machine: four, or fewer in a slice that has fewer."""
        return min(4, math.prod(self.shape))

    @property
    def hosts(self) -> int:
        """Machines of all slices."""
        return self.chips // self.chips_per_host

    @property
    def _prefix(self) -> str:
        return f'{self.count}x' if self.count > 1 else ''


def parse(name: str) -> Slice:
    """The slice of a name in either form: 'v5p:8x8x8' or 'v5p-1024', '2x' before it for two of them.

    Raises:
        TopologyError: another form, an unknown chip, or a shape that does not exist; the nearest
            ones are named.
    """
    if match := _SHAPE.match(name):
        family = _family(name, match[2].lower(), {f.chip: f for f in FAMILIES.values()})
        shape = tuple(int(length) for length in match[3].split('x'))
        if shape not in family.shapes:
            raise TopologyError(
                f'--topology={name}: {family.chip} has no slice of this shape; '
                + _near(family, shape)
            )
        return Slice(family, shape, int(match[1] or 1))
    if match := _TYPE.match(name):
        prefixes = {f.type_prefix: f for f in FAMILIES.values()} | FAMILIES
        family, number = _family(name, match[2].lower(), prefixes), int(match[3])
        for shape in family.shapes:
            if family.type_unit * math.prod(shape) == number:
                return Slice(family, shape, int(match[1] or 1))
        raise TopologyError(
            f'--topology={name}: {family.chip} has no slice of this size; '
            + _near(family, (number // family.type_unit,))
        )
    raise TopologyError(
        f"--topology={name} is not of the form 'v5p:4x4x8', 'v5p-256' or '2xv5p:4x4x8'"
    )


def _family(name: str, prefix: str, families: dict[str, Family]) -> Family:
    try:
        return families[check('chip', prefix, families)]
    except ValueError as error:
        raise TopologyError(f'--topology={name}: {error}') from error


def _near(family: Family, shape: tuple[int, ...]) -> str:
    """The shapes with as many chips, else the next smaller and the next larger size."""
    chips = math.prod(shape)
    sizes = [math.prod(other) for other in family.shapes]
    smaller = max((size for size in sizes if size < chips), default=0)
    larger = min((size for size in sizes if size > chips), default=0)
    same = [other for other in family.shapes if math.prod(other) == chips]
    around = [other for other in family.shapes if math.prod(other) in (smaller, larger)]
    # Of one size, the shapes nearest to a cube come first.
    firsts = {math.prod(other): other for other in reversed(around)}
    names = [Slice(family, other) for other in same[:3] or sorted(firsts.values(), key=math.prod)]
    return 'nearest: ' + ', '.join(f'{slice_.name} ({slice_.accelerator_type})' for slice_ in names)


def _cubes(most_chips: int) -> Iterator[tuple[int, int, int]]:
    """All A <= B <= C that are multiples of 4 and have no more chips in all."""
    lengths = range(4, most_chips // 16 + 1, 4)
    for a, b in itertools.combinations_with_replacement(lengths, 2):
        if a * b * b > most_chips:
            continue
        yield from ((a, b, c) for c in range(b, most_chips // (a * b) + 1, 4))
