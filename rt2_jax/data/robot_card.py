"""What a robot card holds, and what follows from it: data -> action -> robot command.

An action here is float32 [terminate + D]: the terminate flag (1 = terminate) where the card has
one, then the dimensions of its ActionSpace. The gripper means the same whatever the robot:

    +1 closed, or closing      -1 open, or opening      0 half-way, or hold

which is the sense of RT-1's `gripper_closedness_action`. Sign and scale are aligned, because one
token for opposite commands would teach a model two languages; both are undone exactly. Whether a
value is a position or a change ("sticky") is not aligned, as it isn't in RT-1, RT-2 and RT-2-X:
Octo and OpenVLA make all grippers absolute from the rest of the episode, which can't be undone.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import math
import re
from typing import Any

import numpy as np

from rt2_jax.data import card_checks, card_json
from rt2_jax.data.data_errors import CardError
from rt2_jax.nearest import check
from rt2_jax.text.actions import ActionSpace

# How the terminate feature of a step says that the episode ends with it.
TERMINATE_RULES = {
    'flag': 'a scalar or [1]: above 0.5 is terminate',
    'argmax': "a one-hot [3]: terminate where entry 0 is the greatest (RT-1's data)",
    'last_step': 'no feature: terminate on the step with is_last',
    'none': "no feature, and the action has no flag (Language-Table's)",
}
GRIPPER_KINDS = {
    'absolute': 'the value is where the gripper shall be',
    'relative': 'the value opens or closes it, and 0 holds it where it is ("sticky")',
}
MOTIONS = ('delta', 'absolute')


@dataclasses.dataclass(frozen=True)
class ActionPart:
    """A run of consecutive numbers of an action or state feature, of any numeric or boolean type.

    Attributes:
        path: the feature, relative to the step, e.g. 'action/world_vector'.
        start: first entry taken.
        stop: end of the entries taken (exclusive). A scalar has the entry 0.
        following: the numbers are those of the next step, and on the last step its own: for a state
            that stands in for a command, which the next step shows.
    """

    path: str
    start: int
    stop: int
    following: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(
                f'{self.path!r}: the entries {self.start} to {self.stop} (exclusive) are none; start is '
                '0 or more, and stop above it'
            )


@dataclasses.dataclass(frozen=True)
class Gripper:
    """What the numbers of a data set's gripper feature mean.

    Attributes:
        kind: a key of GRIPPER_KINDS.
        closed: the value that is closed ('absolute') or closes ('relative').
        open: the value that is open or opens.
        binary: 0 leaves values as they are. Otherwise each becomes closed or open: within this
            share of the range from an end it is that end, and between them what follows in the
            episode counts, since a gripper on its way is meant to arrive. Octo and OpenVLA do so
            with 0.05.
    """

    kind: str
    closed: float
    open: float
    binary: float = 0.0

    def __post_init__(self) -> None:
        check('gripper kind', self.kind, GRIPPER_KINDS)
        if not math.isfinite(self.closed) or not math.isfinite(self.open):
            raise ValueError(f'Gripper: closed {self.closed} and open {self.open} must be finite.')
        if self.closed == self.open:
            raise ValueError(f'Gripper: closed and open are both {self.open}.')
        if not 0 <= self.binary <= 0.5 or (self.binary and self.kind == 'relative'):
            raise ValueError(
                f'Gripper: binary is {self.binary}; it lies in 0..0.5, and is 0 for a relative one.'
            )

    def to_action(self, values: np.ndarray) -> np.ndarray:
        """The data's values [T] of one episode, to +1 closed, -1 open: float32 [T]."""
        values = np.asarray(values, np.float64)
        slope, offset = self._line()
        values = values * slope + offset
        return (self._settled(values) if self.binary else values).astype(np.float32)

    def to_command(self, values: np.ndarray | float) -> np.ndarray:
        """The inverse: what the robot is sent for +1 closed, -1 open, float64 of the same shape."""
        values = np.asarray(values, np.float64)
        if self.binary:
            return np.where(values > 0, self.closed, self.open)
        slope, offset = self._line()
        return (values - offset) / slope

    def _line(self) -> tuple[float, float]:
        slope = 2 / (self.closed - self.open)
        return slope, -(self.closed + self.open) / (self.closed - self.open)

    def _settled(self, values: np.ndarray) -> np.ndarray:
        at_end = np.abs(values) >= 1 - 2 * self.binary
        steps = np.arange(len(values))
        finite = np.isfinite(values)
        # The next step at an end, or the last step that has a value where none follows.
        last = int(np.flatnonzero(finite)[-1]) if finite.any() else 0
        following = np.where(at_end & finite, steps, last)
        following = np.minimum.accumulate(following[::-1])[::-1]
        return np.where(finite, np.where(values[following] > 0, 1.0, -1.0), np.nan)


