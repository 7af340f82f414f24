"""Intervals and percentiles."""

import pytest

from rt2_jax.evaluation import report


def test_wilson_intervals():
    """Against the closed form at z = 1.96: centre (k + z^2/2) / (n + z^2)."""
    share = report.proportion(45, 50)
    assert (share['success'], share['episodes']) == (0.9, 50)
    z = 1.959964
    centre = (45 + z * z / 2) / (50 + z * z)
    half = z / (50 + z * z) * (45 * 5 / 50 + z * z / 4) ** 0.5
    assert share['interval'] == pytest.approx([centre - half, centre + half], abs=1e-4)
    assert report.proportion(0, 10)['interval'][0] == 0
    assert report.proportion(10, 10)['interval'] == pytest.approx([0.7225, 1], abs=1e-4)
    with pytest.raises(ValueError, match='no episodes'):
        report.proportion(0, 0)


def test_paired_difference():
    """Against Agresti and Min's formula, from the four counts with a half added to each."""
    figures = report.paired_difference(2, 12, 100)
    b, c, n = 12.5, 2.5, 102
    difference = (b - c) / n
    half = 1.959964 * (b + c - (b - c) ** 2 / n) ** 0.5 / n
    assert figures['interval'] == pytest.approx([difference - half, difference + half], abs=1e-4)
    assert figures['difference'] == 0.1 and figures['episodes'] == 100
    same = report.paired_difference(0, 0, 50)
    assert same['difference'] == 0 and same['interval'][0] == -same['interval'][1] < 0
    with pytest.raises(ValueError, match='no episodes'):
        report.paired_difference(0, 0, 0)


def test_percentiles():
    assert report.percentiles(range(101)) == {'p50': 50, 'p95': 95}
