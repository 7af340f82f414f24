"""The agreement benchmark: what it counts, and that a policy says something for every frame."""

import numpy as np
import pytest

from rt2_jax.benchmarks import agreement


def test_bins_apart_are_counted_by_integer_by_action_and_by_place():
    a = np.array([[1, 10, 20], [1, 30, 40]])
    found = agreement.compared(a, a + [[0, 1, 0], [0, -2, 0]])
    assert found == {
        'same': round(4 / 6, 4),
        'within_one': round(5 / 6, 4),
        'actions_within_one': 0.5,
        'by_place': [1.0, 0.5, 1.0],
    }


@pytest.mark.slow
def test_each_frame_of_the_expert_gets_eight_integers():
    steps = agreement.expert_frames('seen', 2)
    found = agreement.integers('package:tabletop_pretrained', 'int8', steps)
    assert found.shape == (2, 8) and (found >= 0).all() and (found < 256).all()
