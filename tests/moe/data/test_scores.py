"""Scores become classes as the DAO paper's eq. 4 says, borders included."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.data.schema import DAO5_CUTS
from moe.data.validation import label_from_score


@pytest.mark.parametrize(
    ("score", "label"),
    [(1, 4), (0.501, 4), (0.5, 3), (0.0491, 3), (0.049, 2), (0, 2), (-0.049, 2), (-0.0491, 1), (-0.5, 1), (-0.501, 0)],
)
def test_every_border_of_equation_4_falls_on_its_printed_side(score: float, label: int):
    assert label_from_score(score, DAO5_CUTS) == label


def test_three_classes_by_two_cuts():
    assert [label_from_score(score, (-0.1, 0.1)) for score in (-0.11, -0.1, 0, 0.1, 0.11)] == [0, 1, 1, 1, 2]


@settings(deadline=None)
@given(st.floats(-1, 1))
def test_classes_mirror_around_zero(score: float):
    assert label_from_score(-score, DAO5_CUTS) == 4 - label_from_score(score, DAO5_CUTS)
