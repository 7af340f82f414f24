"""How many of an expert's frames get the same action from compact weights.

    python -m rt2_jax.benchmarks.agreement --checkpoint=DIR --output=FILE.json [--frames=1000] [--suite=seen]

Decodes each frame of the tabletop's scripted expert with the weights as stored, in bfloat16 and in int8.
For each two: `within_one` is the share of an action's integers that are at most one bin apart, `same` the
share that is equal; `by_place` has `within_one` for each of the eight.
"""

from __future__ import annotations

from collections.abc import Sequence
import itertools
from typing import Any

from absl import flags
import numpy as np

from rt2_jax import command
from rt2_jax.benchmarks import harness
from rt2_jax.data.example import Example
from rt2_jax.decoding import compact
from rt2_jax.evaluation import offline
from rt2_jax.policy import Policy

FLAGS = flags.FLAGS
_SEED = 1_000  # of the first scene; evaluation's begin at 0
_MAX_STEPS = 128


def expert_frames(suite: str, count: int) -> list[Example]:
    """The first `count` steps of as many episodes as they take."""
    steps: list[Example] = []
    for first in itertools.count(_SEED, 50):
        steps += offline.expert_steps(suite, range(first, first + 50), _MAX_STEPS)
        if len(steps) >= count:
            break
    return steps[:count]


def integers(checkpoint: str, kind: str, steps: Sequence[Example]) -> np.ndarray:
    """The action of each step in bins, int32 [N, 8], with weights of a kind."""
    policy = Policy.from_checkpoint(checkpoint, weights=kind, batch_sizes=(50,))
    frames, prompts = [step.frames for step in steps], [step.prompt for step in steps]
    decisions = policy.act_batch(frames, prompts, plan=False, raw=True)
    number = {int(token): i for i, token in enumerate(policy.action_tokenizer.integer_ids)}
    return np.array([[number[int(token)] for token in decision.tokens] for decision in decisions])


def compared(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    """How near two policies' integers [N, 8] are."""
    apart = np.abs(a - b)
    return {
        'same': round(float((apart == 0).mean()), 4),
        'within_one': round(float((apart <= 1).mean()), 4),
        'actions_within_one': round(float((apart <= 1).all(axis=1).mean()), 4),
        'by_place': [round(float(share), 4) for share in (apart <= 1).mean(axis=0)],
    }


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('checkpoint', None, 'Of a policy that has learnt the tabletop.')
    flags.DEFINE_string('output', None, 'JSON file to write.')
    flags.DEFINE_integer('frames', 1_000, 'How many.', lower_bound=1)
    flags.DEFINE_string('suite', 'seen', 'Of scenes.')
    flags.mark_flags_as_required(['checkpoint', 'output'])


def main(_: list[str]) -> None:
    """Compares the actions of every two kinds of weights."""
    steps = expert_frames(FLAGS.suite, FLAGS.frames)
    bins = {kind: integers(FLAGS.checkpoint, kind, steps) for kind in compact.WEIGHTS}
    result: dict[str, Any] = {'frames': len(steps), 'suite': FLAGS.suite}
    for a, b in itertools.combinations(compact.WEIGHTS, 2):
        result[f'{b}_and_{a}'] = compared(bins[a], bins[b])
    harness.publish(result, FLAGS.output, checkpoint=FLAGS.checkpoint)


if __name__ == '__main__':
    define_flags()
    command.run('agreement', main)
