"""Tests of splits by time: sides, embargo, walk-forward folds, near duplicates, rows without a time."""

import csv
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from experts.errors import Fault
from moe.data.prepare import PreparedTask, format_summary, prepare_task
from moe.data.schema import DataSettings, TaskSettings
from moe.data.splitting.settings import SPLITS

START = datetime(2020, 1, 1, 12, tzinfo=UTC)
BY_TIME = {"by": "time", "validation_from": "2020-09-01", "test_from": "2020-11-01"}
WORDS = ("profit", "loss", "guidance", "merger", "dividend", "strike", "recall", "patent", "lawsuit", "buyback")


def rows_of(days: int) -> list[dict[str, str]]:
    """Return a row a day, each with a text of its own."""
    names = [
        f"{WORDS[i % 10]} {WORDS[i // 10 % 10]} {WORDS[i // 100 % 10]} at firm number {i * 7919}" for i in range(days)
    ]
    times = [(START + timedelta(days=i)).isoformat() for i in range(days)]
    return [
        {"id": str(i), "text": f"{names[i]} on day {i}", "label": "ab"[i % 2], "published": times[i]}
        for i in range(days)
    ]


def prepared(folder: Path, rows: Sequence[Mapping[str, str]], split: Mapping[str, Any], **task: Any) -> PreparedTask:
    path = folder / "news.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    settings = {"labels": ["a", "b"], "columns": {"time": "published"}, "split": split} | task
    return prepare_task(path, TaskSettings.model_validate(settings), DataSettings(), "news", "news", folder / "out")


def times_of(task: PreparedTask) -> dict[str, list[datetime]]:
    return {name: sorted(task.splits[name]["time"]) for name in SPLITS}


def test_rows_are_on_the_side_of_their_time(tmp_path: Path) -> None:
    task = prepared(tmp_path, rows_of(366), BY_TIME)
    times = times_of(task)
    first, last = datetime(2020, 9, 1, tzinfo=UTC), datetime(2020, 11, 1, tzinfo=UTC)
    assert max(times["train"]) < first <= min(times["validation"])
    assert max(times["validation"]) < last <= min(times["test"])
    assert sum(map(len, times.values())) == 366
    assert "train 2020-01-01 to 2020-08-31, validation 2020-09-01 to 2020-10-31" in format_summary(task.report)


def test_date_of_a_side_is_in_the_zone_of_the_file(tmp_path: Path) -> None:
    rows = [row | {"published": f"2020-{row['published'][5:10]} 00:30:00"} for row in rows_of(366)]
    task = prepared(tmp_path, rows, BY_TIME, time={"zone": "Asia/Tokyo"})
    assert min(times_of(task)["test"]) == datetime(2020, 10, 31, 15, 30, tzinfo=UTC)  # 1 November in Tokyo


def test_embargo_leaves_out_the_rows_before_each_later_side(tmp_path: Path) -> None:
    task = prepared(tmp_path, rows_of(366), BY_TIME | {"embargo": "10d"})
    times = times_of(task)
    assert min(times["validation"]) - max(times["train"]) > timedelta(days=10)
    assert min(times["test"]) - max(times["validation"]) > timedelta(days=10)
    assert task.report.outside == 20
    assert "20 rows in an embargo or outside the periods left out" in format_summary(task.report)


def test_without_a_time_of_validation_the_last_tenth_before_the_test_validates(tmp_path: Path) -> None:
    times = times_of(prepared(tmp_path, rows_of(366), {"by": "time", "test_from": "2020-11-01"}))
    assert len(times["validation"]) == round(0.1 * 305)
    assert max(times["train"]) < min(times["validation"])


def test_folds_walk_forward_to_the_end_of_the_file(tmp_path: Path) -> None:
    forward = {"folds": 3, "train": "6m", "test": "1m", "embargo": "2d"}
    folds = []
    for fold in range(3):
        folder = tmp_path / str(fold)
        folder.mkdir()
        folds.append(times_of(prepared(folder, rows_of(366), {"walk_forward": forward, "fold": fold})))
    assert [(min(fold["test"]).date().isoformat(), max(fold["test"]).date().isoformat()) for fold in folds] == [
        ("2020-10-01", "2020-10-31"),
        ("2020-11-01", "2020-11-30"),
        ("2020-12-01", "2020-12-31"),
    ]
    for fold in folds:
        assert min(fold["train"]).month == min(fold["test"]).month - 6
        assert min(fold["test"]) - max(fold["validation"]) > timedelta(days=2)


