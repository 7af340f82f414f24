"""What an indexed robot data set holds: counts, lengths, actions and bins, and what looks wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rt2_jax.data.index.episode_index import Index
from rt2_jax.data.robot import action_statistics
from rt2_jax.text.actions import MINIMUM_RANGE, ActionSpace, ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer

# What is worth a warning.
FEW_BINS = 0.25  # share of the bins in which 98 % of a dimension's values lie
CLIPPED = 0.01  # share of a dimension's values outside its range
STILL = 0.2  # share of steps that move nothing
_ROWS = 1 << 18


def survey(index: Index) -> dict[str, Any]:
    """A report of plain numbers, texts, lists and dicts, from the index alone."""
    card, arrays = index.card, index.arrays
    lengths = np.diff(arrays['episode_first'])
    filled = lengths[lengths > 0]
    flags = arrays['action'][:, 0] if card.action_space.terminate else np.zeros([0], np.float32)
    last = arrays['episode_first'][1:][lengths > 0] - 1
    report = {
        'card': card.name,
        'card_says': {
            'frame': card.frame,
            'motion': card.motion,
            'frequency_hz': card.frequency,
            'gripper': _gripper_words(card.gripper),
            'terminate': card.terminate_rule,
            'cameras': list(card.images),
        },
        'counts': {
            'episodes': index.episodes,
            'steps': index.steps,
            'hours': index.steps / card.frequency / 3600,
            'empty_episodes': index.about['empty_episodes'],
            'unreadable_records': len(index.about['skipped']),
            'null_first_steps_dropped': index.about['dropped_first'],
            'last_steps_dropped': index.about['dropped_last'],
            'steps_without_instruction': index.about['unlabelled_steps'],
            'episodes_without_instruction': int((arrays['episode_unlabelled'] > 0).sum()),
            **_successes(arrays['episode_success']),
        },
        'lengths': {
            'min': int(filled.min()),
            'median': float(np.median(filled)),
            'mean': float(filled.mean()),
            'max': int(filled.max()),
        },
        'instructions': _instructions(index),
        'terminate': {
            'steps': int((flags > 0.5).sum()),
            'episodes_ending_without': int((flags[last] <= 0.5).sum()) if flags.size else 0,
        },
        'still_steps': _still(arrays['action'], card.action_space),
        'statistics': index.statistics,
        'degenerate': action_statistics.degenerate(index.statistics),
        'bounds': {
            bounds: _bins(
                arrays['action'],
                action_statistics.action_space(card.action_space, bounds, index.statistics),
            )
            for bounds in ('card', 'q01-q99')
        },
        'gripper': _gripper_warning(index),
        'unreadable': [f'{file}, byte {at}: {why}' for file, at, why in index.about['skipped'][:3]],
        'without_picture': {
            path: index.without_picture(camera) for camera, path in enumerate(card.images)
        },
    }
    return report | {'warnings': warnings(report)}


def _gripper_words(gripper) -> str:
    if gripper is None:
        return 'none'
    kind = 'binary' if gripper.binary else 'continuous'
    return f'{gripper.kind}, {kind}: {gripper.closed:g} closes, {gripper.open:g} opens in the data'


def _gripper_warning(index: Index) -> str:
    # Older indexes don't hold how the data's own values were used.
    if 'gripper' not in index.about:
        return ''
    return action_statistics.gripper_warning(index.card.gripper, index.about['gripper'])


def _successes(success: np.ndarray) -> dict[str, int]:
    names = {'successful': 1, 'failed': 0, 'success_unknown': -1}
    return {name: int((success == value).sum()) for name, value in names.items()}


def _instructions(index: Index) -> dict[str, Any]:
    """Distinct instructions, and the commonest with their numbers of episodes."""
    first = index.arrays['episode_first']
    starts = first[:-1][np.diff(first) > 0]
    rows, counts = np.unique(index.arrays['instruction'][starts], return_counts=True)
    order = np.argsort(-counts, kind='stable')[:10]
    common = {index.texts[int(rows[i])]: int(counts[i]) for i in order}
    return {'distinct': len(rows), 'commonest': common}


def _still(actions: np.ndarray, space: ActionSpace) -> int:
    moves = [int(space.terminate) + i for i, n in enumerate(space.names) if n != 'gripper']
    starts = range(0, len(actions), _ROWS)
    return sum(int((~actions[i : i + _ROWS, moves].any(axis=1)).sum()) for i in starts)


def _bins(actions: np.ndarray, space: ActionSpace) -> dict[str, dict[str, Any]]:
    """How the actions fall into bins, by the very code that makes tokens of them."""
    codec = ActionTokenizer(space, Tokenizer.load_default())
    counts = np.zeros([len(space.names), space.bins], np.int64)
    for start in range(0, len(actions), _ROWS):
        integers = codec.to_integers(actions[start : start + _ROWS])[:, int(space.terminate) :]
        for row, column in zip(counts, integers.T, strict=True):
            row += np.bincount(column, minlength=space.bins)
    found = {}
    for place, name in enumerate(space.names):
        share = counts[place].cumsum() / len(actions)
        inner = np.searchsorted(share, 0.99) - np.searchsorted(share, 0.01, 'right') + 1
        found[name] = {
            'low': space.low[place],
            'high': space.high[place],
            'unit': space.units[place],
            'bins': space.bins,
            'bins_used': int((counts[place] > 0).sum()),
            'bins_of_98_percent': int(inner),
            'clipped': float(codec.clipped[place] / len(actions)),
            'counts': counts[place].tolist(),
        }
    return found


def warnings(report: Mapping[str, Any]) -> list[str]:
    """What in a report would spoil a training run."""
    counts, steps = report['counts'], report['counts']['steps']
    found = []
    if counts['unreadable_records']:
        found.append(
            f'{counts["unreadable_records"]} records are unreadable and left out, the first: '
            f'{report["unreadable"][0]}'
        )
    for path, missing in report['without_picture'].items():
        if missing:
            found.append(f'{path} has no picture in {missing} of {steps} steps')
    if counts['empty_episodes']:
        found.append(f'{counts["empty_episodes"]} episodes have no steps')
    if missing := counts['episodes_without_instruction']:
        found.append(
            f'{missing} of {counts["episodes"]} episodes have steps without an instruction; '
            "training leaves them out (missing_instructions='drop')"
        )
    if report['instructions']['distinct'] == 1 and counts['episodes'] > 1:
        found.append('all episodes have the same instruction: language means nothing here')
    if counts['failed']:
        found.append(
            f'{counts["failed"]} of {counts["episodes"]} episodes failed; success_only=True leaves '
            'them out'
        )
    if report['lengths']['min'] < 3:
        found.append(f'the shortest episode has {report["lengths"]["min"]} steps')
    if report['still_steps'] > STILL * steps:
        found.append(f'{report["still_steps"] / steps:.0%} of the steps move nothing')
    if endless := report['terminate']['episodes_ending_without']:
        found.append(f'{endless} episodes end without the terminate flag')
    if report['gripper']:
        found.append(report['gripper'])
    for name in report['degenerate']:
        found.append(_degenerate_warning(name, report))
    return found + _range_warnings(report)


def _degenerate_warning(name: str, report: Mapping[str, Any]) -> str:
    values, ranges = report['statistics'][name], report['bounds']['q01-q99'][name]
    low, high = ranges['low'], ranges['high']
    if values['max'] - values['min'] < MINIMUM_RANGE:
        return f'{name} hardly varies; with q01-q99 its range is widened to {high - low:g}'
    return (
        f'{name} rarely moves: q01 and q99 are both near {values["q01"]:.4g}, but its values reach '
        f'{values["min"]:.4g} and {values["max"]:.4g}; with q01-q99 its range is {low:.4g}..{high:.4g}'
    )


def _range_warnings(report: Mapping[str, Any]) -> list[str]:
    found = []
    for name, card in report['bounds']['card'].items():
        data = report['bounds']['q01-q99'][name]
        few, all_ = card['bins_of_98_percent'], card['bins']
        if name not in report['degenerate'] and name != 'gripper' and few < FEW_BINS * all_:
            found.append(
                f"{name}: 98 % of the values fall into {few} of {all_} bins of the card's range; "
                f"bounds='q01-q99' would use {data['bins_of_98_percent']}"
            )
        if card['clipped'] > CLIPPED:
            found.append(
                f"{name}: {card['clipped']:.1%} of the values lie outside the card's range "
                f'{card["low"]:g}..{card["high"]:g} and are clipped'
            )
    return found
