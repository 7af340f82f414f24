"""Actions as language: L floats <-> L integers <-> L token ids, L being 8 for RT-2's arm.

RT-2 (arXiv 2307.15818) writes an action as the string

    terminate dx dy dz drx dry drz gripper        e.g. "1 128 91 241 5 101 127 217"

whose first integer is 1 while the episode goes on and 0 to terminate it, and whose other seven
are bins, 0..255, of a uniform grid over the range of each dimension. An action *vector* here is
float32 [8] in the same order; its element 0 is a flag with the opposite sense, 1.0 = terminate
(the sense of the data sets' own terminate fields).

Other robots have other dimensions, and some have no terminate number: on Language-Table an action
is "X Y" (`ActionSpace.language_table`), and its vector is float32 [2].

The grid. A bin decodes to its centre, never to its edge: truncation would turn a null action into a
drift. Where a range is symmetric about zero, zero is the exact centre of bin
`bins // 2`, and a bin is 1/(bins - 1) of the range wide:

    256 bins  1..255 share the range; bin 0, which encoding never chooses, decodes to its lower end
    21 bins   the first and the last are centred on the range's ends, so both ends are exact too

Other ranges are cut into equal bins. In every case a value inside its range comes back within half
a bin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
from typing import Any

from absl import logging
import numpy as np

from rt2_jax.text.grid import Grid
from rt2_jax.text.tokenizer import BINS, Tokenizer

DIMENSIONS = ('dx', 'dy', 'dz', 'drx', 'dry', 'drz', 'gripper')
CARRY_ON, TERMINATE = 1, 0  # the first integer of an action string

# A range narrower than this (in the dimension's own unit) blows sensor noise up to the full grid.
MINIMUM_RANGE = 1e-3


@dataclasses.dataclass(frozen=True)
class ActionSpace:
    """What the numbers of an action mean: the ranges of its continuous dimensions, and a flag.

    Attributes:
        low: lower ends, one a dimension, in `units`.
        high: upper ends. A range narrower than `MINIMUM_RANGE` is widened to it about its middle,
            with a logged warning.
        names: names of the dimensions.
        units: their units: metres, radians, or 1 for a dimensionless one.
        bins: number of integers a dimension may take.
        terminate: whether the terminate flag comes before them. Without it, no
            output of a policy ends an episode.

    Raises:
        ValueError: for lengths that differ, ends that are not finite, or high below low.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    names: tuple[str, ...] = DIMENSIONS
    units: tuple[str, ...] = ('m', 'm', 'm', 'rad', 'rad', 'rad', '1')
    bins: int = BINS
    terminate: bool = True

    def __post_init__(self) -> None:
        low = tuple(float(x) for x in self.low)
        high = tuple(float(x) for x in self.high)
        lengths = {len(low), len(high), len(self.names), len(self.units)}
        if len(lengths) != 1:
            raise ValueError(
                f'ActionSpace: {len(self.names)} names, {len(low)} lower ends, {len(high)} upper '
                f'ends and {len(self.units)} units; there must be as many of each.'
            )
        if not self.names:
            raise ValueError('ActionSpace: no dimensions; at least one is needed.')
        if not isinstance(self.terminate, bool):
            raise ValueError(f'ActionSpace: terminate is {self.terminate!r}, not True or False.')
        if self.bins < 2:
            raise ValueError(f'ActionSpace: bins is {self.bins}; at least 2 are needed.')
        ends = [
            self._checked_range(name, a, b)
            for name, a, b in zip(self.names, low, high, strict=True)
        ]
        object.__setattr__(self, 'low', tuple(a for a, _ in ends))
        object.__setattr__(self, 'high', tuple(b for _, b in ends))
        object.__setattr__(self, 'names', tuple(self.names))
        object.__setattr__(self, 'units', tuple(self.units))

    @staticmethod
    def _checked_range(name: str, low: float, high: float) -> tuple[float, float]:
        if not (math.isfinite(low) and math.isfinite(high)) or high < low:
            raise ValueError(
                f'ActionSpace: the range of {name!r} is [{low}, {high}]; it needs two finite numbers, '
                'the lower one first'
            )
        # The slack keeps a range that was widened once from being widened, and warned of, again.
        if high - low >= MINIMUM_RANGE * (1 - 1e-9):
            return low, high
        middle = (low + high) / 2
        logging.warning(
            'Action dimension %r has a range of only %g ([%g, %g]); widened to %g.',
            name,
            high - low,
            low,
            high,
            MINIMUM_RANGE,
        )
        return middle - MINIMUM_RANGE / 2, middle + MINIMUM_RANGE / 2

    @classmethod
    def rt1_bounds(cls) -> ActionSpace:
        """RT-1's ranges: translation +-1 m, rotation +-pi/2 rad, gripper +-1."""
        high = (1.0,) * 3 + (math.pi / 2,) * 3 + (1.0,)
        return cls(low=tuple(-x for x in high), high=high)

    @classmethod
    def language_table(cls) -> ActionSpace:
        """Language-Table's "X Y": the change of the arm's 2-D set-point, +-0.1 m, and no flag.

        The paper's X and Y are integers -10..+10. Negative integers are not single tokens, so 0..20
        stand for them here, 10 for 0: an integer is 1 cm, and both ends of the environment's range
        (`Box(-0.1, 0.1)` in google-research/language-table) are exact.
        """
        return cls(
            low=(-0.1, -0.1),
            high=(0.1, 0.1),
            names=('dx', 'dy'),
            units=('m', 'm'),
            bins=21,
            terminate=False,
        )

    @property
    def length(self) -> int:
        """Numbers, and tokens, an action."""
        return self.terminate + len(self.names)

    @property
    def number_names(self) -> tuple[str, ...]:
        """Names of all numbers of an action, in order: 'terminate' first where there is one."""
        return ('terminate',) * self.terminate + self.names

    @property
    def labels(self) -> tuple[str, ...]:
        """The dimensions with their units: 'dx_m', 'drx_rad', 'gripper'."""
        return tuple(
            name if unit == '1' else f'{name}_{unit}'
            for name, unit in zip(self.names, self.units, strict=True)
        )

    @property
    def bin_widths(self) -> np.ndarray:
        """Width of a bin, float64 [D], in `units`."""
        extent = np.subtract(self.high, self.low)
        return extent / (self.bins - self.zero_centred)

    @property
    def centres(self) -> np.ndarray:
        """What each integer stands for: float64 [D, bins], in `units`."""
        width, low = self.bin_widths[:, None], np.asarray(self.low)[:, None]
        integers = np.arange(self.bins)
        plain = low + (integers + 0.5) * width
        high = np.asarray(self.high)[:, None]
        about_zero = np.clip((integers - self.bins // 2) * width, low, high)
        return np.where(self.zero_centred[:, None], about_zero, plain)

    @property
    def zero_centred(self) -> np.ndarray:
        """Whether a dimension's range is symmetric about zero, bool [D]."""
        return np.add(self.low, self.high) == 0

    def to_json(self) -> str:
        """The JSON text; without `terminate` where it is True."""
        fields = dataclasses.asdict(self)
        # A run's position in its data is bound to this text, so older runs need it as it was.
        if self.terminate:
            del fields['terminate']
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> ActionSpace:
        """The inverse of `to_json`; takes the JSON text or what it parses to.

        Without `terminate` it is True.
        """
        fields = dict(json.loads(text) if isinstance(text, str) else text)
        valid = [field.name for field in dataclasses.fields(cls)]
        if missing := [name for name in valid if name not in {**fields, 'terminate': True}]:
            raise ValueError(f'ActionSpace JSON lacks {missing}; it has {sorted(fields)}.')
        if unknown := [name for name in fields if name not in valid]:
            raise ValueError(f'ActionSpace JSON has unknown fields {unknown}; valid: {valid}.')
        lists = {k: tuple(fields[k]) for k in ('low', 'high', 'names', 'units')}
        return cls(bins=int(fields['bins']), terminate=fields.get('terminate', True), **lists)


def range_of(lower: float, upper: float, least: float, greatest: float) -> tuple[float, float]:
    """The range of a dimension: its quantiles, or its extremes where the quantiles coincide.

    A dimension that moves in fewer than 1 % of the steps has both quantiles at rest; a range around
    them would clip every command. If it rests at zero the range is symmetric, so that zero stays
    exact.

    Args:
        lower: its lower quantile.
        upper: its upper quantile.
        least: its minimum.
        greatest: its maximum.
    """
    if upper - lower >= MINIMUM_RANGE or greatest - least < MINIMUM_RANGE:
        return lower, upper
    if lower <= 0 <= upper:
        reach = max(-least, greatest)
        return -reach, reach
    return least, greatest


class ActionTokenizer:
    """Action vectors <-> token ids, by way of a tokenizer's single-token integers.

    Attributes:
        space: the ActionSpace.
        integer_ids: int32 [bins], token id of each integer.
        bin_of_id: int32 [vocab_size], the integer of each token id, -1 for any other token.

    Raises:
        ValueError: when the tokenizer's integers and token ids are not one to one.
    """

    def __init__(self, space: ActionSpace, tokenizer: Tokenizer) -> None:
        self.space = space
        self.integer_ids = _checked_integer_ids(tokenizer, space.bins)
        self.bin_of_id = np.full([tokenizer.vocab_size], -1, np.int32)
        self.bin_of_id[self.integer_ids] = np.arange(space.bins)
        self._grid = Grid(space)

    @property
    def encoded(self) -> int:
        """How many actions were encoded."""
        return self._grid.encoded

    @property
    def clipped(self) -> np.ndarray:
        """How many values of each dimension were clipped, int64 [D]; see `Grid`."""
        return self._grid.clipped

    @property
    def length(self) -> int:
        """Tokens an action."""
        return self.space.length

    @property
    def terminate_ids(self) -> tuple[int, int]:
        """The ids of the integers 0 (terminate) and 1 (carry on), all that may stand at the flag."""
        return int(self.integer_ids[TERMINATE]), int(self.integer_ids[CARRY_ON])

    def to_integers(self, action: np.ndarray | Sequence[float]) -> np.ndarray:
        """Action vectors float [..., L] to the integers of the action string, int32 [..., L].

        Raises:
            ValueError: for a wrong shape, a value that is NaN or infinite, or a terminate flag
                outside [0, 1].
        """
        action = np.asarray(action, np.float64)
        if action.ndim < 1 or action.shape[-1] != self.length:
            raise ValueError(
                f'An action has {self.length} numbers ({", ".join(self.space.number_names)}), '
                f'got shape {action.shape}.'
            )
        if not np.isfinite(action).all():
            bad = np.argwhere(~np.isfinite(action))[0]
            raise ValueError(
                f'Action {tuple(int(i) for i in bad[:-1])} has {action[tuple(bad)]} for '
                f'{self._name(bad[-1])!r}; an action must be finite.'
            )
        count = int(self.space.terminate)
        flags, values = action[..., :count], action[..., count:]
        if (invalid := (flags < 0) | (flags > 1)).any():
            raise ValueError(
                'The terminate flag (element 0 of an action) must lie in [0, 1], got '
                f'{flags[invalid].flat[0]}.'
            )
        bins = self._grid.integers(values)
        first = np.where(flags >= 0.5, TERMINATE, CARRY_ON)
        return np.concatenate([first, bins], axis=-1).astype(np.int32)

    def from_integers(self, integers: np.ndarray) -> np.ndarray:
        """Integers of action strings [..., L] to action vectors float32 [..., L] (bin centres).

        Raises:
            ValueError: for a wrong shape or an integer that has no meaning at its place.
        """
        integers = np.asarray(integers)
        if integers.ndim < 1 or integers.shape[-1] != self.length:
            raise ValueError(f'An action has {self.length} integers, got shape {integers.shape}.')
        count = int(self.space.terminate)
        limits = np.array([2] * count + [self.space.bins] * len(self.space.names))
        if (invalid := (integers < 0) | (integers >= limits)).any():
            where = tuple(np.argwhere(invalid)[0])
            raise ValueError(
                f'Integer {integers[where]} at position {int(where[-1])} of an action '
                f'({self._name(where[-1])!r}) is outside 0..{limits[where[-1]] - 1}.'
            )
        flag = (integers[..., :count] == TERMINATE).astype(np.float32)
        dimension = np.arange(len(self.space.names))
        values = self.space.centres[dimension, integers[..., count:]]
        return np.concatenate([flag, values.astype(np.float32)], axis=-1)

    def encode(self, action: np.ndarray | Sequence[float]) -> np.ndarray:
        """Action vectors float [..., L] to token ids int32 [..., L]; raises as `to_integers`."""
        return self.integer_ids[self.to_integers(action)]

    def decode(self, ids: np.ndarray | Sequence[int]) -> np.ndarray:
        """Token ids int [..., L] to action vectors float32 [..., L].

        Raises:
            ValueError: for a wrong shape, or an id that is no action token at its place.
        """
        ids = np.asarray(ids)
        inside = (ids >= 0) & (ids < len(self.bin_of_id))
        integers = np.where(inside, self.bin_of_id[np.where(inside, ids, 0)], -1)
        if (integers < 0).any():
            where = tuple(np.argwhere(integers < 0)[0])
            raise ValueError(
                f'Token id {ids[where]} at position {int(where[-1])} of {ids[where[:-1]].tolist()} '
                f'is no action token: an action is {self.length} ids of the integers '
                f'0..{self.space.bins - 1}.'
            )
        return self.from_integers(integers)

    def _name(self, position: int) -> str:
        return self.space.number_names[int(position)]


def _checked_integer_ids(tokenizer: Tokenizer, bins: int) -> np.ndarray:
    """The ids of the integers 0..bins-1, int32 [bins], proved to be one to one with them."""
    ids = np.asarray(tokenizer.integer_ids, np.int32)
    if ids.ndim != 1 or len(ids) < bins:
        raise ValueError(f'The tokenizer has {ids.size} single-token integers; {bins} are needed.')
    ids = ids[:bins]
    if len(np.unique(ids)) != bins:
        raise ValueError('Two integers of the tokenizer share one token id.')
    if ids.min() < 0 or ids.max() >= tokenizer.vocab_size:
        raise ValueError(
            f'Integer token ids run from {ids.min()} to {ids.max()}, outside the vocabulary of '
            f'{tokenizer.vocab_size}.'
        )
    if reserved := {tokenizer.pad_id, tokenizer.eos_id} & set(ids.tolist()):
        raise ValueError(f'Token ids {sorted(reserved)} stand for an integer and for padding/EOS.')
    for integer, token in enumerate(ids.tolist()):
        if (text := tokenizer.decode([token]).strip()) != str(integer):
            raise ValueError(
                f'Integer {integer} is said to be token {token}, but that decodes to {text!r}.'
            )
    return ids