def test_text_whose_near_duplicate_came_earlier_does_not_stand_later(tmp_path: Path) -> None:
    rows = rows_of(366)
    rows[350]["text"] = rows[3]["text"].upper()  # in test, as in train
    rows[260]["text"] = rows[10]["text"]  # in validation, as in train
    rows[340]["text"] = rows[270]["text"]  # in test, as in validation
    task = prepared(tmp_path, rows, BY_TIME)
    ids = {name: set(task.splits[name]["id"]) for name in SPLITS}
    assert {"3", "10"} <= ids["train"]
    assert "270" in ids["validation"]
    assert not {"350", "260", "340"} & set.union(*ids.values())
    assert task.report.near_duplicates == {"test/train": 1, "test/validation": 1, "validation/train": 1}


def test_row_without_a_readable_time_is_rejected_with_its_line(tmp_path: Path) -> None:
    rows = rows_of(366)
    rows[4]["published"], rows[5]["published"] = "", "tomorrow"
    task = prepared(tmp_path, rows, BY_TIME)
    assert task.report.reasons == {"no time": 1, "time that cannot be read": 1}
    with (task.folder / "rejected.csv").open(encoding="utf-8") as stream:
        assert [(row["line"], row["found"]) for row in csv.DictReader(stream)] == [("6", ""), ("7", "tomorrow")]


def test_row_in_the_future_of_its_own_split_is_rejected_and_held_out_rows_stay_held_out(tmp_path: Path) -> None:
    rows = [row | {"split": "train"} for row in rows_of(366)]
    rows = [row for row in rows if row["published"] < "2020-09"] + [
        row | {"split": "validation" if row["published"] < "2020-11" else "test"}
        for row in rows
        if row["published"] >= "2020-09"
    ]
    rows[2]["split"] = "test"  # the file holds it out
    rows[250]["split"], rows[320]["split"] = "train", "validation"
    task = prepared(tmp_path, rows, BY_TIME)
    assert "2" in task.splits["test"]["id"]
    assert {reason.partition(",")[0] for reason in task.report.reasons} == {
        "a train row in the future of its split",
        "a validation row in the future of its split",
    }
    assert task.report.rejected == 2


@pytest.mark.parametrize(
    "split",
    [
        BY_TIME | {"test_from": "2021-06-01"},
        BY_TIME | {"validation_from": "2019-01-01"},
        {"walk_forward": {"folds": 20, "train": "6m", "test": "1m"}},
    ],
)
def test_side_without_rows_is_refused_with_the_times_of_the_file(tmp_path: Path, split: dict[str, Any]) -> None:
    with pytest.raises(Fault, match="from 2020-01-01 12:00 to 2020-12-31 12:00"):
        prepared(tmp_path, rows_of(366), split)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"by": "time"}, "needs test_from"),
        ({"test_from": "2020-01-01"}, "test_from is for `by: time`"),
        ({"walk_forward": {"folds": 2, "train": "1y", "test": "1m"}, "embargo": "1d"}, "write it inside walk_forward"),
        (BY_TIME | {"validation_from": "2021-01-01"}, "is not before test_from"),
        (BY_TIME | {"ratios": [8, 1, 1]}, "has no ratios"),
        (BY_TIME | {"folds": 5}, "cannot have folds"),
        (BY_TIME | {"walk_forward": {"folds": 2, "train": "1y", "test": "1m"}}, "two ways to split by time"),
        ({"walk_forward": {"folds": 2, "train": "1y", "test": "1m"}, "fold": 2}, "expected a fold from 0 to 1"),
        ({"walk_forward": {"folds": 2, "train": "1 year", "test": "1m"}}, "expected a number and h, d, w, m or y"),
    ],
)
def test_contradictory_settings_are_refused(split: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TaskSettings.model_validate({"labels": ["a", "b"], "columns": {"time": "published"}, "split": split})


def test_split_by_time_needs_the_column_of_times() -> None:
    with pytest.raises(ValidationError, match=r"needs columns\.time"):
        TaskSettings.model_validate({"labels": ["a", "b"], "split": BY_TIME})
    with pytest.raises(ValidationError, match=r"set columns\.time"):
        TaskSettings.model_validate({"labels": ["a", "b"], "time": {"zone": "Asia/Tokyo"}})


@pytest.mark.parametrize(
    "split", [{}, BY_TIME | {"embargo": "1d"}, {"walk_forward": {"folds": 2, "train": "1y", "test": "1m"}, "fold": 1}]
)
def test_settings_survive_their_own_dump(split: dict[str, Any]) -> None:
    task = TaskSettings.model_validate({"labels": ["a", "b"], "columns": {"time": "published"}, "split": split})
    assert TaskSettings.model_validate(task.model_dump(mode="json")) == task
