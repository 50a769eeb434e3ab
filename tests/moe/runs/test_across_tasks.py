"""Tasks of one run that share texts: no text is in train of one task and held out by another."""

from pathlib import Path
from typing import Any

import pytest
from conftest import LABELS, Make, entity_rows, entity_tasks, write_csv

from moe.data.prepare import PreparedTask
from moe.data.task_reports import ACROSS_TASKS, read_task_report
from moe.runs.workspace import Workspace

WHOLE = {"file": "whole.csv", "labels": list(LABELS), "split": {"ratios": [60, 20, 20], "seed": 5}}


def shared_work(make_work: Make, tmp_path: Path, **over: Any) -> Workspace:
    """A run whose two tasks read the same texts, with different random splits."""
    rows = entity_rows("news")
    texts = dict.fromkeys(row["text"] for row in rows)
    write_csv(tmp_path / "data" / "whole.csv", [{"text": text, "label": "neutral"} for text in texts])
    tasks = entity_tasks()
    tasks["news"]["tasks"]["news"] = WHOLE | over.pop("whole", {})
    tasks["news"]["tasks"]["entities"]["split"] |= over.pop("split", {})
    data = {"folder": str(tmp_path / "data"), "near_duplicates": 0.85} | over
    return make_work(domains=tasks, data=data)


def leaks(work: Workspace, first: str, second: str) -> set[str]:
    """Texts in a split of one task and a more held-out split of another."""
    tasks = work.prepared("news").values()
    return {
        text
        for task in tasks
        for other in tasks
        if other is not task
        for text in set(task.splits[first]["text"]) & set(other.splits[second]["text"])
    }


def rows(prepared: dict[str, PreparedTask], split: str) -> int:
    return sum(len(task.splits[split]) for task in prepared.values())


@pytest.mark.parametrize("near", [0.85, None])
def test_texts_held_out_by_one_task_are_trained_on_by_no_other(
    make_work: Make, tmp_path: Path, near: float | None
) -> None:
    work = shared_work(make_work, tmp_path, near_duplicates=near)
    for pair in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not leaks(work, *pair), pair
    free = shared_work(make_work, tmp_path, near_duplicates=near, across_tasks=False)
    assert leaks(free, "train", "test"), "then the claim above proves nothing"
    assert rows(work.prepared("news"), "test") == rows(free.prepared("news"), "test"), "test rows were removed"


def test_near_texts_of_other_tasks_are_removed_too(make_work: Make, tmp_path: Path) -> None:
    work = shared_work(make_work, tmp_path)
    path = tmp_path / "data" / "whole.csv"
    path.write_text(path.read_text().replace(",neutral", " !,neutral"))
    entities = {
        text for split in ("validation", "test") for text in work.prepared("news")["entities"].splits[split]["text"]
    }
    train = {text.removesuffix(" !") for text in work.prepared("news")["news"].splits["train"]["text"]}
    assert train
    assert not train & entities


def test_splits_by_text_lose_no_row(make_work: Make, tmp_path: Path) -> None:
    by_text = {"ratios": [60, 20, 20], "by_text": True, "seed": 3}
    work = shared_work(make_work, tmp_path, whole={"split": by_text}, split=by_text)
    assert not leaks(work, "train", "test")
    for task in work.prepared("news").values():
        assert task.report.other_tasks == {"train": 0, "validation": 0}


def test_removal_is_counted_and_reused(make_work: Make, tmp_path: Path) -> None:
    work = shared_work(make_work, tmp_path)
    first = work.prepared("news")
    removed = [task.report.other_tasks for task in first.values()]
    assert sum(count["train"] for count in removed) > 0
    for name, task in first.items():
        report = read_task_report(task.folder)
        assert report == task.report
        for split, rows in task.splits.items():
            assert report.splits[split].rows == len(rows), (name, split)
            assert sum(report.splits[split].labels.values()) == len(rows)
    file = work.out / "data" / ACROSS_TASKS
    before = file.stat().st_mtime_ns
    again = Workspace(work.run, work.out).prepared("news")
    assert file.stat().st_mtime_ns == before
    assert {name: task.splits["train"]["id"][:] for name, task in again.items()} == {
        name: task.splits["train"]["id"][:] for name, task in first.items()
    }


def test_a_broken_cache_is_computed_again(make_work: Make, tmp_path: Path) -> None:
    work = shared_work(make_work, tmp_path)
    work.prepared("news")
    for content in ("", "[]", '{"key": 1}'):
        (work.out / "data" / ACROSS_TASKS).write_text(content)
        fresh = Workspace(work.run, work.out)
        assert not leaks(fresh, "train", "test")


def test_runs_without_targets_are_left_alone(make_work: Make) -> None:
    work = make_work()
    assert not work.run.removes_across_tasks
    work.rows("train")
    assert not (work.out / "data" / ACROSS_TASKS).exists()
