"""Thinning, ticks and paths of the charts, against what they must keep."""

import re

import numpy as np
import pytest

from fkd.viewing import curves
from fkd.viewing.curves import Curve, draw_chart, thin, ticks


def points_of(path) -> np.ndarray:
    return np.array([list(map(float, pair)) for pair in re.findall(r"([\d.]+),([\d.]+)", path.d)])


def test_thinning_keeps_the_ends_and_every_peak():
    values = np.random.default_rng(0).normal(size=20_000)
    values[7_777], values[12_345] = 50.0, -60.0
    points = np.stack([np.arange(20_000), values], axis=1)
    thinned = thin(points, 400)
    assert len(thinned) <= 400
    assert (thinned[0] == points[0]).all()
    assert (thinned[-1] == points[-1]).all()
    assert {50.0, -60.0} <= set(thinned[:, 1])
    assert (np.diff(thinned[:, 0]) > 0).all()
    assert thin(points[:400], 400) is not None
    assert len(thin(points[:400], 400)) == 400


@pytest.mark.parametrize("low", [0.0, -3.0, 12.34, 1e-7, 1e6])
@pytest.mark.parametrize("length", [1e-6, 0.02, 1.0, 7.7, 300.0, 1e7])
def test_ticks_are_few_round_and_inside(low, length):
    found = ticks(low, low + length, 6)
    values = [value for value, _ in found]
    assert 1 <= len(values) <= 7
    assert all(low - 1e-6 * length <= value <= low + length * (1 + 1e-6) for value in values)
    steps = np.diff(values)
    if len(steps):
        assert np.allclose(steps, steps[0])
        assert f"{steps[0]:.0e}"[0] in "125"


def test_tick_labels_are_precise_enough_to_differ():
    for low, high in ((0, 8), (0.0, 0.05), (99.5, 99.9), (0, 2e-9), (0, 3e7)):
        labels = [label for _, label in ticks(low, high, 6)]
        assert len(set(labels)) == len(labels)


def test_higher_values_lie_higher_and_all_lie_inside():
    chart = draw_chart("loss", "epochs", [Curve("a", 0, [(1, 5.0), (2, 3.0), (3, 4.0)])])
    (path,) = chart.paths
    x, y = points_of(path).T
    assert (np.diff(x) > 0).all()
    assert y[0] < y[2] < y[1]
    assert x.min() >= curves.LEFT
    assert x.max() <= curves.WIDTH - curves.RIGHT
    assert y.min() >= curves.TOP
    assert y.max() <= curves.HEIGHT - curves.BOTTOM
    assert len(path.marks) == 3  # few points are marked
    assert "a 4" in chart.description
    assert chart.notes == []


def test_a_spike_does_not_flatten_the_curve():
    values = [5.0 - 0.03 * i for i in range(100)]
    values[50] = 1e6
    chart = draw_chart("loss", "epochs", [Curve("a", 0, list(enumerate(values)))])
    y = points_of(chart.paths[0])[:, 1]
    assert y.max() - y[0] > 0.2 * curves.HEIGHT
    assert y.min() >= curves.TOP
    assert "the highest value is 1e+06" in chart.notes[0]


@pytest.mark.parametrize("points", [[(1, 2.0)], [(0, 0.0)], [(1, 3.0), (2, 3.0)], [(5, -1.0)]])
def test_flat_and_single_points_are_drawn(points):
    chart = draw_chart("loss", "epochs", [Curve("a", 0, points)])
    assert len(points_of(chart.paths[0])) == len(points)
    assert chart.x_ticks
    assert chart.y_ticks


def test_thousands_of_lines_are_thinned_with_a_note():
    many = [(i / 100, 3.0 + (i % 7)) for i in range(5_000)]
    chart = draw_chart("loss", "epochs", [Curve("a", 0, many)])
    assert len(points_of(chart.paths[0])) <= curves.MOST_POINTS
    assert "thinned" in chart.notes[-1]
