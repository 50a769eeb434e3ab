"""Invalid records are rejected with line and reason; nothing is coerced, nothing is lost."""

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe.data.schema import Duplicate, Record, Reject, Row, TaskSettings
from moe.data.validation import validate_records

THREE = TaskSettings(labels=("negative", "neutral", "positive"))


def validate(task: TaskSettings = THREE, error: str | None = None, **values: object) -> Row | Reject | Duplicate:
    filled = {"id": "a", "text": "profit rises", "label": "positive"} | values
    (result,) = validate_records([Record(7, filled, error)], task)
    return result


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"text": ""}, "missing text"),
        ({"text": None}, "missing text"),
        ({"text": " \u200b\n"}, "missing text"),
        ({"text": 5}, "text is not a string"),
        ({"label": "bullish"}, "unknown label"),
        ({"label": "Positive"}, "unknown label"),
        ({"label": ""}, "no label and no score"),
        ({"score": "1.01"}, "score outside [-1, 1]"),
        ({"score": -math.inf}, "score outside [-1, 1]"),
        ({"score": "nan"}, "score is NaN"),
        ({"score": "high"}, "score is not a number"),
        ({"score": True}, "score is not a number"),
        ({"split": "holdout"}, "unknown split"),
        ({"error": "broken encoding: byte 0xff is not UTF-8"}, "broken encoding"),
    ],
)
def test_validate_rejects_invalid_records_with_line_and_reason(values: dict[str, Any], reason: str) -> None:
    result = validate(**values)
    assert isinstance(result, Reject)
    assert (result.line, result.id, result.reason) == (7, "a", reason)


def test_validate_leaves_the_text_unchanged() -> None:
    assert validate(text="  Profit  Rises ", score="-0.5", lang="en", split="dev") == Row(
        id="a", text="  Profit  Rises ", label=2, score=-0.5, lang="en", split="validation", line=7
    )


def test_validate_maps_labels_of_any_language_and_accepts_the_task_s_own() -> None:
    task = TaskSettings(labels=THREE.labels, label_map={"利空": "negative", "中性": "neutral", "利好": "positive"})
    rows = [validate(task, label=label) for label in ("利空", "中性", "利好", "neutral")]
    assert [row.label for row in rows if isinstance(row, Row)] == [0, 1, 2, 1]


@pytest.mark.parametrize("label", [1, 1.0, "1"])
def test_validate_maps_numeric_labels_of_any_type(label: object) -> None:
    row = validate(TaskSettings(labels=THREE.labels, label_map={"1": "neutral"}), label=label)
    assert isinstance(row, Row)
    assert row.label == 1


def test_validate_derives_a_missing_label_from_the_score() -> None:
    task = TaskSettings(labels=THREE.labels, score_cuts=(-0.1, 0.1))
    assert [getattr(validate(task, label=label, score=0.5), "label", None) for label in (None, "negative")] == [2, 0]


def test_validate_accepts_a_score_without_a_label() -> None:
    row = validate(label=None, score=0.2)
    assert isinstance(row, Row)
    assert (row.label, row.score) == (None, 0.2)


def test_validate_ignores_labels_of_a_task_without_labels() -> None:
    assert isinstance(validate(TaskSettings(), label="anything"), Row)


def test_validate_ignores_the_file_s_split_if_own_is_false() -> None:
    row = validate(THREE.model_copy(update={"split": THREE.split.model_copy(update={"own": False})}), split="holdout")
    assert isinstance(row, Row)
    assert row.split is None


def test_validate_distinguishes_duplicates_from_repeated_ids_with_other_content() -> None:
    def record(line: int, text: str, split: str = "train") -> Record:
        return Record(line, {"id": "a", "text": text, "label": "positive", "split": split})

    records = [record(2, "up"), record(3, "up"), record(4, "down"), record(5, "up", "test")]
    results = list(validate_records(records, THREE))
    assert [type(result) for result in results] == [Row, Duplicate, Reject, Row]
    assert isinstance(results[2], Reject)
    assert (results[2].line, results[2].reason) == (4, "repeated id with different content")


def test_validate_skips_records_that_do_not_pass_only() -> None:
    task = TaskSettings(labels=THREE.labels, only={"domain": ("news",)})
    values = {"text": "x", "label": "?", "domain": "forum"}
    good = {"id": "b", "text": "x", "label": "neutral", "domain": "news"}
    assert [type(row) for row in validate_records([Record(1, values), Record(2, good)], task)] == [Row]


ANYTHING = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab利 \ud800", max_size=3) | st.just([1])
) | st.sampled_from(["positive", "train", "0.5"])


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.fixed_dictionaries(dict.fromkeys(("text", "label", "score", "split", "lang"), ANYTHING))))
def test_validate_returns_one_result_for_every_record(rows: list[dict[str, object]]) -> None:
    results = list(validate_records([Record(n, row | {"id": f"line-{n}"}) for n, row in enumerate(rows)], THREE))
    assert [result.line for result in results] == list(range(len(rows)))
    assert all(abs(row.score) <= 1 for row in results if isinstance(row, Row) and row.score is not None)
