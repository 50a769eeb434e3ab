"""Tests of `moe.api.inputs`: texts and targets from any iterable, and what is neither."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.errors import Fault
from moe.api.inputs import check_texts, match_targets
from moe.data.text_checks import text_problem


def generate(texts: list[str]) -> Iterator[str]:
    yield from texts


@pytest.mark.parametrize(
    "texts",
    [
        ["up", "down"],
        ("up", "down"),
        np.array(["up", "down"]),
        np.array(["up", "down"], dtype=object),
        generate(["up", "down"]),
        {"up": 1, "down": 2}.keys(),
        [np.str_("up"), "down"],
    ],
    ids=lambda value: type(value).__name__,
)
def test_texts_of_any_iterable_are_a_list_of_plain_strings(texts: Any) -> None:
    checked = check_texts(texts)
    assert checked == ["up", "down"]
    assert [type(text) for text in checked] == [str, str]


def test_no_texts_are_an_empty_list() -> None:
    assert check_texts([]) == check_texts(np.array([], dtype=str)) == []


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("up", "a single str. Put it into a list"),
        (b"up", "a single bytes"),
        (None, "a single NoneType"),
        (3.5, "a single float"),
        ({"text": "up"}, "found a dict. Select the column of the texts"),
        (np.zeros((2, 3)), r"an array of shape \(2, 3\)"),
        (np.array("up"), "ndarray"),
        (pa.table({"text": ["up"]}), "select the column|a text with words|a single Table"),
        (["up", 5], "text is not a string: int, at position 1"),
        ([["up"]], "text is not a string: list, at position 0"),
        ([b"up"], "text is not a string: bytes"),
        (["up", "down", " "], "missing text, at position 2"),
        (["up\0"], "NUL byte, at position 0"),
    ],
)
def test_what_is_no_list_of_texts_is_refused_with_its_position(texts: Any, message: str) -> None:
    with pytest.raises(Fault, match=f"(?i){message}"):
        check_texts(texts)


@given(st.lists(st.text(max_size=5), max_size=6))
@settings(max_examples=60, deadline=None)
def test_texts_are_unchanged_or_refused_at_the_first_that_is_none(texts: list[str]) -> None:
    problems = [i for i, text in enumerate(texts) if text_problem(text)]
    if not problems:
        assert check_texts(texts) == texts
        return
    with pytest.raises(Fault, match=f"at position {problems[0]}"):
        check_texts(texts)


def test_targets_may_be_missing_for_some_texts() -> None:
    targets = ["Apple", None, float("nan"), np.nan, np.str_("Nokia")]
    assert match_targets(targets, 5) == ["Apple", None, None, None, "Nokia"]
    assert match_targets([], 0) == []


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("Apple", r"a single str. Use a list: \[target\]"),
        (7, "a single int"),
        (["Apple"], "2 targets, one for each text, or None; found 1. Repeat a text for each target"),
        (["a", "b", "c"], "found 3"),
        (["Apple", ""], "missing target, at position 1"),
        (["Apple", 5], "target is not a string: int, at position 1"),
        (["a\ud800", "b"], "unpaired surrogate, at position 0"),
    ],
)
def test_targets_that_do_not_match_the_texts_are_refused(targets: Any, message: str) -> None:
    with pytest.raises(Fault, match=message):
        match_targets(targets, 2)
