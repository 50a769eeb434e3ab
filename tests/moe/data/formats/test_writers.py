"""Writers choose the format by the file's ending, and leave a complete file or none."""

import csv
import io
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from full_disk import file_size_limit

from experts.errors import Fault
from moe.data.formats.writers import open_writer

ROWS = [
    {"id": "a", "error": "missing text"},
    {"id": "b", "label": "up", "probabilities": {"up": 0.9, "down": 0.1}, "tags": ["x", "利"]},
    {"id": "c", "label": "flat", "probabilities": {"flat": 1.0}, "text": 'a "quoted"\nline'},
]


def write(path: Path, rows: list[dict[str, object]] = ROWS, **options: list[str]) -> Path:
    with open_writer(path, **options) as writer:
        for row in rows:
            writer.write(row)
    return path


def test_jsonl_writer_leaves_rows_unchanged(tmp_path: Path) -> None:
    assert [json.loads(line) for line in write(tmp_path / "out.jsonl").read_text().splitlines()] == ROWS


def test_csv_writer_has_the_columns_of_all_rows_and_flattens_mappings(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(write(tmp_path / "out.csv").read_bytes().decode())))
    assert rows[0] == dict.fromkeys(rows[0], "") | {"id": "a", "error": "missing text"}
    assert (rows[1]["probabilities.up"], rows[2]["probabilities.flat"]) == ("0.9", "1.0")
    assert rows[1]["tags"] == '["x", "利"]'
    assert rows[2]["text"] == 'a "quoted"\nline'


def test_parquet_writer_stores_mappings_as_structs(tmp_path: Path) -> None:
    rows = pq.read_table(write(tmp_path / "out.parquet")).to_pylist()
    assert rows[1]["probabilities"] == {"up": 0.9, "down": 0.1, "flat": None}
    assert (rows[0]["label"], rows[0]["probabilities"]) == (None, None)


def test_parquet_writer_accepts_columns_that_start_empty_and_many_batches(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"n": n, "late": None if n < 3000 else 0.5, "empty": {}} for n in range(4000)]
    table = pq.read_table(write(tmp_path / "out.parquet", rows))
    assert table.num_rows == 4000
    assert table["late"][3999].as_py() == 0.5


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_writer_puts_named_columns_first_even_without_rows(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"out.{ending}", [], columns=["id", "error"])
    names = path.read_text().strip().split(",") if ending == "csv" else pq.read_schema(path).names
    assert names == ["id", "error"]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_writer_leaves_the_old_file_after_a_failure(tmp_path: Path, ending: str) -> None:
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


def test_writer_refuses_an_unknown_ending_before_writing(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"ending in \.csv, \.jsonl, \.parquet"):
        write(tmp_path / "sub" / "out.xlsx")
    assert not list(tmp_path.iterdir())


def test_writer_refuses_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    for path in (tmp_path / "file" / "out.csv", tmp_path / "folder.csv"):
        with pytest.raises(Fault, match="can be written"):
            write(path)


def test_parquet_writer_refuses_a_column_of_two_types(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="one type in each Parquet column"):
        write(tmp_path / "out.parquet", [{"score": 1}, {"score": "high"}])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "＝1", "=cmd|' /C calc'!A0"])
def test_csv_writer_escapes_formulas_if_requested(tmp_path: Path, text: str) -> None:
    row = {"text": text, "score": -0.5, text: "a"}
    for name, spreadsheet in (("plain", False), ("sheet", True)):
        with open_writer(tmp_path / f"{name}.csv", spreadsheet=spreadsheet) as writer:
            writer.write(row)
    files = {
        name: list(csv.reader(io.StringIO((tmp_path / f"{name}.csv").read_bytes().decode())))
        for name in ("plain", "sheet")
    }
    assert files["plain"] == [["text", "score", text], [text, "-0.5", "a"]]
    assert files["sheet"] == [["text", "score", f"'{text}"], [f"'{text}", "-0.5", "a"]]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("size", [0, 5, 20_000])
def test_full_disk_is_a_fault_and_leaves_no_file(tmp_path: Path, ending: str, size: int) -> None:
    path = tmp_path / f"rows.{ending}"

    def write(count: int) -> None:
        with open_writer(path) as writer:
            for number in range(count):
                writer.write({"text": f"profit rose {number}", "label": "positive"})

    with file_size_limit(size), pytest.raises(Fault, match="free disk space"):
        write(3 if size < 100 else 3000)  # three rows stay in the buffer until the file is closed
    assert not list(tmp_path.iterdir())
    write(3)
    before = path.read_bytes()
    with file_size_limit(size), pytest.raises(Fault, match="free disk space"):
        write(3 if size < 100 else 3000)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_disk_that_fills_up_at_the_last_moment_is_a_fault(tmp_path: Path, ending: str) -> None:
    with file_size_limit(40), pytest.raises(Fault, match="free disk space"):  # the row fits, but not the finished file
        write(tmp_path / f"rows.{ending}", [{"text": "profit rose"}], columns=["a" * 60])
    assert not list(tmp_path.iterdir())


def test_folder_that_is_removed_while_rows_are_written_is_a_fault(tmp_path: Path) -> None:
    def write_and_remove() -> None:
        with open_writer(tmp_path / "out" / "rows.csv") as writer:
            writer.write({"text": "profit rose"})
            shutil.rmtree(tmp_path / "out")

    with pytest.raises(Fault, match="No such file"):
        write_and_remove()
