"""Columns, splits and labels are recognized as files spell them; what is ambiguous or unknown is named."""

from pathlib import Path

import pytest

from experts.errors import Fault
from moe.data.column_names import (
    find_column,
    find_label,
    find_split,
    label_name,
    match_columns,
    nearest_label,
    nearest_split,
)
from moe.data.schema import Columns

FILE = Path("posts.csv")


def test_match_columns_folds_letter_case_and_space() -> None:
    columns = match_columns(["ID", " Text", "LABEL ", "Split", "Score"], Columns(), FILE)
    assert columns.mapping() == Columns().mapping() | {
        "id": "ID",
        "text": " Text",
        "label": "LABEL ",
        "split": "Split",
        "score": "Score",
    }


def test_match_columns_folds_renamed_columns_and_prefers_the_exact_name() -> None:
    assert match_columns(["text", "sentiment"], Columns(label="Sentiment"), FILE).label == "sentiment"
    assert match_columns(["text", "Text", "label"], Columns(), FILE).text == "text"


def test_match_columns_uses_no_column_twice() -> None:
    columns = match_columns(["Label", "score"], Columns(text="Label"), FILE)
    assert (columns.text, columns.label) == ("Label", "label")


def test_match_columns_refuses_names_that_differ_in_letter_case_only() -> None:
    with pytest.raises(Fault, match=r"found the columns Text, TEXT.*columns: \{text: Text\}"):
        match_columns(["Text", "TEXT"], Columns(), FILE)


@pytest.mark.parametrize(
    ("names", "columns", "remedy"),
    [
        (["Headline", "label"], Columns(), "Did you mean Headline? Name it with `columns: {text: Headline}`"),
        (["txet", "label"], Columns(), "Did you mean txet?"),
        (["text", "sentimnt"], Columns(label="sentiment"), "Did you mean sentimnt?"),
        (["a", "b"], Columns(), "Name the right column with `columns: {text: …}`"),
    ],
)
def test_match_columns_names_the_nearest_column(names: list[str], columns: Columns, remedy: str) -> None:
    with pytest.raises(Fault) as fault:
        match_columns(names, columns, FILE)
    assert remedy in str(fault.value)


def test_match_columns_names_the_column_that_probably_holds_the_labels() -> None:
    with pytest.raises(Fault, match=r"a column 'label'.*Did you mean Sentiment\? .*`columns: \{label: Sentiment\}`"):
        match_columns(["text", "Sentiment"], Columns(), FILE, answer_fields=("label", "score"))
    assert match_columns(["text", "Score"], Columns(), FILE, answer_fields=("label", "score")).score == "Score"
    assert match_columns(["text"], Columns(), FILE).label == "label"


def test_find_column_returns_none_if_several_match() -> None:
    assert find_column("date", ["Date", "text"]) == "Date"
    assert find_column("date", ["Date", "DATE"]) is None
    assert find_column("date", ["day"]) is None


@pytest.mark.parametrize(
    ("value", "split"), [("Train", "train"), ("DEV", "validation"), (" test ", "test"), ("x", None)]
)
def test_find_split_folds_letter_case(value: str, split: str | None) -> None:
    assert find_split(value) == split


@pytest.mark.parametrize(
    ("value", "split"), [("eval", "validation"), ("tset", "test"), ("trian", "train"), ("7", None)]
)
def test_nearest_split_corrects_typing_errors(value: str, split: str | None) -> None:
    assert nearest_split(value) == split


@pytest.mark.parametrize("value", [1, 1.0, "1", "1.0", " 1.00 "])
def test_label_name_is_the_same_for_every_spelling_of_an_integer(value: object) -> None:
    assert label_name(value) == "1"
    assert find_label(value, ("0", "1")) == "1"
    assert find_label(value, ("0.0", "1.0")) == "1.0"


def test_find_label_prefers_the_identical_name_and_compares_booleans_without_letter_case() -> None:
    assert find_label("1.0", ("1", "1.0")) == "1.0"
    assert find_label(True, ("false", "true")) == "true"
    assert find_label("1.5", ("1",)) is None
    assert find_label("Positive", ("positive",)) is None


def test_nearest_label_ignores_letter_case() -> None:
    assert nearest_label("Positive", ("negative", "positive")) == "positive"
    assert nearest_label("xyz", ("negative", "positive")) == "negative"
