"""A file becomes three splits on disk, its bad rows a file of their own; the same file is not done again."""

import csv
from pathlib import Path

import pytest
from datasets import Dataset, are_progress_bars_disabled

from experts.errors import Fault
from moe.data.prepare import PreparedTask, format_summary, prepare_task
from moe.data.schema import DataSettings, SplitSettings, TaskSettings

TASK = TaskSettings(labels=("negative", "neutral", "positive"), split=SplitSettings(ratios=(60, 20, 20)))
HEADER = "id,text,label,score,domain,lang,split\n"


def table(path: Path, rows: int = 100, extra: str = "") -> Path:
    lines = (f"r{n},company {n} reports result {n * 37},{TASK.labels[n % 3]},0.5,forum,en,\n" for n in range(rows))
    path.write_text(HEADER + "".join(lines) + extra)
    return path


def prepare(path: Path, task: TaskSettings = TASK, **data: object) -> PreparedTask:
    return prepare_task(path, task, DataSettings.model_validate(data), "news", "fpb", path.parent / "out")


def rejected(path: Path) -> list[dict[str, str]]:
    with (path.parent / "out" / "rejected.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_rows_are_split_and_carry_the_domain_of_the_config(tmp_path: Path):
    found = prepare(table(tmp_path / "a.csv"))
    assert {name: len(rows) for name, rows in found.splits.items()} == {"train": 60, "validation": 20, "test": 20}
    first = found.splits["train"][0]
    assert set(first) == {
        "id",
        "text",
        "label",
        "score",
        "lang",
        "line",
        "task",
        "domain",
        "origin",
        "prompt",
        "answer",
        "choices",
    }
    assert (first["domain"], first["task"], first["lang"], first["score"]) == ("news", "fpb", "en", 0.5)
    assert first["origin"] == "original"
    assert first["line"] == int(first["id"][1:]) + 2
    assert sum(found.report["splits"]["train"]["labels"].values()) == 60


def test_missing_labels_are_minus_one_and_missing_scores_null(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a b c", "score": 0.5}\n{"text": "d e f", "label": "neutral"}\n')
    rows = [row for part in prepare(path).splits.values() for row in part]
    assert sorted((row["label"], row["score"]) for row in rows) == [(-1, 0.5), (1, None)]


def test_bad_rows_go_to_a_file_with_line_and_reason_and_the_rest_stays(tmp_path: Path):
    bad = "x1,,positive,,,,\nx2,a text,bullish,,,,\nr1,other,positive,,,,\n"
    same = "r2,company 2 reports result 74,positive,0.5,,,\n"
    path = table(tmp_path / "a.csv", extra=bad + same)
    report = prepare(path).report
    assert [(row["line"], row["id"], row["reason"], row["found"]) for row in rejected(path)] == [
        ("102", "x1", "missing text", ""),
        ("103", "x2", "unknown label", "bullish"),
        ("104", "r1", "repeated id with other content", "r1"),
    ]
    assert (report["rows"], report["rejected"], report["duplicates"]) == (100, 3, 1)
    assert "3 rejected (1 missing text" in format_summary(report)


def test_too_many_bad_rows_stop_the_run_after_the_rejects_are_written(tmp_path: Path):
    path = table(tmp_path / "a.csv", extra="x,,positive,,,,\n" * 4 + "y,text,positive,7,,,\n" * 3)
    with pytest.raises(Fault, match=r"at most 5\.0%.*7 of 107: missing text \(4\), score outside \[-1, 1\] \(3\)"):
        prepare(path)
    assert len(rejected(path)) == 7
    assert not (tmp_path / "out" / "prepared.json").exists()
    assert prepare(path, max_rejected=0.1).report["rejected"] == 7


def test_labels_that_fit_no_map_are_named_with_those_allowed(tmp_path: Path):
    path = table(tmp_path / "a.csv")
    with pytest.raises(Fault, match=r"among up, down; found 'negative', 'neutral', 'positive' in 100 rows.*label_map"):
        prepare(path, TaskSettings(labels=("up", "down")))


def test_a_file_whose_rows_only_passes_over_is_a_fault(tmp_path: Path):
    with pytest.raises(Fault, match="`only` lets pass"):
        prepare(table(tmp_path / "a.csv"), TASK.model_copy(update={"only": {"domain": ("macro",)}}))


def test_no_text_is_on_two_sides_and_near_ones_are_counted(tmp_path: Path):
    rows = [
        ("train", "Oil falls on supply"),
        ("train", "gold up"),
        ("train", "the rest"),
        ("test", "oil falls, on supply"),
    ]
    path = tmp_path / "a.csv"
    path.write_text("text,label,split\n" + "".join(f'"{text}",neutral,{part}\n' for part, text in rows))
    found = prepare(path)
    assert found.report["near_duplicates"] == {"train/test": 1, "train/validation": 0, "validation/test": 0}
    assert found.splits["test"]["text"][:] == ["oil falls, on supply"]
    assert len(found.splits["train"]) == 2
    assert len(prepare(path, near_duplicates=None).splits["train"]) == 3


def test_training_rows_are_capped_by_label_and_the_same_each_time(tmp_path: Path):
    path = table(tmp_path / "a.csv", rows=300)
    capped = TASK.model_copy(update={"max_train_rows": 30})
    report = prepare(path, capped).report
    assert report["splits"]["train"] == {"rows": 30, "labels": {"negative": 10, "neutral": 10, "positive": 10}}
    assert report["over_cap"] == 150


def test_validation_rows_are_capped_by_label_and_test_rows_never(tmp_path: Path):
    path = table(tmp_path / "a.csv", rows=300)
    free, capped = (
        prepare(path, TASK.model_copy(update={"max_validation_rows": cap})).report["splits"] for cap in (None, 9)
    )
    assert capped["validation"] == {"rows": 9, "labels": {"negative": 3, "neutral": 3, "positive": 3}}
    assert (capped["train"], capped["test"]) == (free["train"], free["test"])


def test_the_same_file_and_settings_are_loaded_and_a_change_of_either_prepares_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = table(tmp_path / "a.csv")
    first = prepare(path)

    def never(*_: object) -> None:
        raise AssertionError

    with monkeypatch.context() as closed:
        closed.setattr("moe.data.prepare.collect", never)
        again = prepare(path)
        with pytest.raises(AssertionError):
            prepare(path, near_duplicates=0.9)
    assert again.report == first.report
    assert again.splits["train"][:] == first.splits["train"][:]
    assert prepare(table(path, rows=50)).report["rows"] == 50


def test_a_damaged_preparation_is_done_again(tmp_path: Path):
    path = table(tmp_path / "a.csv")
    prepare(path)
    for file in (tmp_path / "out" / "rows" / "train").glob("*.arrow"):
        file.unlink()
    assert len(prepare(path).splits["train"]) == 60


def test_an_empty_split_has_the_same_columns(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("text,label,split\nup,positive,test\n")
    found = prepare(path)
    assert found.splits["train"].column_names == found.splits["test"].column_names
    assert len(found.splits["train"]) == 0


def test_a_dataset_folder_is_prepared_like_a_file(tmp_path: Path):
    Dataset.from_list([{"text": f"text {n}", "label": "neutral"} for n in range(10)]).save_to_disk(str(tmp_path / "d"))
    assert prepare(tmp_path / "d").report["rows"] == 10


def test_chinese_labels_and_texts_pass_through(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n公司净利润大涨,利好\n股价大跌,利空\n")
    task = TaskSettings(labels=TASK.labels, label_map={"利好": "positive", "利空": "negative"})
    rows = [row for part in prepare(path, task).splits.values() for row in part]
    assert {(row["text"], row["label"]) for row in rows} == {("公司净利润大涨", 2), ("股价大跌", 0)}


def test_nothing_but_the_three_results_is_left_behind(tmp_path: Path):
    prepare(table(tmp_path / "a.csv"))
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"rows", "rejected.csv", "prepared.json"}
    assert not are_progress_bars_disabled()


def test_a_missing_file_and_an_unwritable_folder_are_faults(tmp_path: Path):
    with pytest.raises(Fault, match="nothing there"):
        prepare(tmp_path / "no.csv")
    path = table(tmp_path / "a.csv")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(Fault, match="can be written"):
        prepare(path)
