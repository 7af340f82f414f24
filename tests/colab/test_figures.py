"""What the notebooks draw with, on what the package alone does not show: runs, changes, clipping."""

import numpy as np
import pytest

from rt2_jax.checkpoints.inspection import opened, survey
from rt2_jax.colab import acting, checkpoint_views as description, robot_data, weights
from rt2_jax.models import embedding
from rt2_jax.parallel import sharding
from rt2_jax.text.actions import ActionSpace


def titles(figure) -> list[str]:
    return [axis.get_title() for axis in figure.axes if axis.get_visible()]


def test_tree_adds_up(tiny_checkpoint):
    checkpoint = opened.open_checkpoint(tiny_checkpoint)
    report = survey.survey(checkpoint)
    rows = description.module_rows(report['parameters'], depth=1)
    place = {name: i for i, name in enumerate(description.PARAMETERS)}
    parts = rows[1:]
    assert rows[0][place['parameters']] == report['total']['parameters']
    assert rows[0][place['parameters']] == sum(row[place['parameters']] for row in parts)
    assert rows[0][place['norm']] == pytest.approx(report['total']['norm'])
    assert [row[0].strip() for row in parts] == list(
        dict.fromkeys(name.partition('/')[0] for name in checkpoint.arrays)
    )
    # As deep as it goes, every parameter has a leaf with its shape.
    leaves = sharding.named_leaves(description.nested(report['parameters']))
    assert list(leaves) == list(checkpoint.arrays)
    for name, text in leaves.items():
        assert str(list(checkpoint.arrays[name].shape)) in text


def test_matrices_are_read_by_layer(tiny_checkpoint):
    arrays = opened.open_checkpoint(tiny_checkpoint).arrays
    found = weights.read(arrays, 'text_encoder/layers/attention/(query|out)')
    # Two layers, 32 wide, two heads of 16: inputs by outputs, whichever of the two has the heads.
    assert {name.split('/')[-2] for name in found} == {'query', 'out'}
    assert all(list(x) == [0, 1] and x[1].shape == (32, 32) for x in found.values())
    values = weights.singular_values(found['text_encoder/layers/attention/out/kernel'][1])
    np.testing.assert_allclose(values[0], np.linalg.norm(
        found['text_encoder/layers/attention/out/kernel'][1], ord=2), rtol=1e-5)  # fmt: skip
    with pytest.raises(ValueError, match='nonsense'):
        weights.read(arrays, 'nonsense')


def test_changes_show_what_moved_most(tiny_checkpoint):
    checkpoint = opened.open_checkpoint(tiny_checkpoint)
    report = survey.survey(checkpoint, opened.open_checkpoint(tiny_checkpoint))
    figure = weights.changes(report['against'], most=5)
    assert len(figure.axes[0].patches) == 5
    assert all(bar.get_width() == 0 for bar in figure.axes[0].patches)


def test_curves_have_a_line_a_source():
    rows = [
        {'step': k, 'source/a/loss': 2 / k, 'source/b/loss': 1 / k, 'lr': 0.1} for k in (1, 2, 3)
    ]
    figure = description.curves(rows)
    assert titles(figure) == ['Loss by source', 'Learning rate']
    assert [line.get_label() for line in figure.axes[0].lines] == ['a', 'b']


def test_number_line_shows_near_integers_alike():
    figure = weights.number_line(embedding.number_line(300, 32), bins=256)
    middle = figure.axes[1].lines[0].get_ydata()
    assert middle[0] == pytest.approx(1) and middle[1] > 0.9 > 0.3 > middle[60]


def test_questions_are_parted_or_made():
    assert acting.questions('what is in the image; where is the fox?', ()) == [
        'what is in the image', 'where is the fox?'
    ]  # fmt: skip
    assert acting.questions('', ('fox', 'bell')) == ['where is the fox', 'where is the bell']


def test_round_trip_is_within_half_a_bin_or_clipped():
    space = ActionSpace.rt1_bounds()
    values = np.random.default_rng(0).uniform(-1.4, 1.4, [500, 8]).astype(np.float32)
    values[:, 0] = 0
    integers, said = robot_data.round_trip(values, space)
    assert integers.shape == said.shape == (500, 7)
    error = np.abs(said - values[:, 1:])
    inside = (values[:, 1:] >= space.low) & (values[:, 1:] <= space.high)
    assert (error <= space.bin_widths / 2 + 1e-6)[inside].all()
    assert (error[~inside] > 0).all()