@dataclasses.dataclass(frozen=True)
class RobotCard:
    """One robot data set's card. Paths are relative to a step; '/path' is the episode's.

    Attributes:
        name: the card's name, that of the data set.
        images: paths of the cameras' pictures, first the one that the model sees by default.
        instruction: path of the instruction: text, or integers that are the bytes of UTF-8 padded
            with zeros.
        action: parts that make up the action's dimensions, in order.
        terminate: path of the terminate feature; '' for the rules 'last_step' and 'none'.
        terminate_rule: a key of TERMINATE_RULES.
        action_space: ranges and units of the dimensions.
        frequency: control rate in Hz.
        frame: what translations and rotations are relative to.
        gripper: what the dimension called 'gripper' means; None where there is none.
        motion: 'delta' or 'absolute', for the dimensions but the gripper.
        success: path of the success flag, relative to the episode; '' if there is none.
        columns: further step features that the index keeps for quick access, numbers or text.
        last_step_action: False where RLDS's rule holds that the action of the `is_last` step is
            invalid, so that the step isn't an example; True where it is an action like any other,
            or carries the terminate signal.
        drop_zero_first: the first step isn't an example where its action moves nothing, because the
            data put one there that nobody commanded (Bridge).
        blue_first: those of `images` whose stored colours are in the order blue, green, red. They are
            turned round as they are read.
        state: parts that make up what the robot feels of itself (proprioception), in order; read
            where a set is trained with its state.
        state_space: names, units and ranges of the state's numbers, without a terminate flag; None
            where the ranges are those of the data.
    """

    name: str
    images: tuple[str, ...]
    instruction: str
    action: tuple[ActionPart, ...]
    terminate: str
    terminate_rule: str
    action_space: ActionSpace
    frequency: float
    frame: str
    gripper: Gripper | None
    motion: str = 'delta'
    success: str = ''
    columns: tuple[str, ...] = ()
    last_step_action: bool = True
    drop_zero_first: bool = False
    blue_first: tuple[str, ...] = ()
    state: tuple[ActionPart, ...] = ()
    state_space: ActionSpace | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r'[\w.-]*[\w-][\w.-]*', self.name):  # it's part of a folder's name
            raise ValueError(
                f'card {self.name!r}: its name may have letters, digits, "_", "-" and "." alone, '
                'and not "." only'
            )
        check(f'terminate rule of card {self.name!r}:', self.terminate_rule, TERMINATE_RULES)
        check(f'motion of card {self.name!r}:', self.motion, MOTIONS)
        for camera in self.blue_first:
            check(f'camera in blue_first of card {self.name!r}:', camera, self.images)
        card_checks.check_values(self)

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> RobotCard:
        """The inverse of `dataclasses.asdict` by way of JSON; takes the text or what it parses to.

        Raises:
            CardError: a field that is unknown, missing or of the wrong type, or a value that no
                card has; names the field.
        """
        try:
            fields = card_json.parsed(text) if isinstance(text, str) else text
        except CardError:
            raise
        except ValueError as error:
            raise CardError(f'a card must be JSON: {error}') from error
        what = f'card {fields.get("name")!r}' if isinstance(fields, Mapping) else 'a card'
        fields = card_json.checked(what, cls, fields)
        for field in ('action', 'state'):
            parts = fields.get(field, ())
            if not isinstance(parts, (list, tuple)) or (field == 'action' and not parts):
                raise CardError(f'{what}, field {field}: a list of parts is needed')
            fields[field] = tuple(
                card_json.made(f'{what}, field {field}[{number}]', ActionPart, part)
                for number, part in enumerate(parts)
            )
        if fields['gripper'] is not None:
            fields['gripper'] = card_json.made(f'{what}, field gripper', Gripper, fields['gripper'])
        fields['action_space'] = card_json.space(
            f'{what}, field action_space', fields['action_space'], {}
        )
        if fields.get('state_space') is not None:
            fields['state_space'] = card_json.space(
                f'{what}, field state_space', fields['state_space'], {'terminate': False}
            )
        lists = [field.name for field in dataclasses.fields(cls) if field.type == 'tuple[str, ...]']
        fields |= {name: tuple(fields[name]) for name in lists if name in fields}
        try:
            return cls(**fields)
        except ValueError as error:
            raise CardError(str(error)) from error

    @property
    def fingerprint(self) -> str:
        """Changes with anything that changes what an index holds."""
        fields = dataclasses.asdict(self)
        for elsewhere in ('frequency', 'frame', 'motion', 'action_space', 'state', 'state_space'):
            fields.pop(elsewhere)
        fields['columns'] = self.kept_columns
        # What is younger than the first indexes counts where it is used, so that those stay valid.
        if not self.blue_first:
            del fields['blue_first']
        for part in fields['action']:
            if not part['following']:
                del part['following']
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def kept_columns(self) -> tuple[str, ...]:
        """The step features that the index keeps: `columns`, and those of the state."""
        return tuple(dict.fromkeys((*self.columns, *(part.path for part in self.state))))

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras: the last word of each path of `images`, or all of it if two share it."""
        names = [re.split(r'[/.]', path)[-1] for path in self.images]
        return tuple(names if len(set(names)) == len(names) else self.images)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state's numbers: those of `state_space`, or 'state_0' and so on."""
        if self.state_space:
            return self.state_space.names
        return tuple(
            f'{re.split("[/.]", part.path)[-1]}_{number}'
            for part in self.state
            for number in range(part.start, part.stop)
        )

    def camera(self, name: str) -> int:
        """The number among `images` of a camera, by one of `cameras` or its path.

        Raises:
            ValueError: the card has no such camera; names those that it has.
        """
        if name not in self.images:
            name = self.images[
                self.cameras.index(check(f'camera of card {self.name!r}:', name, self.cameras))
            ]
        return self.images.index(name)

    def without_state(self) -> RobotCard:
        """The card of a set that is read without its state."""
        return dataclasses.replace(self, state=(), state_space=None)

    @property
    def paths(self) -> tuple[str, ...]:
        """All features that an index needs: in steps, '/path' in the episode."""
        action = (part.path for part in self.action)
        flag = {'none': (), 'last_step': ('is_last',)}.get(self.terminate_rule, (self.terminate,))
        success = (f'/{self.success}',) if self.success else ()
        paths = (*self.images, self.instruction, *action, *flag, *self.kept_columns, *success)
        return tuple(dict.fromkeys(paths))

    def to_action(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """One episode's features, [T, ...] by path, to actions float32 [T, terminate + D]."""
        values = self._dimensions(features)
        if self.gripper:
            place = self.action_space.names.index('gripper')
            values[:, place] = self.gripper.to_action(values[:, place])
        if self.terminate_rule == 'none':
            return values
        flag = _rows(features[self.terminate or 'is_last'])
        ends = flag.argmax(axis=1) == 0 if self.terminate_rule == 'argmax' else flag[:, 0] > 0.5
        return np.concatenate([ends[:, None], values], axis=1, dtype=np.float32)

    def gripper_values(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """The gripper's values of one episode as the data have them, float32 [T]."""
        return self._dimensions(features)[:, self.action_space.names.index('gripper')]

    def _dimensions(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        parts = []
        for part in self.action:
            values = _rows(features[part.path])[:, part.start : part.stop].astype(np.float32)
            if part.following:
                values = np.concatenate([values[1:], values[-1:]])
            parts.append(values)
        return np.concatenate(parts, axis=1)

    def command_values(self, action: np.ndarray) -> np.ndarray:
        """An action's dimensions in the numbers of the robot that made the data.

        Args:
            action: float [terminate + D], as `to_action` gives it.

        Returns:
            float64 [D], in the order of `action_space.names`: the gripper in the data's own sense
            and scale, a relative one as the change that the data hold.

        Raises:
            ValueError: the action has another length.
        """
        action = np.asarray(action, np.float64)
        if action.shape != (self.action_space.length,):
            raise ValueError(
                f'card {self.name!r}: an action has {self.action_space.length} numbers, got shape '
                f'{list(action.shape)}'
            )
        values = action[self.action_space.terminate :].copy()
        if self.gripper:
            place = self.action_space.names.index('gripper')
            values[place] = self.gripper.to_command(values[place])
        return values

    def to_command(self, action: np.ndarray) -> dict[str, np.ndarray]:
        """`command_values` by feature: what the data would hold for this action.

        Returns:
            Path -> float64 [entries that the card's parts take], in the data's order; the terminate
            feature, where the card names one, as the rule has it: [1], or one-hot int32 [3] whose
            entry 1 is 'carry on'.

        Raises:
            ValueError: the action has another length.
        """
        values = self.command_values(action)
        taken: dict[str, dict[int, np.ndarray]] = {}
        for part in self.action:
            numbers, values = np.split(values, [part.stop - part.start])
            taken.setdefault(part.path, {})[part.start] = numbers
        command = {
            path: np.concatenate([numbers for _, numbers in sorted(runs.items())])
            for path, runs in taken.items()
        }
        if self.terminate:
            ends = action[0] > 0.5
            one_hot = np.array([ends, not ends, False], np.int32)
            command[self.terminate] = (
                one_hot if self.terminate_rule == 'argmax' else np.array([float(ends)])
            )
        return command

    def examples(self, action: np.ndarray) -> slice:
        """Which of an episode's steps are examples, given its actions [T, terminate + D]."""
        stop = len(action) - (not self.last_step_action)
        moves = [i for i, name in enumerate(self.action_space.names) if name != 'gripper']
        first = action[:1, self.action_space.terminate :][:, moves]
        start = int(self.drop_zero_first and len(action) > 0 and not first.any())
        return slice(start, max(start, stop))


def _rows(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    return values.reshape(len(values), int(np.prod(values.shape[1:])))
