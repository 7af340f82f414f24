"""Guesses which numbers are the action, what each is, and the ranges of their bins."""

from __future__ import annotations

import collections
from collections.abc import Sequence
import dataclasses
import math
import re

import numpy as np

from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.drafting import guessed_features, guessed_gripper
from rt2_jax.data.drafting.episode_sample import Sample
from rt2_jax.data.drafting.guess import Guess, card_path, is_named, percent
from rt2_jax.data.robot import robot_state
from rt2_jax.data.robot_card import ActionPart
from rt2_jax.text.actions import MINIMUM_RANGE

# Whole names of numbers, as LeRobot's info.json has them, without a 'd', 'delta' or 'target' before.
_AXES = {
    'position': ('x', 'y', 'z'),
    'rotation': ('rx', 'ry', 'rz', 'roll', 'pitch', 'yaw', 'qx', 'qy', 'qz', 'qw'),
}
_JOINTS = ('joint', 'shoulder', 'elbow', 'wrist', 'waist', 'forearm', 'motor', 'j')
_LONGEST = 32  # numbers of an action at most
_RLDS = ('reward', 'discount', 'is_first', 'is_last', 'is_terminal')
_TERMINATE = ('terminat', 'done')
# Kind -> words in names, in the order in which they are looked for: 'gripper_position' is a gripper's.
_KINDS = {
    'base': ('base',),
    'joint': ('joint',),
    'gripper': ('grip', 'clos', 'open', 'finger', 'claw', 'jaw', 'suction'),
    'rotation': ('rot', 'orient', 'rpy', 'euler', 'quat', 'angular'),
    'position': ('vector', 'trans', 'pos', 'xyz', 'linear', 'cartesian', 'eef'),
}
_DELTA = ('delta', 'rel', 'displacement', 'vel', 'vector')
_ABSOLUTE = ('abs', 'target', 'goal')
_NAMES = {'position': ('x', 'y', 'z'), 'rotation': ('rx', 'ry', 'rz')}
_FAR = 1.0  # standard deviations from 0 at which the mean of a dimension says that it is absolute
_SLOW = 0.5  # of its standard deviation: an absolute dimension changes by less from step to step
_WIDER = 2.0  # times the quantiles up to which a range takes in the largest value


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One number of the action.

    Attributes:
        path: of its feature in the schema.
        entry: its place there.
        kind: a key of _KINDS, or 'other'.
        name: in the card.
    """

    path: str
    entry: int
    kind: str
    name: str = ''


def dimensions(sample: Sample, named: Sequence[str] = ()) -> tuple[list[Dimension], str, Guess]:
    """The numbers that make up the action, and the card's `motion`.

    Args:
        sample: of the set.
        named: features that a person named in place of a guess, in the order of the action.

    Raises:
        DataSetError: no feature is an action; names those with numbers.
    """
    paths = guessed_features.full_paths(sample, named, 'action') if named else _candidates(sample)
    for path in paths:
        if path not in sample.numbers or sample.size(path) > _LONGEST:
            raise DataSetError(
                f'--action: {path!r} is {sample.schema[path].dtype} '
                f'{list(sample.schema[path].shape)}, no {_LONGEST} numbers or fewer a step'
            )
    chosen = list(paths) if named else _chosen(paths)
    has_gripper = any(_kind(path) == 'gripper' for path in chosen)
    parts = [part for path in chosen for part in _split(sample, path, has_gripper)]
    _check_finite(sample, parts)
    motion, why, check = _motion(sample, parts)
    parts = _with_names(parts, motion)
    grippers = [part for part in parts if part.kind == 'gripper']
    if len(grippers) > 1:  # a card has one
        extra = ', '.join(f'{card_path(part.path)}[{part.entry}]' for part in grippers[1:])
        check += f'; a card has one gripper, so {extra} is left out'
        parts = [part for part in parts if part not in grippers[1:]]
    words = [
        f'{card_path(path)} ({", ".join(x.name for x in parts if x.path == path)})'
        for path in dict.fromkeys(part.path for part in parts)
    ]
    left_out = [
        card_path(path) for path in paths if path not in chosen and _kind(path) != 'terminate'
    ]
    if left_out:
        check += f'; left out: {", ".join(left_out)}'
    documented = [sample.documented[path] for path in chosen if path in sample.documented]
    if documented:
        why += f'; its makers say: {"; ".join(documented)}'
    if any(re.fullmatch(r'a\d+', x.name) and x.path not in sample.names for x in parts):
        check += '; what a1, a2, ... are: nothing says it'
    return parts, motion, Guess('action', f'{motion}: {", ".join(words)}', why, check.strip('; '))


def parts_of(dimensions: Sequence[Dimension]) -> tuple[ActionPart, ...]:
    """The card's `action`: runs of consecutive entries of a feature."""
    runs: list[ActionPart] = []
    for part in dimensions:
        path = card_path(part.path)
        if runs and runs[-1].path == path and runs[-1].stop == part.entry:
            runs[-1] = dataclasses.replace(runs[-1], stop=part.entry + 1)
        else:
            runs.append(ActionPart(path, part.entry, part.entry + 1))
    return tuple(runs)


