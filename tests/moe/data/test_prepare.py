"""A file is prepared as three splits on disk and a file of rejected rows; an unchanged file is not prepared twice."""

import csv
from pathlib import Path

import pytest
from datasets import Dataset, are_progress_bars_disabled

from experts.errors import Fault
from moe.data.prepare import PreparedTask, format_summary, prepare_task
from moe.data.schema import DataSettings, TaskSettings
from moe.data.splitting.settings import SplitSettings
from moe.data.task_reports import SplitSize

TASK = TaskSettings(labels=("negative", "neutral", "positive"), split=SplitSettings(ratios=(60, 20, 20)))
HEADER = "id,text,label,score,domain,lang,split\n"


def table(path: Path, rows: int = 100, extra: str = "") -> Path:
    lines = (
        f"r{n},company {n} reports result {n * 37},{TASK.labels[n % 3]},{n % 3 / 2 - 0.5},forum,en,\n"
        for n in range(rows)
    )
    path.write_text(HEADER + "".join(lines) + extra)
    return path


def prepare(path: Path, task: TaskSettings = TASK, **data: object) -> PreparedTask:
    return prepare_task(path, task, DataSettings.model_validate(data), "news", "fpb", path.parent / "out")


def rejected(path: Path) -> list[dict[str, str]]:
    with (path.parent / "out" / "rejected.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_prepare_splits_rows_and_sets_the_config_s_domain(tmp_path: Path) -> None:
    prepared = prepare(table(tmp_path / "a.csv"))
    assert {name: len(rows) for name, rows in prepared.splits.items()} == {"train": 60, "validation": 20, "test": 20}
    first = prepared.splits["train"][0]
    assert set(first) == {
        "id",
        "text",
        "label",
        "score",
        "lang",
        "line",
        "target",
        "task",
        "domain",
        "origin",
        "prompt",
        "answer",
        "choices",
        "time",
    }
    assert (first["domain"], first["task"], first["lang"]) == ("news", "fpb", "en")
    assert first["score"] == first["label"] / 2 - 0.5
    assert first["origin"] == "original"
    assert first["line"] == int(first["id"][1:]) + 2
    assert sum(prepared.report.splits["train"].labels.values()) == 60


def test_prepared_rows_of_the_same_file_and_settings_have_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        rows = prepare(table(tmp_path / name / "a.csv")).folder / "rows"
        contents.append({p.relative_to(rows): p.read_bytes() for p in rows.rglob("*") if p.is_file()})
    assert contents[0] == contents[1]


def test_prepare_stores_missing_labels_as_minus_one_and_missing_scores_as_null(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a b c", "score": 0.5}\n{"text": "d e f", "label": "neutral"}\n')
    rows = [row for split in prepare(path).splits.values() for row in split]
    assert sorted((row["label"], row["score"]) for row in rows) == [(-1, 0.5), (1, None)]


def test_prepare_writes_rejects_with_line_and_reason_and_retains_the_rest(tmp_path: Path) -> None:
    invalid = "x1,,positive,,,,\nx2,a text,bullish,,,,\nr1,other,positive,,,,\n"
    duplicate = "r2,company 2 reports result 74,positive,0.5,,,\n"
    path = table(tmp_path / "a.csv", extra=invalid + duplicate)
    report = prepare(path).report
    assert [(row["line"], row["id"], row["reason"], row["found"]) for row in rejected(path)] == [
        ("102", "x1", "missing text", ""),
        ("103", "x2", "unknown label", "bullish"),
        ("104", "r1", "repeated id with different content", "r1"),
    ]
    assert (report.rows, report.rejected, report.duplicates) == (100, 3, 1)
    assert "3 rejected (1 missing text" in format_summary(report)


def test_prepare_refuses_too_many_rejects_after_writing_them(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", extra="x,,positive,,,,\n" * 4 + "y,text,positive,7,,,\n" * 3)
    with pytest.raises(Fault, match=r"at most 5\.0%.*7 of 107: missing text \(4\), score outside \[-1, 1\] \(3\)"):
        prepare(path)
    assert len(rejected(path)) == 7
    assert not (tmp_path / "out" / "prepared.json").exists()
    assert prepare(path, max_rejected=0.2).report.rejected == 7


def test_prepare_names_unknown_labels_and_the_allowed_ones(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv")
    with pytest.raises(
        Fault, match=r"among up, down in .*; found 'negative', 'neutral', 'positive' in 100 rows.*label_map"
    ):
        prepare(path, TaskSettings(labels=("up", "down")))


def test_prepare_refuses_a_file_without_rows_that_pass_only(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="that pass `only`"):
        prepare(table(tmp_path / "a.csv"), TASK.model_copy(update={"only": {"domain": ("macro",)}}))


def test_prepare_removes_near_duplicates_across_splits_and_counts_them(tmp_path: Path) -> None:
    rows = [
        ("train", "Oil falls on supply"),
        ("train", "gold up"),
        ("train", "the rest"),
        ("test", "oil falls, on supply"),
    ]
    path = tmp_path / "a.csv"
    path.write_text("text,label,split\n" + "".join(f'"{text}",neutral,{split}\n' for split, text in rows))
    prepared = prepare(path)
    assert prepared.report.near_duplicates == {"train/test": 1, "train/validation": 0, "validation/test": 0}
    assert prepared.splits["test"]["text"][:] == ["oil falls, on supply"]
    assert len(prepared.splits["train"]) == 2
    assert len(prepare(path, near_duplicates=None).splits["train"]) == 3


def test_prepare_caps_training_rows_by_label(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", rows=300)
    capped = TASK.model_copy(update={"max_train_rows": 30})
    report = prepare(path, capped).report
    assert report.splits["train"] == SplitSize(30, {"negative": 10, "neutral": 10, "positive": 10})
    assert report.over_cap == 150


def test_prepare_caps_validation_rows_by_label_and_test_rows_never(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", rows=300)
    uncapped, capped = (
        prepare(path, TASK.model_copy(update={"max_validation_rows": cap})).report.splits for cap in (None, 9)
    )
    assert capped["validation"] == SplitSize(9, {"negative": 3, "neutral": 3, "positive": 3})
    assert (capped["train"], capped["test"]) == (uncapped["train"], uncapped["test"])


def test_prepare_reuses_rows_until_file_or_settings_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path / "a.csv")
    first = prepare(path)

    def never(*_: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr("moe.data.prepare.ingest_rows", never)
        again = prepare(path)
        with pytest.raises(AssertionError):
            prepare(path, near_duplicates=0.9)
    assert again.report == first.report
    assert again.splits["train"][:] == first.splits["train"][:]
    assert prepare(table(path, rows=50)).report.rows == 50


def test_prepare_repeats_a_damaged_preparation(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv")
    prepare(path)
    for file in (tmp_path / "out" / "rows" / "train").glob("*.arrow"):
        file.unlink()
    assert len(prepare(path).splits["train"]) == 60


def test_prepare_gives_an_empty_split_the_same_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label,split\nup,positive,test\n")
    splits = prepare(path).splits
    assert splits["train"].column_names == splits["test"].column_names
    assert len(splits["train"]) == 0


def test_prepare_accepts_a_dataset_folder(tmp_path: Path) -> None:
    Dataset.from_list([{"text": f"text {n}", "label": "neutral"} for n in range(10)]).save_to_disk(str(tmp_path / "d"))
    assert prepare(tmp_path / "d").report.rows == 10


def test_prepare_maps_chinese_labels_and_leaves_texts_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n公司净利润大涨,利好\n股价大跌,利空\n")
    task = TaskSettings(labels=TASK.labels, label_map={"利好": "positive", "利空": "negative"})
    rows = [row for split in prepare(path, task).splits.values() for row in split]
    assert {(row["text"], row["label"]) for row in rows} == {("公司净利润大涨", 2), ("股价大跌", 0)}


def test_prepare_leaves_nothing_but_its_three_results(tmp_path: Path) -> None:
    prepare(table(tmp_path / "a.csv"))
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"rows", "rejected.csv", "prepared.json"}
    assert not are_progress_bars_disabled()


def test_prepare_refuses_a_missing_file_and_an_unwritable_folder(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="nothing there"):
        prepare(tmp_path / "no.csv")
    path = table(tmp_path / "a.csv")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(Fault, match="can be written"):
        prepare(path)
