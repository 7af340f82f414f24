"""A policy that reads something else than the instruction gets it once an episode, all through it."""

import numpy as np

from rt2_jax.evaluation import closed_loop


def test_what_is_read_is_of_the_first_frame():
    asked_of, seen = [], []

    def read(frame, instruction):
        asked_of.append((frame, instruction))
        return f'reading {len(asked_of)}'

    def decide(observations, envs):
        seen.append([(o['instruction'], o['image']) for o in observations])
        return [closed_loop.Move(np.zeros(8, np.float32)) for _ in observations]

    run = closed_loop.run(
        decide, 'seen', [3, 4], parallel=1, image_size=32, max_steps=2, read=read, frames=2
    )
    assert [instruction for _, instruction in asked_of] == [r.instruction for r in run.rollouts]
    instructions = [instruction for call in seen for instruction, _ in call]
    assert instructions == ['reading 1'] * 2 + ['reading 2'] * 2
    np.testing.assert_array_equal(asked_of[0][0], seen[0][0][1][0])
    np.testing.assert_array_equal(asked_of[1][0], seen[2][0][1][0])
