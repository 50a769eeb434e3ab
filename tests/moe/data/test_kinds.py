"""Rows of tasks of other kinds than one label per row: cells, rejects, splits, reports and inspection."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SCORE_ALONE, TOPICS, Make, made_up_rows, topic_domain, topic_rows, write_csv
from pydantic import ValidationError

from experts.errors import Fault
from moe.data.prepare import format_summary, prepare_task
from moe.data.profile import inspect_file
from moe.data.schema import DataSettings, Record, Reject, Row, TaskSettings
from moe.data.splitting.settings import SplitSettings
from moe.data.validation import validate_records

TASK = TaskSettings(labels=TOPICS, kind="multi_label", label_map={"great": "good"})


def _validate(label: object) -> Row | Reject:
    (result,) = validate_records([Record(3, {"id": "a", "text": "profit rises", "label": label})], TASK)
    assert isinstance(result, Row | Reject)
    return result


@pytest.mark.parametrize(
    ("label", "code"),
    [("good;flat", 0b101), (["great", "bad"], 0b011), ("good|good", 0b001), ("", 0), ([], 0), (None, 0)],
)
def test_validate_reads_the_labels_of_a_cell_as_one_code(label: object, code: int) -> None:
    row = _validate(label)
    assert isinstance(row, Row)
    assert row.label == code


def test_validate_rejects_a_cell_with_an_unknown_label_and_names_it() -> None:
    reject = _validate("good;other")
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.found) == ("unknown label", "other")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ("a;b", "c")}, "contains no ; or |"),
        ({"labels": ()}, "2 to 62 labels, not 0"),
        ({"labels": ("a", "b"), "score_cuts": (0.0,)}, "score_cuts makes classes of scores"),
        ({"labels": ("a", "b"), "ask": "{text} {choices}"}, "a question to a language model"),
    ],
)
def test_settings_refuse_what_a_multi_label_task_cannot_have(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message.replace("|", r"\|")):
        TaskSettings(kind="multi_label", **settings)


def _prepare(path: Path, tmp_path: Path, **over: object) -> dict[str, list[int]]:
    task = TASK.model_copy(update=over)
    prepared = prepare_task(path, task, DataSettings(near_duplicates=None), "news", "topics", tmp_path / "out")
    return {name: rows["label"][:] for name, rows in prepared.splits.items()}


def test_csv_json_lines_and_parquet_hold_the_same_sets(tmp_path: Path) -> None:
    rows = topic_rows(30)
    lists = [row | {"label": row["label"].split(";") if row["label"] else []} for row in rows]
    csv = write_csv(tmp_path / "a.csv", rows)
    jsonl, parquet = tmp_path / "a.jsonl", tmp_path / "a.parquet"
    jsonl.write_text("".join(json.dumps(row) + "\n" for row in lists))
    pq.write_table(pa.Table.from_pylist(lists), parquet)
    first = _prepare(csv, tmp_path / "csv")
    assert {0, 0b001} <= set(first["train"])
    assert first == _prepare(jsonl, tmp_path / "jsonl") == _prepare(parquet, tmp_path / "parquet")


def test_report_counts_a_row_for_each_of_its_labels(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", topic_rows(60))
    prepared = prepare_task(path, TASK, DataSettings(near_duplicates=None), "news", "topics", tmp_path / "out")
    size = prepared.report.splits["train"]
    codes = prepared.splits["train"]["label"][:]
    assert prepared.report.kind == "multi_label"
    assert size.labels["(no label)"] == codes.count(0)
    assert size.labels["bad"] == sum(code >> 1 & 1 for code in codes)
    assert size.rows == len(codes) < sum(size.labels.values())


def test_random_split_keeps_the_share_of_a_rare_label(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": "good;flat" if i % 20 == 0 else "good"} for i in range(400)]
    path = write_csv(tmp_path / "a.csv", rows)
    splits = _prepare(path, tmp_path, split=SplitSettings(ratios=(80, 10, 10)))
    assert [sum(code >> 2 & 1 for code in splits[name]) for name in ("train", "validation", "test")] == [16, 2, 2]


def test_label_whose_rows_are_all_rejected_stops_the_run(tmp_path: Path) -> None:
    rows = topic_rows(40) + [{"id": f"x{i}", "text": f"text {i}", "label": "good;stray", "split": ""} for i in range(6)]
    path = write_csv(tmp_path / "a.csv", rows)
    with pytest.raises(Fault, match="valid rows of label stray"):
        prepare_task(path, TASK, DataSettings(max_rejected=0.5), "news", "topics", tmp_path / "out")


def test_unknown_labels_are_named_without_advice_for_scores(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [row | {"label": "up;down"} for row in topic_rows(20)])
    with pytest.raises(Fault) as caught:
        prepare_task(path, TASK, DataSettings(), "news", "topics", tmp_path / "out")
    assert "label_map" in str(caught.value)
    assert "score_cuts" not in str(caught.value)


def test_inspection_counts_labels_instead_of_sets(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [{"text": "x y", "label": "good;bad"}, {"text": "z w", "label": ""}])
    profile = inspect_file(path, TASK)
    assert profile.labels == {"good": 1, "bad": 1, "(none)": 1}
    assert profile.classes == {"good": 1, "bad": 1, "(no label)": 1}


def test_rows_that_another_task_holds_out_are_subtracted_from_each_label(make_work: Make) -> None:
    tasks = {name: {"file": "topics.csv", "labels": list(TOPICS), "kind": "multi_label"} for name in ("a", "b")}
    domains = topic_domain(file=None, labels=[], kind="classes", tasks=tasks)
    work = make_work(domains=domains, data={"across_tasks": True, "near_duplicates": 0.9})
    report = work.prepared("news")["b"].report
    assert report.other_tasks is not None
    codes = work.prepared("news")["b"].splits["train"]["label"][:]
    assert report.splits["train"].labels["good"] == sum(code & 1 for code in codes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ("a", "b")}, "a task of the kind score has no labels"),
        ({"label_map": {"up": "positive"}}, "label_map maps labels"),
        ({"columns": {"label": "stance"}}, "columns.label is stance"),
        ({"columns": {"score": None}}, "needs columns.score"),
        ({"score_cuts": "dao5"}, "score_cuts makes classes of scores"),
        ({"ask": "{text}"}, "a question to a language model"),
    ],
)
def test_settings_refuse_what_a_task_with_a_score_alone_cannot_have(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TaskSettings.model_validate({"kind": "score"} | settings)


SCORED = TaskSettings.model_validate({"kind": "score", "columns": {"score": "sentiment"}})


@pytest.mark.parametrize(
    ("score", "reason"),
    [("", "no score"), (None, "no score"), ("high", "score is not a number"), (1.5, "score outside [-1, 1]")],
)
def test_row_without_a_valid_score_is_rejected_with_its_line(score: object, reason: str) -> None:
    record = Record(7, {"id": "a", "text": "profit rises", "label": "positive", "score": score})
    (reject,) = validate_records([record], SCORED)
    assert isinstance(reject, Reject)
    assert (reject.line, reject.reason) == (7, reason)


def test_scores_alone_are_prepared_without_labels_and_split_by_score(tmp_path: Path) -> None:
    source = np.random.default_rng(0)
    rows = [{"text": f"text {i}", "sentiment": round(float(source.uniform(-1, 1)), 3)} for i in range(200)]
    path = write_csv(tmp_path / "a.csv", rows)
    task = SCORED.model_copy(update={"split": SplitSettings(ratios=(80, 10, 10))})
    prepared = prepare_task(path, task, DataSettings(near_duplicates=None), "news", "mood", tmp_path / "out")
    assert (prepared.report.kind, prepared.report.splits["train"].labels) == ("score", {})
    assert set(prepared.splits["train"]["label"]) == {-1}
    assert "train 160, validation 20, test 20" in format_summary(prepared.report)
    means = [np.mean(prepared.splits[name]["score"]) for name in ("train", "validation", "test")]
    assert np.ptp(means) < 0.05  # a random split of 20 rows differs by about .13


def test_file_without_the_score_column_is_refused_with_its_columns(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [{"text": "x y", "label": "good", "polarity": 0.5}])
    with pytest.raises(Fault, match="a column 'score'") as caught:
        prepare_task(path, TaskSettings(kind="score"), DataSettings(), "news", "mood", tmp_path / "out")
    assert "columns: {score: polarity}" in str(caught.value)


def test_labels_beside_scores_alone_are_not_compared_with_them(tmp_path: Path) -> None:
    rows = [row | {"label": "negative" if row["score"] > 0 else "positive"} for row in made_up_rows("news")]
    path = write_csv(tmp_path / "a.csv", rows)
    profile = inspect_file(path, TaskSettings(kind="score"))
    assert (profile.labels, profile.classes, profile.scores.rows) == ({}, {}, 90)
    assert not profile.warnings


@pytest.mark.parametrize(
    ("setting", "over"),
    [
        ("data.augmented", {"data": {"augmented": True}}),
        ("distill", {"distill": {"teachers": ["ready"], "labelled": True}}),
    ],
)
def test_config_refuses_what_needs_labels_beside_a_score_alone(
    make_work: Make, setting: str, over: dict[str, object]
) -> None:
    with pytest.raises(Fault, match=f"{setting} is set, but task forum is of the kind score"):
        make_work(domains=SCORE_ALONE, **over)


def test_config_refuses_a_score_alone_without_the_polarity_loss(make_work: Make) -> None:
    with pytest.raises(Fault, match="the only loss of task forum"):
        make_work(domains=SCORE_ALONE, losses={"without": ["polarity"]})


@pytest.mark.parametrize("cell", ["good;bad", "good | flat", ["good", "bad"]])
def test_several_labels_in_a_cell_suggest_the_kind_multi_label(cell: object, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row | {"label": cell}) + "\n" for row in topic_rows(20)))
    with pytest.raises(Fault, match="set `kind: multi_label`"):
        prepare_task(path, TaskSettings(labels=TOPICS), DataSettings(), "news", "topics", tmp_path / "out")


def test_another_unknown_label_does_not_suggest_the_kind_multi_label(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [row | {"label": "up;down"} for row in topic_rows(20)])
    with pytest.raises(Fault) as caught:
        prepare_task(path, TaskSettings(labels=TOPICS), DataSettings(), "news", "topics", tmp_path / "out")
    assert "multi_label" not in str(caught.value)
