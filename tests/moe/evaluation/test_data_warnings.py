"""Claims about warnings of a run and a file: each kind appears, once in a run, and clean rows give none."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine, moe, workdir
from conftest import LABELS, Make, made_up_rows, write_csv

from moe.data.schema import TaskSettings
from moe.evaluation import data_warnings as module
from moe.evaluation.data_warnings import config_warnings, data_warnings, file_warnings, print_data_warnings
from moe.runs.workspace import Workspace

__all__ = ["moe", "workdir"]
TASK = TaskSettings(labels=LABELS)


def write_rows(work: Workspace, **rows: list[dict[str, Any]]) -> Workspace:
    """Write the rows of news and forum: those given, else enough clean ones."""
    for domain in ("news", "forum"):
        write_csv(work.run.data.path(f"{domain}.csv"), rows.get(domain) or made_up_rows(domain, 600))
    return work


def without_signal(domain: str) -> list[dict[str, Any]]:
    """Rows whose texts do not show the label."""
    rows = made_up_rows(domain, 600)
    texts = random.Random(0).sample([row["text"] for row in rows], len(rows))
    return [row | {"text": text} for row, text in zip(rows, texts, strict=True)]


def test_clean_rows_of_a_run_give_no_warning(make_work: Make, capsys: pytest.CaptureFixture[str]) -> None:
    work = write_rows(make_work())
    assert data_warnings(work, ["news", "forum"]) == []
    print_data_warnings(work)
    assert work.warnings == []


def test_few_validation_rows_are_warned_of_once_in_a_run(make_work: Make, capsys: pytest.CaptureFixture[str]) -> None:
    work = make_work()
    print_data_warnings(work, ["news"])
    print_data_warnings(work)
    print_data_warnings(work)
    lines = [line for line in capsys.readouterr().err.splitlines() if "is uncertain by about ±" in line]
    assert [line.split(":")[0] for line in lines] == ["news", "forum"]
    assert lines == [line for line in work.warnings if "uncertain" in line]


def test_labels_that_texts_do_not_show_are_warned_of(make_work: Make) -> None:
    (line,) = data_warnings(write_rows(make_work(), news=without_signal("news")), ["news", "forum"])
    assert line.startswith("news: TF-IDF cannot recognize the labels from the texts")


def test_texts_that_another_task_holds_out_are_warned_of_unless_they_are_removed(make_work: Make) -> None:
    forum = made_up_rows("forum", 600)
    held_out = next(row for row in made_up_rows("news", 600) if row["split"] == "test")
    forum[0] |= {"text": held_out["text"].upper(), "label": held_out["label"]}
    (line,) = data_warnings(write_rows(make_work(), forum=forum), ["news", "forum"])
    assert line.startswith("forum: 1 train rows are equal to validation or test texts of other tasks")
    assert "data.across_tasks: true" in line
    assert (
        data_warnings(write_rows(make_work("other", data={"across_tasks": True}), forum=forum), ["news", "forum"]) == []
    )


def test_test_texts_in_training_rows_are_warned_of_if_nothing_removes_them(make_work: Make) -> None:
    news = made_up_rows("news", 600)
    test_row = next(row for row in news if row["split"] == "test")
    news[0] |= {"text": test_row["text"], "label": test_row["label"]}
    (line,) = data_warnings(write_rows(make_work(), news=news), ["news", "forum"])
    assert line.startswith("news: 1 of 120 test texts are also training texts")
    assert data_warnings(write_rows(make_work("other", data={"near_duplicates": 0.99}), news=news), ["news"]) == []


def test_warnings_of_a_config_match_those_of_its_run_and_write_nothing(make_work: Make, tmp_path: Path) -> None:
    work = make_work()
    before = sorted(tmp_path.rglob("*"))
    assert config_warnings(work.run) == data_warnings(make_work("other"), ["news", "forum"])
    assert sorted(path for path in tmp_path.rglob("*") if "other" not in path.parts) == before


def test_warnings_of_a_config_leave_out_the_sample_and_large_files(
    make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = make_work(sample={"rows": 60}, domains={name: {"file": None} for name in ("news", "forum")})
    assert config_warnings(sample.run) == []
    monkeypatch.setattr(module, "MAX_CHECKED_BYTES", 10)
    assert config_warnings(make_work().run) == []


def test_warnings_of_a_config_name_rows_that_a_run_would_refuse(make_work: Make) -> None:
    rows = [row | {"label": "unknown"} for row in made_up_rows("news")]
    (line,) = config_warnings(write_rows(make_work(), news=rows).run)
    assert "'unknown' in 90 rows: see moe data inspect" in line


def test_warnings_of_a_file_need_no_settings(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "posts.csv", made_up_rows("news"))
    (line,) = file_warnings(path)
    assert line == file_warnings(path, TASK, "posts")[0]
    assert line.startswith("posts: macro-F1 of 18 validation rows is uncertain by about ± .2")


def test_warnings_of_a_clean_file_are_none(tmp_path: Path) -> None:
    assert file_warnings(write_csv(tmp_path / "posts.csv", made_up_rows("news", 600)), TASK) == []


def test_warnings_of_a_file_without_a_usable_label_are_none(tmp_path: Path) -> None:
    rows = made_up_rows("news")
    assert file_warnings(write_csv(tmp_path / "a.csv", [{"text": row["text"]} for row in rows])) == []
    assert file_warnings(write_csv(tmp_path / "b.csv", [row | {"label": row["text"]} for row in rows])) == []
    assert file_warnings(write_csv(tmp_path / "c.csv", [row | {"label": "x"} for row in rows]), TASK) == []


def test_overlap_of_a_files_own_splits_is_warned_of(tmp_path: Path) -> None:
    rows = made_up_rows("news", 600)
    test_row = next(row for row in rows if row["split"] == "test")
    rows[0] |= {"text": test_row["text"], "label": test_row["label"]}
    (line,) = file_warnings(write_csv(tmp_path / "posts.csv", rows), TASK)
    assert "the file's splits overlap; rows near a text of another split: train/test 1." in line


def test_commands_print_warnings_of_data(moe: CommandLine) -> None:
    _, out, _ = moe("check", "tiny.yaml")
    lines = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert [line.split(": macro")[0] for line in lines] == ["warning: news", "warning: forum"]
    _, out, _ = moe("check", "tiny.yaml", "--json")
    assert len(json.loads(out)["warnings"]) == 2
    _, out, _ = moe("data", "inspect", "data/news.csv", "--config", "tiny.yaml", "--domain", "news", "--json")
    assert json.loads(out)["warnings"][0].startswith("news: macro-F1 of 18 validation rows")
