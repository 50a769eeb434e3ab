"""A bad row is rejected with its line and reason; nothing is coerced, nothing vanishes."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe.data.schema import Duplicate, Record, Reject, Row, TaskSettings
from moe.data.validation import validate_records

THREE = TaskSettings(labels=("negative", "neutral", "positive"))


def one(task: TaskSettings = THREE, error: str | None = None, **values: object) -> Row | Reject | Duplicate:
    filled = {"id": "a", "text": "profit rises", "label": "positive"} | values
    (found,) = validate_records([Record(7, filled, error)], task)
    return found


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"text": ""}, "missing text"),
        ({"text": None}, "missing text"),
        ({"text": " \u200b\n"}, "missing text"),
        ({"text": 5}, "text is no text"),
        ({"label": "bullish"}, "unknown label"),
        ({"label": "Positive"}, "unknown label"),
        ({"label": ""}, "no label and no score"),
        ({"score": "1.01"}, "score outside [-1, 1]"),
        ({"score": -math.inf}, "score outside [-1, 1]"),
        ({"score": "nan"}, "score is NaN"),
        ({"score": "high"}, "score is no number"),
        ({"score": True}, "score is no number"),
        ({"split": "holdout"}, "unknown split"),
        ({"error": "broken encoding: byte 0xff is no UTF-8"}, "broken encoding"),
    ],
)
def test_each_bad_row_is_rejected_with_its_line_and_reason(values: dict[str, object], reason: str):
    found = one(**values)  # type: ignore[arg-type]
    assert isinstance(found, Reject)
    assert (found.line, found.id, found.reason) == (7, "a", reason)


def test_a_good_row_keeps_its_text_as_it_is():
    assert one(text="  Profit  Rises ", score="-0.5", lang="en", split="dev") == Row(
        "a", "  Profit  Rises ", 2, -0.5, "en", "validation", 7
    )


def test_labels_are_mapped_from_any_language_and_ours_need_no_entry():
    task = TaskSettings(labels=THREE.labels, label_map={"利空": "negative", "中性": "neutral", "利好": "positive"})
    found = [one(task, label=label) for label in ("利空", "中性", "利好", "neutral")]
    assert [row.label for row in found if isinstance(row, Row)] == [0, 1, 2, 1]


@pytest.mark.parametrize("label", [1, 1.0, "1"])
def test_a_numbered_label_is_mapped_however_the_file_types_it(label: object):
    found = one(TaskSettings(labels=THREE.labels, label_map={"1": "neutral"}), label=label)
    assert isinstance(found, Row)
    assert found.label == 1


def test_a_missing_label_is_cut_from_the_score_and_a_given_one_is_kept():
    task = TaskSettings(labels=THREE.labels, score_cuts=(-0.1, 0.1))
    assert [getattr(one(task, label=label, score=0.5), "label", None) for label in (None, "negative")] == [2, 0]


def test_a_score_alone_is_enough():
    found = one(label=None, score=0.2)
    assert isinstance(found, Row)
    assert (found.label, found.score) == (None, 0.2)


def test_a_task_without_labels_reads_plain_text():
    assert isinstance(one(TaskSettings(), label="anything"), Row)


def test_the_files_split_is_not_even_looked_at_when_drawn_anew():
    found = one(THREE.model_copy(update={"split": THREE.split.model_copy(update={"own": False})}), split="holdout")
    assert isinstance(found, Row)
    assert found.split is None


def test_a_repeated_id_is_a_duplicate_with_the_same_content_and_a_reject_with_other():
    def record(line: int, text: str, split: str = "train") -> Record:
        return Record(line, {"id": "a", "text": text, "label": "positive", "split": split})

    found = list(
        validate_records([record(2, "up"), record(3, "up"), record(4, "down"), record(5, "up", "test")], THREE)
    )
    assert [type(one) for one in found] == [Row, Duplicate, Reject, Row]
    assert isinstance(found[2], Reject)
    assert (found[2].line, found[2].reason) == (4, "repeated id with other content")


def test_only_passes_other_rows_over_without_rejecting_them():
    task = TaskSettings(labels=THREE.labels, only={"domain": ("news",)})
    values = {"text": "x", "label": "?", "domain": "forum"}
    good = {"id": "b", "text": "x", "label": "neutral", "domain": "news"}
    assert [type(one) for one in validate_records([Record(1, values), Record(2, good)], task)] == [Row]


ANYTHING = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab利 \ud800", max_size=3) | st.just([1])
) | st.sampled_from(["positive", "train", "0.5"])


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.fixed_dictionaries(dict.fromkeys(("text", "label", "score", "split", "lang"), ANYTHING))))
def test_whatever_comes_in_comes_out_once(rows: list[dict[str, object]]):
    found = list(validate_records([Record(n, row | {"id": f"line-{n}"}) for n, row in enumerate(rows)], THREE))
    assert [one.line for one in found] == list(range(len(rows)))
    assert all(abs(one.score) <= 1 for one in found if isinstance(one, Row) and one.score is not None)
