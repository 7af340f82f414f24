"""Which source the n-th example of a training run comes from.

Everything is a closed formula of n, so the position in a mixture is one integer and any host can
compute any part of any batch. The robot side's share of each batch follows a schedule through an
integer table of cumulative quotas; within a side, sources are interleaved by integer weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
from typing import Any

import grain
import numpy as np

from rt2_jax.nearest import check, nearest

SCHEDULES = ('constant', 'ramp', 'steps')

# Weights are taken as multiples of this, so that interleaving is exact in integers.
WEIGHT_UNIT = 1 << 20


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The robot share of a batch against the training step.

    Attributes:
      kind: 'constant': `start` throughout. 'ramp': `start` until `begin`, then linearly to `end`
        at step `finish`, and `end` from there. 'steps': `shares[i]` from step `boundaries[i - 1]`
        up to `boundaries[i]`.
      start: share, in [0, 1].
      end: share at the end of a ramp.
      begin: first step of the ramp.
      finish: step at which the ramp reaches `end`.
      boundaries: steps at which the share changes, increasing.
      shares: one more than there are boundaries.
    """

    kind: str = 'constant'
    start: float = 0.5
    end: float = 0.5
    begin: int = 0
    finish: int = 1
    boundaries: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()

    def __post_init__(self):
        check('schedule of the robot share', self.kind, SCHEDULES)
        object.__setattr__(self, 'boundaries', tuple(self.boundaries))
        object.__setattr__(self, 'shares', tuple(self.shares))
        for share in (self.start, self.end, *self.shares):
            if not 0 <= share <= 1:
                raise ValueError(f'a robot share must lie in [0, 1]; got {share}')
        if self.kind == 'ramp' and self.finish <= self.begin:
            raise ValueError(f'a ramp must finish after it begins; got {self.begin}..{self.finish}')
        if self.kind == 'steps':
            if len(self.shares) != len(self.boundaries) + 1:
                raise ValueError(
                    f'a schedule of steps needs one share more than boundaries; got '
                    f'{len(self.shares)} shares and {len(self.boundaries)} boundaries'
                )
            if list(self.boundaries) != sorted(set(self.boundaries)):
                raise ValueError(f'boundaries must increase; got {list(self.boundaries)}')

    def share(self, step: np.ndarray) -> np.ndarray:
        """Robot share float64 [N] at training steps int [N]."""
        step = np.asarray(step)
        if self.kind == 'constant':
            return np.full(step.shape, self.start, np.float64)
        if self.kind == 'ramp':
            done = np.clip((step - self.begin) / (self.finish - self.begin), 0.0, 1.0)
            return self.start + (self.end - self.start) * done
        return np.asarray(self.shares, np.float64)[
            np.searchsorted(self.boundaries, step, side='right')
        ]

    def to_json(self) -> str:
        """The fields that have a meaning for this kind, as canonical JSON."""
        used = {
            'constant': ('kind', 'start'),
            'ramp': ('kind', 'start', 'end', 'begin', 'finish'),
            'steps': ('kind', 'boundaries', 'shares'),
        }[self.kind]
        return json.dumps({name: getattr(self, name) for name in used}, sort_keys=True)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Schedule:
        """From a mapping of the fields above; an unknown one raises with the nearest valid name."""
        valid = [field.name for field in dataclasses.fields(cls)]
        for name in config:
            if name not in valid:
                raise ValueError(f'unknown schedule field {name!r}' + nearest(name, valid))
        return cls(**dict(config))


def quotas(schedule: Schedule, batches: int, batch_size: int) -> np.ndarray:
    """Robot examples before each batch, int64 [batches + 1], within half of the schedule's sum.

    Batch b holds `quotas[b + 1] - quotas[b]` robot examples: its share of the schedule to within
    one example. Only batches before b matter to it, so a run can be made longer later.
    """
    share = schedule.share(np.arange(batches))
    # Shares in integer parts: a float cumulative sum would drift, and differ between machines.
    parts = np.rint(share * WEIGHT_UNIT).astype(np.int64) * batch_size
    total = np.concatenate([[0], np.cumsum(parts)])
    return (total + WEIGHT_UNIT // 2) // WEIGHT_UNIT


class Interleaving:
    """Splits a stream among several parts by weight: k-th example -> (part, index in the part).

    Parts are peeled off one at a time, each taking floor((k + 1) w / W) - floor(k w / W) of what
    is left, so counts follow the weights to within one example a part at every moment.
    """

    def __init__(self, weights: Sequence[float]):
        if not weights or min(weights) <= 0 or not np.all(np.isfinite(weights)):
            raise ValueError(f'weights must be positive and finite; got {list(weights)}')
        whole = sum(weights)
        self._weights = [max(1, round(w / whole * WEIGHT_UNIT)) for w in weights]

    def __getitem__(self, k: int) -> tuple[int, int]:
        left = sum(self._weights)
        for part, weight in enumerate(self._weights):
            before, after = k * weight // left, (k + 1) * weight // left
            if after > before:
                return part, before
            k -= before
            left -= weight
        raise AssertionError('the last part takes all that is left')


class RobotShareMap(grain.transforms.DatasetSelectionMap):
    """Global example index -> (source, index within the source), robot sources first.

    Within a batch the robot examples are spread evenly, so that hosts and devices, which hold runs
    of rows, get equal parts.

    Args:
      schedule: robot share by training step.
      batches: length of the run.
      batch_size: examples a global batch.
      robot_weights: weights of the robot sources; may be empty if the share is 0 throughout.
      web_weights: weights of the other sources; may be empty if the share is 1 throughout.
    """

    def __init__(
        self,
        schedule: Schedule,
        batches: int,
        batch_size: int,
        robot_weights: Sequence[float],
        web_weights: Sequence[float],
    ):
        self._quotas = quotas(schedule, batches, batch_size)
        self._batch_size = batch_size
        robots, examples = int(self._quotas[-1]), batches * batch_size
        if robots and not robot_weights:
            raise ValueError(
                f'the schedule of the robot share {schedule.to_json()} asks for robot examples, '
                'but there is no robot source'
            )
        if robots < examples and not web_weights:
            raise ValueError(
                f'the schedule of the robot share {schedule.to_json()} leaves room for web '
                'examples, but there is no web source'
            )
        self._robot = Interleaving(robot_weights) if robot_weights else None
        self._web = Interleaving(web_weights) if web_weights else None
        self._robot_sources = len(robot_weights)

    def __len__(self) -> int:
        return (len(self._quotas) - 1) * self._batch_size

    def __getitem__(self, index: int) -> tuple[int, int]:
        batch, row = divmod(int(index), self._batch_size)
        start = int(self._quotas[batch])
        robots = int(self._quotas[batch + 1]) - start
        before = row * robots // self._batch_size
        if (row + 1) * robots // self._batch_size > before:
            return self._robot[start + before]
        source, position = self._web[batch * self._batch_size - start + row - before]
        return self._robot_sources + source, position

    def __repr__(self) -> str:
        return f'RobotShareMap(batches={len(self._quotas) - 1}, batch_size={self._batch_size})'
