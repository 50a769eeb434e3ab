"""Tests of `moe.data.text_checks`: what is no text, targets and their limits, repairs of broken characters."""

import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.errors import Fault
from moe.data.text_checks import (
    MAX_TARGETS,
    PLAIN_SEPARATOR,
    check_targets,
    contains_target,
    cut_target,
    decode_argument,
    is_blank,
    is_encodable,
    replace_surrogates,
    segment_separator,
    string_or_none,
    target_limit,
    target_problem,
    text_problem,
    window_overlap,
)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "missing text"),
        ("", "missing text"),
        (" \t\n", "missing text"),
        ("\u200b\ufeff\u202e", "missing text"),
        ("\x00", "missing text"),
        (7, "text is not a string: int"),
        (math.nan, "text is not a string: float"),
        (b"up", "text is not a string: bytes"),
        (["up"], "text is not a string: list"),
        ("a\0b", "NUL byte"),
        ("a \ud800", "broken encoding: unpaired surrogate"),
        ("up", None),
        (".", None),
        ("😀", None),
        ("利好", None),
    ],
)
def test_value_that_is_no_text_has_a_reason(value: object, problem: str | None) -> None:
    assert text_problem(value) == problem
    blank = problem == "missing text" or (isinstance(value, float) and math.isnan(value))
    assert is_blank(value) is blank


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "missing target"),
        (math.nan, "missing target"),
        ("  ", "missing target"),
        (7, "target is not a string: int"),
        ("a\0", "NUL byte"),
        ("Apple", None),
    ],
)
def test_value_that_is_no_target_has_a_reason(value: object, problem: str | None) -> None:
    assert target_problem(value) == problem


def test_targets_of_a_user_are_checked_one_by_one() -> None:
    check_targets([])
    check_targets(["Apple"] * MAX_TARGETS)
    with pytest.raises(Fault, match=f"at most {MAX_TARGETS} targets; found 301. Split them over several calls"):
        check_targets(["Apple"] * 301)
    for target, problem in (("", "missing target"), ("a\ud800", "unpaired surrogate"), ("a\0", "NUL byte")):
        with pytest.raises(Fault, match=f"{problem}. Remove or correct this target"):
            check_targets(["Apple", target])


@given(st.text(st.characters(), max_size=20))
@settings(max_examples=60, deadline=None)
def test_replaced_text_can_be_written_and_replaced_again_without_a_change(text: str) -> None:
    replaced = replace_surrogates(text)
    assert is_encodable(replaced)
    assert replace_surrogates(replaced) == replaced
    assert len(replaced) == len(text)
    assert (replaced == text) is is_encodable(text)
    assert string_or_none(text) == replaced


def test_value_that_is_no_string_cannot_be_written_as_text() -> None:
    assert [string_or_none(value) for value in (None, 7, ["a"], b"a")] == [None] * 4


@pytest.mark.parametrize("text", ["plain", "利好", "café 😀"])
def test_argument_in_utf8_is_decoded_under_another_locale(text: str) -> None:
    assert decode_argument(text) == text
    assert decode_argument(text.encode().decode("ascii", "surrogateescape")) == text


def test_argument_that_is_no_utf8_stays_for_an_error_to_name() -> None:
    broken = os.fsdecode(b"caf\xe9")
    assert decode_argument(broken) == broken
    assert not is_encodable(broken)


@given(st.integers(8, 512), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_target_takes_at_most_half_of_the_tokens_and_leaves_two_for_the_text(max_length: int, special: int) -> None:
    limit = target_limit(max_length, special)
    assert limit >= 1
    assert limit <= max_length // 2
    if max_length >= special + 3:
        assert special + limit + 2 <= max_length


@given(st.text("ab é", min_size=1, max_size=12), st.integers(1, 14))
@settings(max_examples=60, deadline=None)
def test_cut_target_is_a_beginning_that_ends_with_its_last_token(target: str, limit: int) -> None:
    offsets = [(i, i + 1) for i, letter in enumerate(target) if letter != " "]
    cut = cut_target(target, offsets, limit)
    assert target.startswith(cut)
    assert cut
    if len(offsets) <= limit:
        assert cut == target
    else:
        assert len(cut.replace(" ", "")) == limit


@pytest.mark.parametrize(
    ("text", "target", "contained"),
    [
        ("Apple gains", "apple", True),
        ("APPLE  gains", "Apple gains", True),
        ("the bank\nof japan waits", "Bank of  Japan", True),
        ("ＡＰＰＬＥ 利好", "apple", True),
        ("Straße", "STRASSE", True),
        ("pineapple", "apple", True),
        ("Appl e", "apple", False),
        ("", "apple", False),
    ],
)
def test_target_is_found_whatever_its_case_width_and_white_space(text: str, target: str, contained: bool) -> None:
    assert contains_target(text, target) is contained


@pytest.mark.parametrize(
    ("max_length", "windows", "overlap"), [(128, 1, 0), (128, 3, 32), (24, 2, 6), (23, 2, 0), (25, 2, 6)]
)
def test_windows_overlap_by_a_quarter_if_they_are_long_enough(max_length: int, windows: int, overlap: int) -> None:
    assert window_overlap(max_length, windows) == overlap


def test_separator_is_written_where_special_tokens_do_not_separate() -> None:
    assert segment_separator(single_tokens=2, pair_tokens=3) == ""
    assert segment_separator(single_tokens=1, pair_tokens=1) == PLAIN_SEPARATOR
    assert segment_separator(single_tokens=0, pair_tokens=0) == PLAIN_SEPARATOR
