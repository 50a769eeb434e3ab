"""Tasks with a score alone: no labels, groups of scores for splits, and the concordance of scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.evaluation.metrics import concordance, regression
from moe.kinds.registry import task_kind
from moe.kinds.score import STRATA

KIND = task_kind("score")
scores = st.lists(st.floats(-1, 1, width=16), min_size=1, max_size=40)


def test_rows_have_no_label_and_need_a_score() -> None:
    assert KIND.check_labels(("a", "b")) is not None
    assert KIND.check_labels(()) is None
    assert KIND.check_answer(None, None) == "no score"
    assert KIND.check_answer(None, 0.0) is None
    assert KIND.decode(KIND.encode(())) == ()
    assert KIND.members(np.full(3, -1), 0).shape == (3, 0)


def test_groups_of_scores_have_equal_sizes_and_follow_the_order() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 400)
    strata = KIND.strata(np.full(400, -1), 0, values)
    assert np.bincount(strata).tolist() == [40] * STRATA
    assert (np.diff(strata[np.argsort(values)]) >= 0).all()


@given(scores)
def test_equal_scores_are_in_one_group_however_few_there_are(values: list[float]) -> None:
    strata = KIND.strata(np.full(len(values), -1), 0, np.array(values))
    groups: dict[float, set[int]] = {}
    for value, group in zip(values, strata.tolist(), strict=True):
        groups.setdefault(value, set()).add(group)
    assert all(len(own) == 1 for own in groups.values())
    assert (strata >= 0).all()


def test_concordance_is_that_of_lin_by_hand() -> None:
    true, predicted = np.random.default_rng(1).uniform(-1, 1, (2, 50))
    covariance = np.cov(true, predicted, ddof=0)
    by_hand = 2 * covariance[0, 1] / (covariance[0, 0] + covariance[1, 1] + (true.mean() - predicted.mean()) ** 2)
    assert concordance(true, predicted) == pytest.approx(by_hand)
    assert concordance(true, true) == pytest.approx(1.0)
    assert concordance(true, true + 0.5) < concordance(true, true + 0.1) < 1


def test_concordance_of_a_constant_is_defined() -> None:
    true = np.array([-0.5, 0.5, 0.25])
    assert concordance(true, np.full(3, 0.1)) == 0
    assert concordance(np.full(3, 0.1), np.full(3, 0.1)) == 1
    assert concordance(np.full(3, 0.1), np.full(3, 0.2)) == 0
    report = regression(true, np.full(3, 0.1))
    assert (report.ccc, report.ccc_interval) == (0.0, (0.0, 0.0))
    assert report.pearson is None


@given(scores)
def test_concordance_is_finite_and_at_most_one(values: list[float]) -> None:
    true = np.array(values)
    predicted = np.roll(true, 1) / 2
    assert -1 - 1e-9 <= float(concordance(true, predicted)) <= 1 + 1e-9
