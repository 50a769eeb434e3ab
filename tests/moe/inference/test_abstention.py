"""Claims about abstention: a threshold whose bound holds, past a few confident errors, or advice if there is none."""

import numpy as np
import pytest

from experts.errors import Fault
from moe.evaluation.calibration.thresholds import risk_coverage_curve
from moe.inference.abstention import (
    MIN_ROWS,
    RiskCoveragePoint,
    check_target_accuracy,
    find_point,
    require_point,
    rows_if_all_correct,
    rows_needed,
)

LEVEL = 0.9


def draw(random: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose accuracy is their confidence, uniform from 0.5 to 1: above t it is (1 + t) / 2."""
    confidence = random.uniform(0.5, 1.0, rows)
    return confidence, random.random(rows) < confidence


@pytest.mark.parametrize("rows", [60, 150, 400, 1000])
@pytest.mark.parametrize("accuracy", [0.8, 0.9])
def test_accuracy_above_the_threshold_misses_the_target_in_at_most_a_tenth_of_draws(rows: int, accuracy: float) -> None:
    random, missed, empirical = np.random.default_rng(rows), 0, 0
    for _ in range(150):
        curve = risk_coverage_curve(*draw(random, rows), LEVEL)
        point = find_point(curve, accuracy, LEVEL)
        missed += point is not None and (1 + max(0.5, point.threshold)) / 2 < accuracy
        unbounded = find_point(curve, accuracy)
        empirical += unbounded is not None and (1 + max(0.5, unbounded.threshold)) / 2 < accuracy
    assert missed <= 150 * (1 - LEVEL)
    assert empirical > 150 * 0.2  # the accuracy on the validation rows alone misses far more often


def test_more_rows_retain_more_at_the_same_target() -> None:
    coverages = []
    for rows in (100, 1000, 10_000):
        point = find_point(risk_coverage_curve(*draw(np.random.default_rng(0), rows), LEVEL), 0.9, LEVEL)
        coverages.append(point.rows / rows if point else 0.0)
    assert coverages == sorted(coverages)
    assert 0.3 < coverages[-1] <= 0.4  # above .8, which 40 % are, the accuracy is .9


def test_few_confident_errors_do_not_hide_the_thresholds_below_them() -> None:
    confidence = np.linspace(1.0, 0.5, 1000)
    correct = np.ones(1000, dtype=bool)
    correct[20:45] = False
    correct[900:] = False
    curve = risk_coverage_curve(confidence, correct, LEVEL)
    first = next(point for point in reversed(curve) if point.rows >= 50)
    assert first.accuracy < 0.8  # the first sequence of tests ends at once
    point = find_point(curve, 0.9, LEVEL)
    assert point is not None
    assert point.rows > 800


def test_all_correct_rows_guarantee_an_accuracy_from_the_fewest_possible_rows_on() -> None:
    fewest = rows_if_all_correct(0.95, LEVEL)
    assert fewest == 45  # .95^45 ≤ .1 < .95^44
    for rows, suffices in ((fewest, True), (fewest - 1, False)):
        curve = risk_coverage_curve(np.linspace(0.9, 1, rows), np.ones(rows, dtype=bool), LEVEL)
        assert (find_point(curve, 0.95, LEVEL) is not None) == suffices


def test_calibration_without_bounds_uses_the_accuracy_on_its_rows() -> None:
    curve = (RiskCoveragePoint(threshold=0.0, rows=50, right=40), RiskCoveragePoint(threshold=0.8, rows=40, right=38))
    assert [find_point(curve, accuracy) for accuracy in (0.8, 0.81, 0.96)] == [curve[0], curve[1], None]
    assert find_point(curve, 0.5, LEVEL) is None


def test_unreachable_accuracy_fault_states_the_best_and_how_many_rows_it_needs() -> None:
    confidence = np.linspace(1.0, 0.5, 150)
    errors = np.diff(np.floor(np.cumsum(1 - confidence)), prepend=0.0)  # as many as the confidence predicts
    curve = risk_coverage_curve(confidence, errors == 0, LEVEL)
    message = r"rows of news guarantee at level 0\.9, not 0\.95; found at best 0\.\d+ at \d+% coverage on 150 rows"
    with pytest.raises(Fault, match=message) as fault:
        require_point("news", curve, 0.95, LEVEL)
    assert require_point("news", curve, float(fault.value.remedy.split()[3]), LEVEL)
    needed = rows_needed(curve, 0.95, LEVEL)
    assert needed is not None
    assert f"calibrate on {needed:,} or more validation rows" in fault.value.remedy
    random = np.random.default_rng(0)
    for rows, often in ((needed * 2, True), (needed // 4, False)):
        points = [find_point(risk_coverage_curve(*draw(random, rows), LEVEL), 0.95, LEVEL) for _ in range(20)]
        assert (sum(point is not None for point in points) > 10) == often


def test_accuracy_that_no_number_of_rows_guarantees_needs_none() -> None:
    coin = np.arange(100) % 2 == 0
    curve = risk_coverage_curve(np.linspace(0.5, 1, 100), coin, LEVEL)
    assert rows_needed(curve, 0.9, LEVEL) is None
    with pytest.raises(Fault, match=r"at best 0\.\d+ at \d+% coverage on 100 rows") as fault:
        require_point("news", curve, 0.9, LEVEL)
    assert "calibrate" not in fault.value.remedy


def test_too_few_rows_give_no_threshold() -> None:
    curve = risk_coverage_curve(np.ones(MIN_ROWS - 1), np.ones(MIN_ROWS - 1, dtype=bool))
    assert curve == ()
    with pytest.raises(Fault, match=r"at least 30 validation rows of news to derive a threshold from; found fewer"):
        require_point("news", curve, 0.5, LEVEL)


@pytest.mark.parametrize("accuracy", [0.0, 1.0, -0.1, 90.0, float("nan"), float("inf")])
def test_target_accuracy_outside_0_and_1_is_refused(accuracy: float) -> None:
    with pytest.raises(Fault, match="between 0 and 1"):
        check_target_accuracy(accuracy)


@pytest.mark.parametrize("seed", range(6))
def test_thresholds_of_higher_accuracies_are_higher_and_their_bounds_reach_them(seed: int) -> None:
    random = np.random.default_rng(seed)
    curve = risk_coverage_curve(*draw(random, 600), level=LEVEL)
    thresholds = []
    for accuracy in (0.6, 0.7, 0.75, 0.8, 0.85, 0.9):
        if (point := find_point(curve, accuracy, LEVEL)) is not None:
            assert max(point.lower or 0, point.lower_half or 0) >= accuracy
            assert point.accuracy >= accuracy
            thresholds.append(point.threshold)
    assert thresholds == sorted(thresholds)
    assert len(thresholds) >= 3


@pytest.mark.parametrize("seed", range(6))
def test_curve_goes_from_all_rows_to_few_with_bounds_below_the_accuracy(seed: int) -> None:
    random = np.random.default_rng(seed)
    curve = risk_coverage_curve(*draw(random, 300), level=LEVEL)
    assert (curve[0].threshold, curve[0].rows) == (0.0, 300)
    assert [point.threshold for point in curve] == sorted(point.threshold for point in curve)
    assert [point.rows for point in curve] == sorted((point.rows for point in curve), reverse=True)
    for point in curve:
        assert point.lower is not None
        assert point.lower_half is not None
        assert 0 <= point.lower_half <= point.lower <= point.accuracy <= 1


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.99])
@pytest.mark.parametrize("accuracy", [0.5, 0.7, 0.9, 0.99])
def test_fewest_correct_rows_are_those_whose_power_falls_below_the_error(accuracy: float, level: float) -> None:
    rows = rows_if_all_correct(accuracy, level)
    assert accuracy**rows <= (1 - level) * (1 + 1e-6)
    assert rows == 0 or accuracy ** (rows - 1) > (1 - level) * (1 - 1e-6)


def test_required_point_is_the_one_that_is_found() -> None:
    curve = risk_coverage_curve(*draw(np.random.default_rng(0), 500), level=LEVEL)
    assert require_point("news", curve, 0.75, LEVEL) == find_point(curve, 0.75, LEVEL)
    assert find_point((), 0.75, LEVEL) is None
    assert rows_needed((), 0.75, LEVEL) is None