def values(sample: Sample, part: Dimension) -> list[np.ndarray]:
    """A dimension's values in each episode, float64 [T]."""
    return [
        episode.reshape(len(episode), -1)[:, part.entry] for episode in sample.numbers[part.path]
    ]


def joined(sample: Sample, part: Dimension) -> np.ndarray:
    """A dimension's values in all episodes, float64 [N]."""
    return np.concatenate(values(sample, part))


def unit(sample: Sample, part: Dimension) -> tuple[str, str]:
    """The unit of a dimension by its name, else by its kind and its size, and what to check."""
    if named := re.search(r'_(mm|m|deg|rad)$', re.sub(r'\W', '_', called(sample, part))):
        return named[1], ''
    largest = max(float(np.abs(episode).max()) for episode in values(sample, part))
    if part.kind in ('rotation', 'joint'):
        if largest > 2.5 * math.pi:
            return 'deg', 'degrees by their size'
        return 'rad', ''
    if part.kind == 'position':
        if is_named(part.path, 'world') or not 0.99 <= largest <= 1.01:
            return ('m', '') if largest < 5 else ('mm', 'millimetres by their size')
        return '1', 'it reaches just 1: perhaps scaled, and then not metres'
    return '1', ''


def range_of(numbers: np.ndarray, symmetric: bool) -> tuple[float, float]:
    """The range of the bins: all values, unless the largest is far beyond the 1st and 99th percentile.

    Args:
        numbers: float [N].
        symmetric: about zero, so that zero is the centre of a bin and comes back exactly.

    Returns:
        Rounded outwards to two digits; (0, 0) where the dimension never moves.
    """
    q01, q99 = np.quantile(numbers, [0.01, 0.99])
    if symmetric:
        largest, usual = float(np.abs(numbers).max()), float(max(abs(q01), abs(q99)))
        reach = largest if largest <= _WIDER * usual or usual < MINIMUM_RANGE / 2 else usual
        reach = _rounded_up(reach)
        return -reach, reach
    low, high = float(numbers.min()), float(numbers.max())
    if high - low > _WIDER * (q99 - q01) > 0:
        low, high = float(q01), float(q99)
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-6)) - 1)
    return round(math.floor(low / step) * step, 9), round(math.ceil(high / step) * step, 9)


def _rounded_up(x: float) -> float:
    """To two digits; float32's errors are no reason to go up."""
    if x <= 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(x)) - 1)
    return round(math.ceil(x / step * (1 - 1e-6)) * step, 12)


def _candidates(sample: Sample) -> list[str]:
    """Numbers whose path says action, of the group that most likely is the one that is meant."""
    paths = [
        path
        for path in sample.numbers
        if path.startswith('steps/')
        and path.removeprefix('steps/') not in _RLDS
        and sample.size(path) <= _LONGEST
        and len(sample.schema[path].shape) < 2
    ]
    actions = [path for path in paths if is_named(path, 'action')]
    if not actions:
        near = ', '.join(f'{card_path(path)} [{sample.size(path)}]' for path in paths)
        raise DataSetError(
            'no feature is called action; '
            + (f'those with few numbers are {near}; name them: --action=PATH,PATH' if near else '')
            + ('' if near else f'there are {", ".join(sample.schema)}')
        )
    groups: dict[str, list[str]] = {}
    for path in actions:
        groups.setdefault(path.split('/')[1], []).append(path)
    order = ('action', 'actions', *(name for name in groups if name != 'observation'), *groups)
    first = next(name for name in order if name in groups)
    return groups[first] + [path for name in groups if name != first for path in groups[name]]


