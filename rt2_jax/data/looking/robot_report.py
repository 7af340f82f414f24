"""What an indexed robot data set holds: counts, lengths, actions by bin, and what looks wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rt2_jax.data.data_errors import CorruptRecord
from rt2_jax.data.index.episode_index import EpisodeIndex
from rt2_jax.data.looking import replay
from rt2_jax.data.robot import action_statistics, robot_state
from rt2_jax.data.robot_card import Gripper
from rt2_jax.text.actions import MINIMUM_RANGE, ActionSpace

# From here on a warning is due.
FEW_BINS = 0.25  # share of the bins in which 98 % of a dimension's values lie
CLIPPED = 0.01  # share of a dimension's values outside its range
STILL = 0.2  # share of steps that move nothing
ZEROED = 0.01  # share of steps that move something whose tokens move nothing
_ROWS = 1 << 18
_BOUNDS = ('card', 'q01-q99')


def report_of(index: EpisodeIndex) -> dict[str, Any]:
    """A JSON-serialisable report, from the index alone."""
    card, about = index.card, index.about
    space = card.action_space
    first, actions = index.arrays['episode_first'], index.arrays['action']
    lengths = np.diff(first)
    filled = lengths[lengths > 0]
    ends = actions[:, 0] > 0.5 if space.terminate else np.zeros([0], bool)
    last = first[1:][lengths > 0] - 1
    success = index.arrays['episode_success']
    starts = first[:-1][lengths > 0]
    texts, episodes = np.unique(index.arrays['instruction'][starts], return_counts=True)
    commonest = np.argsort(-episodes, kind='stable')[:10]
    spaces = {
        bounds: action_statistics.action_space(space, bounds, index.statistics)
        for bounds in _BOUNDS
    }
    replayed, bins = {}, {}
    for bounds, ranges in spaces.items():
        replayed[bounds], inside = replay.replay(actions, np.asarray(first), card, ranges)
        bins[bounds] = _bins(replayed[bounds], inside, ranges)
    report = {
        'card': card.name,
        'card_says': {
            'frame': card.frame,
            'motion': card.motion,
            'frequency_hz': card.frequency,
            'gripper': _gripper_words(card.gripper),
            'terminate': card.terminate_rule,
            'cameras': list(card.images),
            'state': list(card.state_names),
        },
        'counts': {
            'episodes': index.episodes,
            'steps': index.steps,
            'hours': index.steps / card.frequency / 3600,
            'empty_episodes': about['empty_episodes'],
            'unreadable_records': index.skipped_count,
            'null_first_steps_dropped': about['dropped_first'],
            'last_steps_dropped': about['dropped_last'],
            'steps_without_instruction': about['unlabelled_steps'],
            'episodes_without_instruction': int((index.arrays['episode_unlabelled'] > 0).sum()),
            'successful': int((success == 1).sum()),
            'failed': int((success == 0).sum()),
            'success_unknown': int((success == -1).sum()),
        },
        'lengths': {
            'min': int(filled.min()),
            'median': float(np.median(filled)),
            'mean': float(filled.mean()),
            'max': int(filled.max()),
        },
        'instructions': {
            'distinct': len(texts),
            'commonest': {index.texts[int(texts[i])]: int(episodes[i]) for i in commonest},
        },
        'terminate': {
            'steps': int(ends.sum()),
            'episodes_ending_without': int((~ends[last]).sum()) if ends.size else 0,
            'still': _still_steps(actions[ends], space) if ends.size else 0,
        },
        'still_steps': _still_steps(actions, space),
        'statistics': index.statistics,
        'degenerate': action_statistics.degenerate(index.statistics),
        'bounds': bins,
        'gripper_bins': _gripper_bins(bins['card']['gripper'], card.gripper)
        if card.gripper
        else [],
        'replay': replayed,
        # Older indexes don't hold how the data's own values were used.
        'gripper': action_statistics.gripper_warning(card.gripper, about['gripper'])
        if card.gripper and 'gripper' in about
        else '',
        'state': _state(index),
        'unreadable': [str(CorruptRecord.from_json(kept)) for kept in about['skipped'][:3]],
        'without_picture': {
            path: index.without_picture(camera) for camera, path in enumerate(card.images)
        },
    }
    warnings = [*_warnings(report), *_range_warnings(report), *_state_warnings(report)]
    warnings += _motion_warnings(index)
    return report | {'warnings': warnings}


def _state(index: EpisodeIndex) -> dict[str, dict[str, Any]]:
    """Of each number of the card's state: its statistics, its ranges in prompts, and what they clip."""
    card = index.card
    if not card.state:
        return {}
    states, space = robot_state.values(index), robot_state.space_of(index, 'q01-q99')
    assert space is not None
    spaces = {'q01-q99': space} | ({'card': card.state_space} if card.state_space else {})
    numbers = action_statistics.compute(states, space)
    for bounds, ranges in spaces.items():
        clipped = action_statistics.clipped(states, ranges)
        for name, low, high in zip(ranges.names, ranges.low, ranges.high, strict=True):
            entry: dict[str, Any] = {'low': low, 'high': high, 'clipped': clipped[name]}
            numbers[name] |= {bounds: entry}
    return numbers


