"""Intervals: that they cover what they should, and do not shrink to nothing where little is known."""

import numpy as np

from edgecomp.util import statistics


def test_percentiles_lie_in_their_intervals_and_processes_widen_them():
    generator = np.random.default_rng(0)
    alike = [list(generator.normal(10, 1, 200)) for _ in range(5)]
    apart = [list(generator.normal(10 + shift, 1, 200)) for shift in (-3, -1, 0, 1, 3)]
    for processes in (alike, apart):
        for percent, (value, (low, high)) in statistics.percentiles(processes).items():
            assert low <= value <= high
            assert np.isclose(value, np.percentile(np.concatenate(processes), percent), atol=1e-4)
    widths = [np.subtract(*statistics.percentiles(p)[50][1][::-1]) for p in (alike, apart)]
    assert widths[1] > 5 * widths[0] > 0
    assert statistics.percentiles(alike) == statistics.percentiles(alike)
    assert statistics.percentiles([[1.0]]) == {p: (1.0, (1.0, 1.0)) for p in (50, 90, 99)}


def test_drop_of_paired_answers():
    """Newcombe's example: 36 pairs both right, 12 the first alone, 2 the second alone, none wrong: 0.0569 to 0.3404."""
    before = np.array([1] * 36 + [1] * 12 + [0] * 2, bool)
    after = np.array([1] * 36 + [0] * 12 + [1] * 2, bool)
    assert np.allclose(statistics.drop_of_rights(before, after), (5.69, 34.04), atol=0.01)


def test_drop_where_all_answers_agree():
    few, many = np.ones(32, bool), np.arange(10_000) % 10 > 0
    low, high = statistics.drop_of_rights(few, few)
    assert low < -5 and high > 5  # 32 samples say little, whatever they say
    low, high = statistics.drop_of_rights(many, many)
    assert -0.1 < low < 0 < high < 0.1


def test_drops_are_covered():
    """Nets that are right for 90 and 88 % of samples: 95 % of intervals hold the 2 points."""
    generator, covered = np.random.default_rng(1), 0
    for _ in range(400):
        draw = generator.random(500)
        low, high = statistics.drop_of_rights(draw < 0.9, (draw < 0.87) | (draw > 0.99))
        covered += low <= 2 <= high
    assert 0.92 <= covered / 400 <= 0.99


def test_any_metric_is_resampled_in_pairs():
    values = np.arange(100.0)
    low, high = statistics.drop_of_scores(lambda chosen: values[chosen].mean(), 100)
    assert low < 49.5 < high and 5 < high - low < 20