def _chosen(paths: Sequence[str]) -> list[str]:
    """Of an action's features those that together move the arm and its gripper."""
    group = paths[0].split('/')[1]
    inside = [path for path in paths if path.split('/')[1] == group]
    if len(inside) == 1:
        return inside
    kinds: dict[str, list[str]] = {}
    for path in inside:
        kinds.setdefault(_kind(path), []).append(path)
    # 'other' are whole vectors, of which one is the action. The base of a robot that drives is left out.
    for needed in (('position', 'rotation', 'gripper'), ('other',), ('joint', 'gripper')):
        if needed[0] in kinds:
            return [max(kinds[kind], key=_preference) for kind in needed if kind in kinds]
    return [path for path in inside if _kind(path) not in ('base', 'terminate')] or inside


def _kind(path: str) -> str:
    name = path.rpartition('/')[2]
    if is_named(name, *_TERMINATE):
        return 'terminate'
    if re.fullmatch(r'(actions?_)?hand', name):  # but 'hand_position' is the arm's
        return 'gripper'
    return next((kind for kind, words in _KINDS.items() if is_named(name, *words)), 'other')


def _preference(path: str) -> int:
    """Changes before positions, and those in the world's frame before the gripper's."""
    name = path.rpartition('/')[2]
    return 2 * is_named(name, 'rel', 'delta') + is_named(name, 'world') - is_named(name, *_ABSOLUTE)


def _split(sample: Sample, path: str, has_gripper: bool) -> list[Dimension]:
    """The kinds of a feature's numbers, by its name, its length and its last number."""
    size, kind = sample.size(path), _kind(path)
    if names := sample.names.get(path, ()):
        return [
            Dimension(path, entry, _kind_of_number(name), _short(name))
            for entry, name in enumerate(names)
            if not is_named(name, *_TERMINATE)
        ]
    if kind in ('gripper', 'rotation', 'joint'):
        return [Dimension(path, entry, kind) for entry in range(size)]
    last = [episode.reshape(len(episode), -1)[:, -1] for episode in sample.numbers[path]]
    is_last_gripper = not has_gripper and size > 2 and guessed_gripper.looks_like_one(last)
    body = size - is_last_gripper
    kinds = {2: ['position'] * 2, 3: ['position'] * 3, 6: ['position'] * 3 + ['rotation'] * 3}
    if kind == 'position' and body == 7:
        kinds[7] = ['position'] * 3 + ['rotation'] * 4  # a quaternion
    elif is_last_gripper and body == 7:
        kinds[7] = ['joint'] * 7
    split = kinds.get(body, ['other'] * body) + ['gripper'] * is_last_gripper
    return [Dimension(path, entry, kind) for entry, kind in enumerate(split)]


def _kind_of_number(name: str) -> str:
    """The kind of a number by its own name."""
    if is_named(name, *_KINDS['gripper']) or _short(name) == 'hand':
        return 'gripper'
    bare = re.sub(r'^(delta|target|d)_?(?=[a-z])', '', _short(name).lower())
    for kind, axes in _AXES.items():
        if bare in axes or bare.rpartition('_')[2] in axes:
            return kind
    return 'joint' if is_named(name, *_JOINTS) else 'other'


def _short(name: str) -> str:
    """A number's name in the card: 'shoulder_pan.pos' is shoulder_pan."""
    return re.sub(r'\W', '_', re.sub(r'\.(pos|vel)$', '', name)).strip('_')


def called(sample: Sample, part: Dimension) -> str:
    """What the set calls a number: its own name, or its feature's."""
    names = sample.names.get(part.path, ())
    return names[part.entry] if names else part.path.rpartition('/')[2]