def _state_warnings(report: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, values in report['state'].items():
        if values['max'] - values['min'] < MINIMUM_RANGE:
            lines.append(f'{name} of the state hardly varies: in prompts it says nothing')
        if 'card' in values and values['card']['clipped'] > CLIPPED:
            lines.append(
                f"{name} of the state: {values['card']['clipped']:.1%} of the values lie outside the card's "
                f'range {values["card"]["low"]:g}..{values["card"]["high"]:g} and are clipped'
            )
    return lines


def _motion_warnings(index: EpisodeIndex) -> list[str]:
    """Whether actions that the card calls changes lie where the state is."""
    card = index.card
    names = card.action_space.names
    moving = [number for number, name in enumerate(names) if name != 'gripper']
    if card.motion != 'delta' or len(card.state_names) != len(names) or len(moving) < 2:
        return []
    actions = np.asarray(index.arrays['action'][:_ROWS, card.action_space.terminate :])
    states = robot_state.values(index, slice(_ROWS))
    away = robot_state.distance(actions[:, moving], states[:, moving])
    if away >= robot_state.NEAR:
        return []
    return [
        f"by the card the actions are changes ('delta'), but they lie where the state is, {away:.2g} "
        "standard deviations away in the median: if they are positions, motion must be 'absolute'"
    ]


def _gripper_words(gripper: Gripper | None) -> str:
    if gripper is None:
        return 'none'
    kind = 'binary' if gripper.binary else 'continuous'
    return f'{gripper.kind}, {kind}: {gripper.closed:g} closes, {gripper.open:g} opens in the data'


def _still_steps(actions: np.ndarray, space: ActionSpace) -> int:
    moves = [int(space.terminate) + i for i, n in enumerate(space.names) if n != 'gripper']
    starts = range(0, len(actions), _ROWS)
    return sum(int((~actions[i : i + _ROWS, moves].any(axis=1)).sum()) for i in starts)


def _bins(
    replayed: Mapping[str, Any], counts: np.ndarray, space: ActionSpace
) -> dict[str, dict[str, Any]]:
    """How the actions fall into bins, [D, bins], as the tokenizer of actions counts them."""
    dimensions = {}
    for i, name in enumerate(space.names):
        share = counts[i].cumsum() / counts[i].sum()
        inner = np.searchsorted(share, 0.99) - np.searchsorted(share, 0.01, 'right') + 1
        dimensions[name] = {
            'low': space.low[i],
            'high': space.high[i],
            'unit': space.units[i],
            'bins': space.bins,
            'bins_used': int((counts[i] > 0).sum()),
            'bins_of_98_percent': int(inner),
            'clipped': replayed['dimensions'][name]['clipped'],
            'counts': counts[i].tolist(),
        }
    return dimensions


def _gripper_bins(bins: Mapping[str, Any], gripper: Gripper) -> list[dict[str, float]]:
    """The bins of the gripper that are in use, the commonest first, and what each sends the robot."""
    counts = np.array(bins['counts'])
    space = ActionSpace((bins['low'],), (bins['high'],), ('gripper',), ('1',), bins['bins'])
    commands = gripper.to_command(space.centres[0])
    order = np.argsort(-counts, kind='stable')[: int((counts > 0).sum())]
    return [
        {
            'bin': int(i),
            'command': round(float(commands[i]), 4),
            'share': float(counts[i] / counts.sum()),
        }
        for i in order
    ]


def _warnings(report: Mapping[str, Any]) -> list[str]:
    """What would spoil a training run."""
    counts, lines = report['counts'], []
    steps, episodes = counts['steps'], counts['episodes']
    if counts['unreadable_records']:
        lines.append(
            f'{counts["unreadable_records"]} records are unreadable and left out, the first: '
            f'{report["unreadable"][0]}'
        )
    for path, missing in report['without_picture'].items():
        if missing:
            lines.append(f'{path} has no picture in {missing} of {steps} steps')
    if counts['empty_episodes']:
        lines.append(f'{counts["empty_episodes"]} episodes have no steps')
    if missing := counts['episodes_without_instruction']:
        lines.append(
            f'{missing} of {episodes} episodes have steps without an instruction; '
            "training leaves them out (missing_instructions='drop')"
        )
    if report['instructions']['distinct'] == 1 and episodes > 1:
        lines.append('all episodes have the same instruction: language means nothing here')
    if counts['failed']:
        lines.append(
            f'{counts["failed"]} of {episodes} episodes failed; success_only=True leaves them out'
        )
    if report['lengths']['min'] < 3:
        lines.append(f'the shortest episode has {report["lengths"]["min"]} steps')
    if report['still_steps'] > STILL * steps:
        lines.append(f'{report["still_steps"] / steps:.0%} of the steps move nothing')
    if endless := report['terminate']['episodes_ending_without']:
        lines.append(f'{endless} episodes end without the terminate flag')
    if still := report['terminate']['still']:
        ends = report['terminate']['steps']
        lines.append(
            f'{still} of {ends} steps that terminate ({still / ends:.0%}) move nothing: beside a '
            'terminate flag a policy will say so, too'
        )
    if report['gripper']:
        lines.append(report['gripper'])
    for name in report['degenerate']:
        values, ranges = report['statistics'][name], report['bounds']['q01-q99'][name]
        low, high = ranges['low'], ranges['high']
        if values['max'] - values['min'] < MINIMUM_RANGE:
            line = f'{name} hardly varies; with q01-q99 its range is widened to {high - low:g}'
        else:
            line = (
                f'{name} rarely moves: q01 and q99 are both near {values["q01"]:.4g}, but its values '
                f'reach {values["min"]:.4g} and {values["max"]:.4g}; with q01-q99 its range is '
                f'{low:.4g}..{high:.4g}'
            )
        lines.append(line)
    return lines


def _range_warnings(report: Mapping[str, Any]) -> list[str]:
    lines = []
    zeroed, data_zeroed = (report['replay'][bounds]['zeroed'] for bounds in _BOUNDS)
    if zeroed > ZEROED:
        lines.append(
            f'{zeroed:.1%} of the steps that move something move nothing as tokens: the bins of the '
            f"card's range are too wide; with bounds='q01-q99' it would be {data_zeroed:.1%}"
        )
    for name, card in report['bounds']['card'].items():
        data = report['bounds']['q01-q99'][name]
        few, bins = card['bins_of_98_percent'], card['bins']
        if name not in report['degenerate'] and name != 'gripper' and few < FEW_BINS * bins:
            lines.append(
                f"{name}: 98 % of the values fall into {few} of {bins} bins of the card's range; "
                f"bounds='q01-q99' would use {data['bins_of_98_percent']}"
            )
        if card['clipped'] > CLIPPED:
            lines.append(
                f"{name}: {card['clipped']:.1%} of the values lie outside the card's range "
                f'{card["low"]:g}..{card["high"]:g} and are clipped'
            )
    return lines
