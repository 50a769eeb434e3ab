"""Claims about abstention thresholds: the lowest that reaches an accuracy, on enough rows, also by brute force."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.errors import Fault
from moe.inference.abstention import MIN_ROWS, check_target_accuracy, find_point, require_point, risk_coverage_curve

rows = st.lists(st.tuples(st.sampled_from([0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]), st.booleans()), max_size=60)


def largest_coverage(confidence: np.ndarray, correct: np.ndarray, accuracy: float, min_rows: int) -> int | None:
    """Number of rows that the best threshold retains, by trying every one."""
    masks = [confidence >= threshold for threshold in [0.0, *confidence]]
    counts = [int(mask.sum()) for mask in masks if mask.sum() >= min_rows and correct[mask].mean() >= accuracy]
    return max(counts, default=None)


@given(rows, st.sampled_from([0.3, 0.5, 0.75, 0.9, 1.0]))
@settings(max_examples=200, deadline=None)
def test_no_threshold_retains_more_rows_at_the_target_accuracy(
    drawn: list[tuple[float, bool]], accuracy: float
) -> None:
    confidence, correct = (np.array([row[i] for row in drawn], dtype=float) for i in (0, 1))
    point = find_point(risk_coverage_curve(confidence, correct, min_rows=3), accuracy)
    assert (point.rows if point else None) == largest_coverage(confidence, correct, accuracy, 3)
    if point:
        mask = confidence >= point.threshold
        assert (point.rows, point.right) == (mask.sum(), correct[mask].sum())


def test_curve_retains_all_rows_if_all_are_correct() -> None:
    curve = risk_coverage_curve(np.linspace(0.5, 1, 100), np.ones(100, dtype=bool))
    assert [(point.threshold, point.rows) for point in curve] == [(0.0, 100)]


def test_curve_loses_coverage_only_for_accuracy_and_retains_enough_rows() -> None:
    random = np.random.default_rng(1)
    confidence = random.random(400)
    curve = risk_coverage_curve(confidence, random.random(400) < confidence)
    assert len(curve) > 3
    assert all(a.rows > b.rows and a.accuracy < b.accuracy for a, b in pairwise(curve))
    assert curve[-1].rows >= MIN_ROWS


def test_unreachable_accuracy_fault_states_the_best_and_its_coverage() -> None:
    correct = np.arange(100) >= 20
    confidence = np.where(correct, 0.9, np.linspace(0.3, 0.95, 100))
    confidence[0] = 1.0
    curve = risk_coverage_curve(confidence, correct)
    best = curve[-1]
    message = rf"rows of news reach, not 0\.999; found at best {best.accuracy:.3f} at {best.rows}% coverage"
    with pytest.raises(Fault, match=message) as fault:
        require_point("news", curve, 0.999)
    advised = float(fault.value.remedy.split()[3])
    assert require_point("news", curve, advised)


def test_too_few_rows_give_no_threshold() -> None:
    curve = risk_coverage_curve(np.ones(MIN_ROWS - 1), np.ones(MIN_ROWS - 1, dtype=bool))
    assert curve == ()
    with pytest.raises(Fault, match=r"at least 30 validation rows of news to derive a threshold from; found fewer"):
        require_point("news", curve, 0.5)


@pytest.mark.parametrize("accuracy", [0.0, 1.0, -0.1, 90.0, float("nan"), float("inf")])
def test_target_accuracy_outside_0_and_1_is_refused(accuracy: float) -> None:
    with pytest.raises(Fault, match="between 0 and 1"):
        check_target_accuracy(accuracy)
