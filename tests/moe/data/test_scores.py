"""Classes from scores follow eq. 4 of the DAO paper, thresholds included."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.data.schema import DAO5_CUTS
from moe.data.validation import label_from_score


@pytest.mark.parametrize(
    ("score", "label"),
    [(1, 4), (0.501, 4), (0.5, 3), (0.0491, 3), (0.049, 2), (0, 2), (-0.049, 2), (-0.0491, 1), (-0.5, 1), (-0.501, 0)],
)
def test_label_from_score_assigns_thresholds_as_in_equation_4(score: float, label: int) -> None:
    assert label_from_score(score, DAO5_CUTS) == label


def test_label_from_score_makes_three_classes_of_two_cuts() -> None:
    assert [label_from_score(score, (-0.1, 0.1)) for score in (-0.11, -0.1, 0, 0.1, 0.11)] == [0, 1, 1, 1, 2]


@settings(deadline=None)
@given(st.floats(-1, 1))
def test_label_from_score_is_symmetric_around_zero(score: float) -> None:
    assert label_from_score(-score, DAO5_CUTS) == 4 - label_from_score(score, DAO5_CUTS)
