"""The limit of rejects holds for each split and label, and none of them vanishes."""

from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from experts.errors import Fault
from moe.data.ingest import row_faults
from moe.data.prepare import PreparedTask, prepare_task
from moe.data.schema import Columns, DataSettings, TaskSettings
from moe.data.splitting.settings import SplitSettings

TASK = TaskSettings(labels=("negative", "neutral", "positive"))
DATA = DataSettings(near_duplicates=None)


def write_rows(path: Path, rows: list[tuple[str, str, str]], header: str = "text,label,split") -> Path:
    path.write_text(f"{header}\n" + "".join(f"{text},{label},{split}\n" for text, label, split in rows))
    return path


def rows_of(split: str, count: int, label: str | None = None) -> list[tuple[str, str, str]]:
    return [(f"{split} text {n}", label or TASK.labels[n % 3], split) for n in range(count)]


def prepare(path: Path, task: TaskSettings = TASK, data: DataSettings = DATA) -> PreparedTask:
    return prepare_task(path, task, data, "news", "news", path.parent / "out")


def sizes(prepared: PreparedTask) -> dict[str, int]:
    return {name: len(rows) for name, rows in prepared.splits.items()}


def save_restarting_ids(folder: Path) -> Path:
    parts = {
        name: Dataset.from_list(
            [{"id": n, "text": f"{name} text {n}", "label": TASK.labels[n % 3]} for n in range(count)]
        )
        for name, count in (("train", 90), ("test", 30))
    }
    DatasetDict(parts).save_to_disk(str(folder))
    return folder


@pytest.mark.parametrize(
    "task",
    [
        TASK,
        TASK.model_copy(update={"split": SplitSettings(own=False, ratios=(60, 20, 20))}),
        TASK.model_copy(update={"columns": Columns(split=None)}),
    ],
    ids=["own split", "own: false", "split: null"],
)
def test_ids_that_start_again_in_each_split_lose_no_row(tmp_path: Path, task: TaskSettings) -> None:
    prepared = prepare(save_restarting_ids(tmp_path / "d"), task)
    assert sum(sizes(prepared).values()) == 120
    if task is TASK:
        assert sizes(prepared)["test"] == 30


def test_split_without_a_valid_row_stops_the_run_whatever_the_limit(tmp_path: Path) -> None:
    rows = [*rows_of("train", 990), *((text, "", split) for text, _, split in rows_of("test", 10))]
    path = write_rows(tmp_path / "a.csv", rows)
    with pytest.raises(Fault, match=r"valid rows of split test .*all 10 are rejected: no label and no score \(10\)"):
        prepare(path, data=DATA.model_copy(update={"max_rejected": 1.0}))
    without = TASK.model_copy(update={"only": {"split": ("train",)}})
    assert sizes(prepare(path, without))["test"] == 0


def test_limit_of_rejects_holds_for_each_split(tmp_path: Path) -> None:
    rows = [*rows_of("train", 900), *rows_of("test", 40), *((" ", "neutral", "test") for _ in range(10))]
    with pytest.raises(
        Fault, match=r"at most 5\.0% rejected rows of split test .*20\.0%, 10 of 50: missing text \(10\)"
    ):
        prepare(write_rows(tmp_path / "a.csv", rows))


def test_limit_of_rejects_holds_for_each_label(tmp_path: Path) -> None:
    rows = [*rows_of("train", 900), *((" ", "neutral", "train") for _ in range(30))]
    with pytest.raises(Fault, match=r"at most 5\.0% rejected rows of label neutral .*9\.1%, 30 of 330"):
        prepare(write_rows(tmp_path / "a.csv", rows))


def test_two_rejects_of_a_small_split_are_slips(tmp_path: Path) -> None:
    rows = [*rows_of("train", 90), *rows_of("test", 10), *((" ", "neutral", "test") for _ in range(2))]
    assert sizes(prepare(write_rows(tmp_path / "a.csv", rows)))["test"] == 10


def test_label_without_a_valid_row_stops_the_run(tmp_path: Path) -> None:
    rows = [*rows_of("train", 300, "negative"), *((" ", "positive", "train") for _ in range(2))]
    with pytest.raises(Fault, match=r"valid rows of label positive .*all 2 are rejected"):
        prepare(write_rows(tmp_path / "a.csv", rows))


