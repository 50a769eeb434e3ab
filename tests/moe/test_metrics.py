"""Claims about the figures, against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.metrics import classification, regression

NAMES = ("a", "b", "c")
pairs = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), min_size=1, max_size=60)


@given(pairs)
@settings(max_examples=50, deadline=None)
def test_weighted_recall_equals_accuracy(rows: list[tuple[str, str]]) -> None:
    true, predicted = zip(*rows, strict=True)
    report = classification(true, predicted, NAMES)
    assert report["weighted_recall"] == pytest.approx(report["accuracy"])


def test_figures_by_hand() -> None:
    report = classification(["a", "a", "b", "b"], ["a", "b", "b", "b"], ("a", "b"))
    assert report["accuracy"] == 0.75
    assert report["per_class"]["a"] == pytest.approx({"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "support": 2})
    assert report["macro_f1"] == pytest.approx((2 / 3 + 0.8) / 2)
    assert report["confusion"]["rows"] == [[1, 1, 0], [0, 2, 0]]


def test_an_answer_from_another_label_set_is_wrong_and_counted_apart() -> None:
    report = classification(["a", "b"], ["a", "hawkish"], ("a", "b"))
    assert report["accuracy"] == 0.5
    assert report["confusion"]["rows"] == [[1, 0, 0], [0, 0, 1]]


def test_scores_by_hand() -> None:
    report = regression(np.array([0.0, 1.0]), np.array([0.5, 1.0]))
    assert report == pytest.approx({"mse": 0.125, "mae": 0.25, "rmse": 0.125**0.5, "r2": 0.5})
    assert "r2" not in regression(np.array([0.0]), np.array([0.5]))
