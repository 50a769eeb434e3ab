"""Rows go out by the file's ending, whole or not at all."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from experts.errors import Fault
from moe.data.writers import open_writer

ROWS = [
    {"id": "a", "error": "missing text"},
    {"id": "b", "label": "up", "probabilities": {"up": 0.9, "down": 0.1}, "tags": ["x", "利"]},
    {"id": "c", "label": "flat", "probabilities": {"flat": 1.0}, "text": 'a "quoted"\nline'},
]


def wrote(path: Path, rows: list[dict[str, object]] = ROWS, **options: list[str]) -> Path:
    with open_writer(path, **options) as writer:
        for row in rows:
            writer.write(row)
    return path


def test_jsonl_keeps_rows_as_they_are(tmp_path: Path):
    assert [json.loads(line) for line in wrote(tmp_path / "out.jsonl").read_text().splitlines()] == ROWS


def test_csv_has_every_rows_columns_and_opens_mappings(tmp_path: Path):
    rows = list(csv.DictReader(wrote(tmp_path / "out.csv").open(newline="")))
    assert rows[0] == dict.fromkeys(rows[0], "") | {"id": "a", "error": "missing text"}
    assert (rows[1]["probabilities.up"], rows[2]["probabilities.flat"]) == ("0.9", "1.0")
    assert rows[1]["tags"] == '["x", "利"]'
    assert rows[2]["text"] == 'a "quoted"\nline'


def test_parquet_keeps_mappings_whole(tmp_path: Path):
    rows = pq.read_table(wrote(tmp_path / "out.parquet")).to_pylist()
    assert rows[1]["probabilities"] == {"up": 0.9, "down": 0.1, "flat": None}
    assert (rows[0]["label"], rows[0]["probabilities"]) == (None, None)


def test_parquet_takes_columns_that_begin_empty_and_many_batches(tmp_path: Path):
    rows: list[dict[str, object]] = [{"n": n, "late": None if n < 3000 else 0.5, "empty": {}} for n in range(4000)]
    table = pq.read_table(wrote(tmp_path / "out.parquet", rows))
    assert table.num_rows == 4000
    assert table["late"][3999].as_py() == 0.5


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_named_columns_come_first_and_are_there_without_rows(tmp_path: Path, ending: str):
    path = wrote(tmp_path / f"out.{ending}", [], columns=["id", "error"])
    names = path.read_text().strip().split(",") if ending == "csv" else pq.read_schema(path).names
    assert names == ["id", "error"]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path, ending: str):
    path = tmp_path / f"out.{ending}"
    path.write_text("old")

    def fail() -> None:
        with open_writer(path) as writer:
            writer.write({"id": "a"})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "old"


def test_an_unknown_ending_is_a_fault_before_anything_is_written(tmp_path: Path):
    with pytest.raises(Fault, match=r"ending in \.csv, \.jsonl, \.parquet"):
        wrote(tmp_path / "sub" / "out.xlsx")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_a_fault(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    for path in (tmp_path / "file" / "out.csv", tmp_path / "folder.csv"):
        with pytest.raises(Fault, match="can be written"):
            wrote(path)


def test_a_column_of_two_kinds_is_a_fault_in_parquet_and_leaves_nothing(tmp_path: Path):
    with pytest.raises(Fault, match="one kind each"):
        wrote(tmp_path / "out.parquet", [{"score": 1}, {"score": "high"}])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "＝1", "=cmd|' /C calc'!A0"])
def test_texts_that_a_spreadsheet_would_run_are_escaped_where_that_is_asked_for(tmp_path: Path, text: str) -> None:
    row = {"text": text, "score": -0.5, text: "a"}
    for name, spreadsheet in (("plain", False), ("sheet", True)):
        with open_writer(tmp_path / f"{name}.csv", spreadsheet=spreadsheet) as writer:
            writer.write(row)
    found = {
        name: list(csv.reader((tmp_path / f"{name}.csv").open(encoding="utf-8", newline="")))
        for name in ("plain", "sheet")
    }
    assert found["plain"] == [["text", "score", text], [text, "-0.5", "a"]]
    assert found["sheet"] == [["text", "score", f"'{text}"], [f"'{text}", "-0.5", "a"]]
