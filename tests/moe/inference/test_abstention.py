"""Claims about thresholds: the smallest that reaches what is wanted, on enough rows, by hand and by brute force."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.errors import Fault
from moe.inference.abstention import MIN_ROWS, check_target_accuracy, risk_coverage_curve, find_point, require_point

rows = st.lists(st.tuples(st.sampled_from([0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]), st.booleans()), max_size=60)


def brute(confidence: np.ndarray, right: np.ndarray, wanted: float, least: int) -> int | None:
    """How many rows the best threshold keeps, looking at every one."""
    kept = [confidence >= one for one in [0.0, *confidence]]
    good = [int(mask.sum()) for mask in kept if mask.sum() >= least and right[mask].mean() >= wanted]
    return max(good, default=None)


@given(rows, st.sampled_from([0.3, 0.5, 0.75, 0.9, 1.0]))
@settings(max_examples=200, deadline=None)
def test_no_threshold_keeps_more_rows_at_the_wanted_accuracy(drawn: list[tuple[float, bool]], wanted: float) -> None:
    confidence, right = (np.array([one[i] for one in drawn], dtype=float) for i in (0, 1))
    found = find_point(risk_coverage_curve(confidence, right, min_rows=3), wanted)
    assert (found.rows if found else None) == brute(confidence, right, wanted, 3)
    if found:
        mask = confidence >= found.threshold
        assert (found.rows, found.right) == (mask.sum(), right[mask].sum())


def test_what_all_rows_reach_abstains_from_nothing() -> None:
    curve = risk_coverage_curve(np.linspace(0.5, 1, 100), np.ones(100, dtype=bool))
    assert [(one.threshold, one.rows) for one in curve] == [(0.0, 100)]


def test_the_curve_keeps_fewer_rows_only_for_more_accuracy_and_never_too_few() -> None:
    random = np.random.default_rng(1)
    confidence = random.random(400)
    curve = risk_coverage_curve(confidence, random.random(400) < confidence)
    assert len(curve) > 3
    assert all(a.rows > b.rows and a.accuracy < b.accuracy for a, b in pairwise(curve))
    assert curve[-1].rows >= MIN_ROWS


def test_out_of_reach_names_the_best_and_what_it_keeps() -> None:
    right = np.arange(100) >= 20
    confidence = np.where(right, 0.9, np.linspace(0.3, 0.95, 100))
    confidence[0] = 1.0
    curve = risk_coverage_curve(confidence, right)
    best = curve[-1]
    told = rf"rows of news reach, not 0\.999; found at best {best.accuracy:.3f}, keeping {best.rows}% of them"
    with pytest.raises(Fault, match=told) as fault:
        require_point("news", curve, 0.999)
    named = float(fault.value.remedy.split()[2])
    assert require_point("news", curve, named)


def test_too_few_rows_have_no_threshold() -> None:
    curve = risk_coverage_curve(np.ones(MIN_ROWS - 1), np.ones(MIN_ROWS - 1, dtype=bool))
    assert curve == ()
    with pytest.raises(Fault, match=r"30 validation rows of news, to abstain by; found fewer"):
        require_point("news", curve, 0.5)


@pytest.mark.parametrize("wanted", [0.0, 1.0, -0.1, 90.0, float("nan"), float("inf")])
def test_an_accuracy_outside_0_and_1_is_refused(wanted: float) -> None:
    with pytest.raises(Fault, match="between 0 and 1"):
        check_target_accuracy(wanted)
