"""What recorded actions lose as tokens: the ceiling of any policy that learns from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from rt2_jax.data.robot_card import RobotCard
from rt2_jax.text.actions import ActionSpace, ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer

_ROWS = 1 << 18


def replay(
    actions: np.ndarray, episode_first: np.ndarray, card: RobotCard, space: ActionSpace
) -> tuple[dict[str, Any], np.ndarray]:
    """Sends recorded actions through tokens and back.

    Args:
        actions: float32 [N, L], memory-mapped or not, as the card makes them.
        episode_first: int64 [episodes + 1], the first step of each episode, and N.
        card: whose gripper says in which numbers its errors are: the robot's own.
        space: the bins.

    Returns:
        A report, ready for JSON, and int64 [D, bins], how many actions fall into each bin.
        'moving': steps that move something. 'zeroed': the share of them whose movement,
        that is all dimensions but the gripper, comes back as all zeros. 'dimensions', by name: the
        'unit', 'mean' and 'largest' absolute error in it, the share that is 'clipped', and, where
        actions are changes, 'off_mean' and 'off_largest': how far from the recording an episode
        ends, if the tokens are carried out one by one (absolute errors of the sums).
    """
    codec = ActionTokenizer(space, Tokenizer.load_default())
    count, flags = len(space.names), int(space.terminate)
    moves = [i for i, name in enumerate(space.names) if name != 'gripper']
    counts = np.zeros([count, space.bins], np.int64)
    total, largest = np.zeros(count), np.zeros(count)
    off = np.zeros([len(episode_first) - 1, count])
    moving = zeroed = 0
    for start in range(0, len(actions), _ROWS):
        chunk = actions[start : start + _ROWS]
        integers = codec.to_integers(chunk)
        for row, column in zip(counts, integers[:, flags:].T, strict=True):
            row += np.bincount(column, minlength=space.bins)
        back = codec.from_integers(integers)[:, flags:].astype(np.float64)
        values = np.array(chunk[:, flags:], np.float64)
        was_moving = values[:, moves].any(axis=1)
        moving += int(was_moving.sum())
        zeroed += int((was_moving & ~back[:, moves].any(axis=1)).sum())
        if card.gripper:
            place = space.names.index('gripper')
            for numbers in (values, back):
                numbers[:, place] = card.gripper.to_command(numbers[:, place])
        error = back - values
        total += np.abs(error).sum(axis=0)
        largest = np.maximum(largest, np.abs(error).max(axis=0))
        rows = np.arange(start, start + len(chunk))
        np.add.at(off, np.searchsorted(episode_first, rows, side='right') - 1, error)
    dimensions: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(space.names):
        dimensions[name] = {
            'unit': space.units[i],
            'mean': float(total[i] / len(actions)),
            'largest': float(largest[i]),
            'clipped': float(codec.clipped[i] / len(actions)),
        }
        if card.motion == 'delta' and i in moves:
            ends = np.abs(off[np.diff(episode_first) > 0, i])
            dimensions[name] |= {'off_mean': float(ends.mean()), 'off_largest': float(ends.max())}
    zeroed_share = zeroed / max(moving, 1)
    return {'moving': moving, 'zeroed': zeroed_share, 'dimensions': dimensions}, counts


def as_lines(report: dict[str, Any]) -> list[str]:
    """A table of what `replay` gives, to print."""
    lines = [
        '  replayed through tokens   mean error    largest   clipped   off at the end: mean, largest'
    ]
    for name, values in report['dimensions'].items():
        label = name if values['unit'] == '1' else f'{name} [{values["unit"]}]'
        line = (
            f'  {label:24}{values["mean"]:12.3g}{values["largest"]:11.3g}{values["clipped"]:10.2%}'
        )
        if 'off_mean' in values:
            line += f'{values["off_mean"]:24.3g}{values["off_largest"]:9.3g}'
        lines.append(line)
    return [
        *lines,
        f'  {report["zeroed"]:.2%} of {report["moving"]:,} steps that move something come back as zeros; '
        'no policy on these bins does better than this',
    ]
