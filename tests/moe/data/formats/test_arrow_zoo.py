"""Every Arrow type: in a column that is not needed it does not matter, in a needed one it is a value or an error."""

import json
import warnings
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest
from arrow_zoo import ROWS, ZOO, write_parquet, write_saved_dataset

from moe.data.formats.readers import read_records, read_texts
from moe.data.formats.writers import open_writer
from moe.data.profile import inspect_file
from moe.data.schema import Columns, Record, Row, TaskSettings
from moe.data.text_checks import string_or_none
from moe.data.validation import validate_records
from moe.drift.timeline import read_dated_texts
from moe.inference.text_io import TextSource

WRITERS = {"zoo.parquet": write_parquet, "zoo": write_saved_dataset}
TEXTS = pa.array(["profit rose", "bags fell", "rates held"])
FIELDS = ("id", "label", "score", "lang", "split", "domain", "target")


@pytest.fixture(params=[(kind, name) for kind in ZOO for name in WRITERS], ids=lambda case: "-".join(case))
def column(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, pa.Array]:
    """A file with texts and the column `odd` of one type."""
    kind, name = request.param
    array = ZOO[kind]()
    path = tmp_path / name
    if not WRITERS[name](path, {"text": TEXTS, "odd": array}):
        pytest.skip("this format cannot hold this type")
    return path, array


def write(path: Path, columns: dict[str, pa.Array]) -> None:
    assert WRITERS[path.name](path, columns)


def test_column_that_is_not_needed_is_not_read(column: tuple[Path, pa.Array]) -> None:
    path, _ = column
    assert [(r.values, r.error) for r in read_records(path)] == [
        ({"id": f"line-{n}", "text": text}, None) for n, text in enumerate(TEXTS.to_pylist(), start=1)
    ]
    assert inspect_file(path).rows == ROWS


def test_needed_column_gives_a_value_or_an_error_with_its_row(column: tuple[Path, pa.Array]) -> None:
    path, _ = column
    for field in FIELDS:
        records = list(read_records(path, Columns(**{field: "odd"})))
        assert [record.line for record in records] == [1, 2, 3]
        assert all("\n" not in (record.error or "") for record in records)
        results = list(
            validate_records(records, TaskSettings(labels=("up", "down"), columns=Columns(**{field: "odd"})))
        )
        assert len(results) == ROWS
        json.dumps([asdict(result) for result in results], allow_nan=not all(isinstance(r, Row) for r in results))
    dated = read_dated_texts(TextSource(file=path), date_column=None)
    assert dated.rejected == 0


def test_column_of_texts_gives_texts_or_errors_and_never_ends_the_file(column: tuple[Path, pa.Array]) -> None:
    path, _ = column
    with warnings.catch_warnings():
        records = list(read_texts(path, Columns(text="odd")))
    assert len(records) == ROWS
    for record in records:
        assert record.error or isinstance(record.values["text"], str)
        json.dumps({"text": string_or_none(record.values["text"]), "error": record.error}, allow_nan=False)


def test_column_of_dates_gives_months_or_rejected_rows(tmp_path: Path) -> None:
    path = tmp_path / "dates.parquet"
    dates = pa.array([19_000, 2**31 - 1, None], pa.int32()).view(pa.date32())
    assert write_parquet(path, {"text": TEXTS, "date": dates})
    dated = read_dated_texts(TextSource(file=path), date_column="date")
    assert (dated.months, dated.rejected) == (["2022-01", None], 1)


def test_error_of_a_needed_column_names_the_column_its_type_and_the_problem(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    assert write_parquet(path, {"text": TEXTS, "score": ZOO["timestamp us"]()})
    (first, second, third) = read_records(path)
    assert str(first.error).startswith("column 'score' cannot be read: timestamp[us], ")
    assert (second.error, third.error is None) == (None, False)


def test_rows_of_texts_can_be_written_in_every_format(tmp_path: Path) -> None:
    rows: list[Record] = []
    for number, make in enumerate(ZOO.values()):
        path = tmp_path / f"{number}.parquet"
        if write_parquet(path, {"text": make()}):
            rows += read_texts(path)
    assert len(rows) > 30 * ROWS
    for ending in ("csv", "jsonl", "parquet"):
        with open_writer(tmp_path / f"out.{ending}") as writer:
            for row in rows:
                writer.write({"line": row.line, "text": string_or_none(row.values["text"]), "error": row.error})
        assert len(list(read_records(tmp_path / f"out.{ending}"))) == len(rows)
