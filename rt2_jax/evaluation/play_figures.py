"""Figures of a suite that was played: success, recognition, execution, pace."""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any

import numpy as np

from rt2_jax.evaluation import report
from rt2_jax.evaluation.closed_loop import Rollout, Run


def summary(run: Run) -> dict[str, Any]:
    """The figures of a run, ready for JSON: overall, by task, and by group where there are several.

    Where the world knows its objects' places, `recognition` is the share of episodes that went to X first,
    with the share that going to any object would have (`by_chance`); `execution` is the share of successes
    among these. `recovered` counts successes after going elsewhere first. Where X was pushed, `goal` is the
    share that ended nearest to Y. `decision_ms` is missing where all episodes were kept from before.
    """
    rollouts = run.rollouts
    result = _figures(rollouts)
    result['tasks'] = _by(rollouts, 'task')
    if len({rollout.group for rollout in rollouts}) > 1:
        result['groups'] = _by(rollouts, 'group')
    result['clipped'] = sum(rollout.clipped for rollout in rollouts)
    result['out_of_reach'] = sum(rollout.out_of_reach for rollout in rollouts)
    if run.decision_seconds:
        # Every robot of a call waits for the whole call.
        waits = np.repeat(run.decision_seconds, run.decisions_a_call) * 1000
        result['decision_ms'] = report.percentiles(waits.tolist()) | {
            'robots_a_call': max(run.decisions_a_call),
            'decisions': len(waits),
            'actions_per_second': len(waits) / sum(run.decision_seconds),
        }
    result['seconds'] = round(run.seconds, 1)
    result['rollouts'] = [rollout.to_json() for rollout in rollouts]
    return result


def _figures(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    number = len(rollouts)
    successes = sum(r.success for r in rollouts)
    figures = report.proportion(successes, number) | {
        'mean_steps': round(math.fsum(r.steps for r in rollouts) / number, 2),
        'terminated_by_policy': round(sum(r.terminated for r in rollouts) / number, 4),
    }
    if any(r.tiles for r in rollouts):
        recognised = [r.success for r in rollouts if r.recognised]
        by_chance = math.fsum(1 / r.tiles for r in rollouts if r.tiles) / number
        figures |= {
            'recognition': report.share(len(recognised), number)
            | {'by_chance': round(by_chance, 4)},
            'execution': report.share(sum(recognised), len(recognised)),
            'recovered': successes - sum(recognised),
        }
    if pushed := [r for r in rollouts if r.brought_to]:
        by_chance = math.fsum(1 / (r.tiles - 1) for r in pushed) / len(pushed)
        figures['goal'] = report.share(sum(r.brought_to_y for r in pushed), len(pushed))
        figures['goal']['by_chance'] = round(by_chance, 4)
    return figures


def _by(rollouts: Sequence[Rollout], field: str) -> dict[str, dict[str, Any]]:
    names = sorted({getattr(rollout, field) for rollout in rollouts})
    return {name: _figures([r for r in rollouts if getattr(r, field) == name]) for name in names}