def _motion(sample: Sample, parts: Sequence[Dimension]) -> tuple[str, str, str]:
    """'delta' or 'absolute' by the names, else by the numbers; why, and what to check."""
    moving = [part for part in parts if part.kind != 'gripper'] or list(parts)
    for motion, words in (('delta', _DELTA), ('absolute', _ABSOLUTE)):
        if named := [part for part in moving if is_named(part.path.rpartition('/')[2], *words)]:
            return motion, f'{motion} by the name {card_path(named[0].path)!r}', ''
    names = [name for part in moving if (name := called(sample, part)) != part.path]
    if deltas := [
        name for name in names if re.match(r'd[_]?(x|y|z|rx|ry|rz|roll|pitch|yaw)$', name)
    ]:
        return 'delta', f'delta by the name {deltas[0]!r} of a number', ''
    if distance := _near_state(sample, moving):
        return 'absolute', f'absolute: {distance}', 'that they are positions'
    far, slow = [], []
    for part in moving:
        episodes = values(sample, part)
        numbers = np.concatenate(episodes)
        if not (spread := float(numbers.std())):
            continue
        far.append(abs(float(numbers.mean())) / spread)
        steps = np.concatenate([np.diff(episode) for episode in episodes])
        slow.append(float(steps.std()) / spread if len(steps) else math.inf)
    is_absolute = bool(far) and max(far) > _FAR and float(np.median(slow)) < _SLOW
    motion = 'absolute' if is_absolute else 'delta'
    distance = f'{max(far):.2g}' if far else '0'
    why = f'{motion}: the means lie up to {distance} standard deviations from 0'
    return motion, why, f'that they are {"changes" if motion == "delta" else "positions"}'


def _near_state(sample: Sample, parts: Sequence[Dimension]) -> str:
    """Says of which state the numbers are the next values, as those of positions are; '' if of none."""
    for path in sample.numbers:
        if not path.startswith('steps/') or not is_named(path, *guessed_features.STATE):
            continue
        alike = [x for x in parts if x.path != path and sample.size(x.path) == sample.size(path)]
        if len(alike) < 2:
            continue
        actions = np.stack([joined(sample, x) for x in alike], axis=1)
        states = [joined(sample, dataclasses.replace(x, path=path)) for x in alike]
        if (share := robot_state.distance(actions, np.stack(states, axis=1))) < robot_state.NEAR:
            return f'as {card_path(path)}, {share:.2g} standard deviations away in the median'
    return ''


def _check_finite(sample: Sample, parts: Sequence[Dimension]) -> None:
    largest = float(np.finfo(np.float32).max)
    for part in parts:
        for number, episode in enumerate(values(sample, part)):
            bad = np.flatnonzero(~(np.abs(episode) <= largest))  # NaN is not below either
            if len(bad):
                raise DataSetError(
                    f'{card_path(part.path)}[{part.entry}] is {episode[bad[0]]:g} in step {bad[0]} of '
                    f'the sampled episode {number}; actions must be finite float32 numbers. Correct the '
                    'data, or leave the feature out: --action=PATH,PATH'
                )


def _with_names(parts: Sequence[Dimension], motion: str) -> list[Dimension]:
    """Names as the cards have them: dx dy dz drx dry drz gripper for an arm that is moved by changes."""
    counts: dict[str, int] = {}
    totals = {kind: sum(part.kind == kind for part in parts) for kind in _NAMES}
    widths = collections.Counter(part.path for part in parts)
    named = []
    for part in parts:
        number = counts[part.kind] = counts.get(part.kind, 0) + 1
        axes = _NAMES.get(part.kind, ())
        if part.name and part.kind != 'gripper':
            name = part.name
        elif part.kind == 'other' and widths[part.path] == 1:
            name = re.sub(r'\W', '_', part.path.rpartition('/')[2])
        elif axes and totals[part.kind] <= len(axes):
            name = ('d' if motion == 'delta' else '') + axes[number - 1]
        elif part.kind == 'gripper':
            name = 'gripper' if number == 1 else f'gripper{number}'
        else:
            name = {'rotation': 'r', 'position': 'p', 'joint': 'j'}.get(part.kind, 'a') + str(
                number
            )
        named.append(dataclasses.replace(part, name=name))
    return named


def describe_range(numbers: np.ndarray, low: float, high: float, name: str, unit: str) -> Guess:
    """The guess about a dimension's range."""
    q01, q99 = np.quantile(numbers, [0.01, 0.99])
    beyond = float(((numbers < low - 1e-6) | (numbers > high + 1e-6)).mean())
    largest = float(numbers[np.abs(numbers).argmax()])
    value = f'{low:g} to {high:g}{"" if unit == "1" else f" {unit}"}'
    why = f'98 % in {q01:.3g} to {q99:.3g}, farthest {largest:.3g}'
    check = f'{percent(beyond)} of the values lie beyond, and are clipped' if beyond else ''
    if np.ptp(numbers) == 0:
        still = 'it never moves here: the range is as wide as that of its neighbours'
        check = '; '.join(filter(None, (still, check)))
    return Guess(f'range of {name}', value, why, check)