def test_label_of_one_split_that_vanishes_stops_the_run(tmp_path: Path) -> None:
    rows = [*rows_of("train", 300), *rows_of("test", 90, "negative"), *((" ", "positive", "test") for _ in range(4))]
    with pytest.raises(Fault, match=r"valid rows of label positive in split test"):
        prepare(write_rows(tmp_path / "a.csv", rows))


def test_unknown_label_of_five_rows_stops_the_run_with_the_nearest_label(tmp_path: Path) -> None:
    rows = [*rows_of("train", 300), *((f"more {n}", "Positive", "train") for n in range(5))]
    path = write_rows(tmp_path / "a.csv", rows)
    with pytest.raises(Fault, match=r"label Positive .*label_map: \{'Positive': positive\}"):
        prepare(path)
    only = TASK.model_copy(update={"only": {"label": TASK.labels}})
    assert sum(sizes(prepare(path, only)).values()) == 300
    assert sum(sizes(prepare(write_rows(path, rows[:-1]))).values()) == 300


def test_unknown_split_of_five_rows_stops_the_run_with_the_nearest_split(tmp_path: Path) -> None:
    rows = [*rows_of("train", 300), *rows_of("tset", 5)]
    with pytest.raises(Fault, match=r"split tset .*unknown split \(5\)\. Did you mean test for 'tset'\?"):
        prepare(write_rows(tmp_path / "a.csv", rows))


def test_split_whose_texts_another_split_holds_out_stops_the_run(tmp_path: Path) -> None:
    copies = [
        (f"the firm number {n} is up", label, split) for n, (_, label, split) in enumerate(rows_of("validation", 9))
    ]
    rows = [*rows_of("train", 90), *copies, *((text, label, "test") for text, label, _ in copies)]
    path = write_rows(tmp_path / "a.csv", rows)
    with pytest.raises(Fault, match=r"rows of split validation .*all 9 are near duplicates of held-out rows"):
        prepare(path, data=DataSettings())
    assert sizes(prepare(path))["validation"] == 9


def test_scores_out_of_range_name_the_setting_that_ignores_them(tmp_path: Path) -> None:
    rows = [(text, label, "97.5") for text, label, _ in rows_of("train", 60)]
    with pytest.raises(Fault, match=r"score outside \[-1, 1\] \(60\)\. .*`columns: \{score: null\}`"):
        prepare(write_rows(tmp_path / "a.csv", rows, "text,label,score"))


def test_row_faults_finds_what_a_run_would_stop_for_and_writes_nothing(tmp_path: Path) -> None:
    rows = [(text, label, "0.9") for text, label, _ in rows_of("train", 60)]
    path = write_rows(tmp_path / "a.csv", rows, "text,label,score")
    (fault,) = row_faults(path, TASK, DATA, "`moe data inspect`", 1000)
    assert "columns: {score: null}" in str(fault)
    ignored = TASK.model_copy(update={"columns": Columns(score=None)})
    assert row_faults(path, ignored, DATA, "`moe data inspect`", 1000) == []
    assert {file.name for file in tmp_path.iterdir()} == {"a.csv"}
    vanished = write_rows(tmp_path / "b.csv", [*rows_of("train", 300), *rows_of("holdout", 5)])
    (fault,) = row_faults(vanished, TASK, DATA, "`moe data inspect`", 1000)
    assert "split holdout" in str(fault)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("labels", [[0, 1], [0.0, 1.0]])
def test_numeric_labels_are_alike_in_every_format(tmp_path: Path, kind: str, labels: list[float]) -> None:
    table = Dataset.from_list([{"text": f"text {n}", "label": labels[n % 2]} for n in range(20)])
    path = tmp_path / f"a.{kind}"
    {"csv": table.to_csv, "jsonl": table.to_json, "parquet": table.to_parquet}[kind](str(path))
    report = prepare(path, TaskSettings(labels=("0", "1"), split=SplitSettings(ratios=(1, 0, 0)))).report
    assert report.splits["train"].labels == {"0": 10, "1": 10}
