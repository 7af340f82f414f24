"""A number that follows the training step: the robots' share of a batch, or a data set's weight."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

import numpy as np

from rt2_jax.nearest import check, check_fields

KINDS = ('constant', 'linear', 'cosine', 'steps')
_FIELDS = {
    'constant': ('start',),
    'linear': ('start', 'end', 'begin', 'finish'),
    'cosine': ('start', 'end', 'begin', 'finish'),
    'steps': ('boundaries', 'shares'),
}


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A number against the training step; only steps up to t matter to its value at t.

    Attributes:
        kind: 'constant': `start` throughout. 'linear' (or 'ramp') and 'cosine': `start` until
            `begin`, from there along a line or half a cosine to `end` at step `finish`, and `end`
            after that. 'steps': `shares[i]` from step `boundaries[i - 1]` up to `boundaries[i]`.
        start: first value, 0 or more.
        end: last value.
        begin: first step of the change.
        finish: step at which `end` is reached.
        boundaries: steps at which the value changes, increasing.
        shares: the values between them, one more than there are boundaries.
    """

    kind: str = 'constant'
    start: float = 0.5
    end: float = 0.5
    begin: int = 0
    finish: int = 1
    boundaries: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, 'kind', 'linear' if self.kind == 'ramp' else self.kind)
        check('kind of schedule', self.kind, KINDS)
        object.__setattr__(self, 'boundaries', tuple(self.boundaries))
        object.__setattr__(self, 'shares', tuple(self.shares))
        for value in (self.start, self.end, *self.shares):
            if not (np.isfinite(value) and value >= 0):
                raise ValueError(f'a share or weight must be 0 or more and finite; got {value}')
        if self.kind in ('linear', 'cosine') and self.finish <= self.begin:
            raise ValueError(
                f'a schedule must finish after it begins; got {self.begin}..{self.finish}'
            )
        if self.kind == 'steps':
            if len(self.shares) != len(self.boundaries) + 1:
                raise ValueError(
                    f'a schedule of steps needs one share more than boundaries; got '
                    f'{len(self.shares)} shares and {len(self.boundaries)} boundaries'
                )
            if list(self.boundaries) != sorted(set(self.boundaries)):
                raise ValueError(f'boundaries must increase; got {list(self.boundaries)}')

    def at(self, step: np.ndarray) -> np.ndarray:
        """Values float64 [N] at training steps int [N]."""
        step = np.asarray(step)
        if self.kind == 'constant':
            return np.full(step.shape, self.start, np.float64)
        if self.kind == 'steps':
            part = np.searchsorted(self.boundaries, step, side='right')
            return np.asarray(self.shares, np.float64)[part]
        done = np.clip((step - self.begin) / (self.finish - self.begin), 0.0, 1.0)
        if self.kind == 'cosine':
            done = 0.5 - 0.5 * np.cos(np.pi * done)
        return self.start + (self.end - self.start) * done

    def times(self, factor: float) -> Schedule:
        """The schedule of `factor` times this number."""
        return dataclasses.replace(
            self,
            start=self.start * factor,
            end=self.end * factor,
            shares=tuple(share * factor for share in self.shares),
        )

    @property
    def most(self) -> float:
        """The largest value that it takes."""
        if self.kind == 'steps':
            return max(self.shares)
        return self.start if self.kind == 'constant' else max(self.start, self.end)

    def to_json(self) -> str:
        """The fields that have a meaning for this kind, as canonical JSON."""
        used = {name: getattr(self, name) for name in ('kind', *_FIELDS[self.kind])}
        return json.dumps(used, sort_keys=True)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any] | float | Schedule, path: str = 'schedule'
    ) -> Schedule:
        """From a number, a mapping of the fields above, or what is one already.

        Args:
            config: the number or the fields.
            path: what error messages call it, such as 'config.data.robot_share'.

        Raises:
            ValueError: an unknown field, with the nearest valid one, or a value that can't be.
        """
        if isinstance(config, Schedule):
            return config
        if isinstance(config, (int, float)):
            return cls(start=float(config))
        if not hasattr(config, 'items'):  # a ConfigDict is no Mapping
            raise ValueError(
                f'{path} is {config!r}; a number or the fields of a schedule are needed'
            )
        return cls(**check_fields(path, config, [field.name for field in dataclasses.fields(cls)]))
