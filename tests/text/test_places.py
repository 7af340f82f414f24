"""Points and boxes as text and back."""

import numpy as np
import pytest

from rt2_jax.text import places


@pytest.mark.parametrize('point', [(0.0, 1.0), (0.4321, 0.5678), (-0.2, 1.3)])
def test_a_point_comes_back_within_half_a_cell(point):
    text = places.write_point(point)
    error = places.read_point(text) - np.clip(point, 0, 1) * places.SIDE
    assert np.abs(error).max() <= places.GRID / 2


def test_an_offset_is_written_about_500():
    assert places.write_offset((0.3, 0.3), (0.3, 0.3)) == '510 510'
    assert places.write_offset((0.0, 1.0), (1.0, 0.0)) == '990 10'


@pytest.mark.parametrize('text', ['', '510', '510 510 510', 'bell 510 510', '-510 510'])
def test_another_text_is_no_point(text):
    assert places.read_point(text) is None


def test_boxes_come_back_and_other_parts_are_left_out():
    text = places.SEPARATOR.join(
        [places.write_box((0.1, 0.0, 0.9, 1.0), 'a cat'), '1 2 3 cat', '1 2 3 1001 cat']
    )
    ((box, name),) = places.read_boxes(text)
    np.testing.assert_allclose(box, (0.1, 0.0, 0.9, 1.0), atol=0.5 / places.SIDE)
    assert name == 'a cat' and box.dtype == np.float32
