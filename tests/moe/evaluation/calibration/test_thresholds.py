"""Claims about risk–coverage curves: rows are counted as brute force does, and lower bounds are exact."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from moe.evaluation.calibration.thresholds import POINTS, lower_bound, risk_coverage_curve

rows = st.lists(st.tuples(st.sampled_from([0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]), st.booleans()), max_size=80)


@given(rows)
@settings(max_examples=100, deadline=None)
def test_points_count_the_rows_at_least_as_confident(drawn: list[tuple[float, bool]]) -> None:
    confidence, correct = (np.array([row[i] for row in drawn], dtype=float) for i in (0, 1))
    curve = risk_coverage_curve(confidence, correct)
    assert bool(curve) == (len(drawn) >= 30)
    for point in curve:
        retained = confidence >= point.threshold
        assert (point.rows, point.right) == (retained.sum(), correct[retained].sum())
    assert all(a.rows > b.rows and a.threshold < b.threshold for a, b in pairwise(curve))
    assert not curve or (curve[0].threshold, curve[0].rows) == (0.0, len(drawn))


def test_thresholds_do_not_depend_on_the_labels() -> None:
    random = np.random.default_rng(0)
    confidence = random.random(500)
    first, second = (risk_coverage_curve(confidence, random.random(500) < share) for share in (0.2, 0.9))
    assert len(first) == POINTS
    assert [point.threshold for point in first] == [point.threshold for point in second]


@pytest.mark.parametrize(("right", "total"), [(0, 30), (1, 30), (25, 30), (30, 30), (900, 1000)])
def test_lower_bound_is_that_of_clopper_and_pearson(right: int, total: int) -> None:
    expected = binomtest(right, total, alternative="greater").proportion_ci(0.9, method="exact").low
    assert lower_bound(right, total, 0.9) == pytest.approx(expected)
    (point,) = (point for point in risk_coverage_curve(np.ones(total), np.arange(total) < right, 0.9))
    assert point.lower == pytest.approx(expected)
    assert point.lower_half == pytest.approx(lower_bound(right, total, 0.95))
