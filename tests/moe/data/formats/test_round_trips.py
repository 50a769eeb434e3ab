"""Claims about rows that are written and read again: every format gives back every text, whatever its characters."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe.data.formats.readers import read_records
from moe.data.formats.writers import open_writer
from moe.data.schema import Columns

ODD_TEXTS = [
    'say "rose"',
    '"',
    '""",,""',
    "a,b;c|d\te",
    "two\nlines",
    "three\r\nlines\r\n",
    "old\rMac",
    "\r",
    "\n\n",
    "ends with a backslash\\",
    " spaces ",
    "sep=;",
    "# not a comment",
    "null",
    "NaN",
    "-1",
    "利好A股上涨 😀",
    "e\u0301 ﬁ ＡＢＣ",
    "\u2028line\u2029paragraph\u0085next",
    "\u202eright to left",
    "\ufefftext after a mark",
    "x" * 70_000,
]
CHARACTERS = st.sampled_from("ab ,;|\t\"'\\\r\n=+-@利😀é\u2028\ufeff#0")
TEXTS = st.text(CHARACTERS, min_size=1, max_size=12)


def read_back(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, object]]:
    """Write rows, read them again, and return their values; no row may be broken."""
    with open_writer(path) as writer:
        for row in rows:
            writer.write(row)
    records = list(read_records(path, Columns(), others=None))
    assert [record.error for record in records] == [None] * len(rows)
    return [record.values for record in records]


def csv_cells(path: Path) -> list[list[str]]:
    """Cells of a CSV file as the standard library reads them."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream, strict=True))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_odd_texts_are_read_as_they_were_written(tmp_path: Path, ending: str) -> None:
    rows = [{"id": f"r{i}", "text": text, "label": "positive"} for i, text in enumerate(ODD_TEXTS)]
    assert read_back(tmp_path / f"rows.{ending}", rows) == rows


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@given(texts=st.lists(TEXTS, min_size=1, max_size=6))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_texts_are_read_as_they_were_written(tmp_path: Path, ending: str, texts: list[str]) -> None:
    rows = [{"id": f"r{i}", "text": text, "note": text[::-1]} for i, text in enumerate(texts)]
    assert read_back(tmp_path / f"rows.{ending}", rows) == rows


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_csv_of_odd_texts_is_read_by_the_standard_library_too(tmp_path: Path, text: str) -> None:
    with open_writer(tmp_path / "rows.csv") as writer:
        writer.write({"text": text, "n": 1})
    assert csv_cells(tmp_path / "rows.csv") == [["text", "n"], [text, "1"]]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_numbers_and_missing_values_keep_their_type(tmp_path: Path, ending: str) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "a", "text": "up", "score": 0.1, "n": 1, "flag": True},
        {"id": "b", "text": "down", "score": -1e-300, "n": -(2**53), "flag": None},
        {"id": "c", "text": "flat", "score": None, "n": 0, "flag": False},
    ]
    values = read_back(tmp_path / f"rows.{ending}", rows)
    assert values == rows
    assert [type(row["n"]) for row in values] == [int] * 3


def test_spreadsheet_file_differs_in_cells_that_look_like_formulas_only(tmp_path: Path) -> None:
    texts = ["=1+1", "+1", "-1", "@x", "\tx", "＝1", "plain", "a=1", ""]
    for name, spreadsheet in (("plain", False), ("escaped", True)):
        with open_writer(tmp_path / f"{name}.csv", spreadsheet=spreadsheet) as writer:
            for text in texts:
                writer.write({"text": text, "n": -1})
    plain, escaped = (csv_cells(tmp_path / f"{name}.csv") for name in ("plain", "escaped"))
    assert [row[0] for row in plain[1:]] == texts
    assert [row[0] for row in escaped[1:]] == [f"'{text}" for text in texts[:6]] + texts[6:]
    assert {row[1] for row in (*plain[1:], *escaped[1:])} == {"-1"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_number_outside_json_is_refused_and_leaves_no_file(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON"), open_writer(tmp_path / "rows.jsonl") as writer:
        writer.write({"x": value})
    assert list(tmp_path.iterdir()) == []


def test_unpaired_surrogate_is_written_as_the_replacement_character(tmp_path: Path) -> None:
    with open_writer(tmp_path / "rows.jsonl") as writer:
        writer.write({"text": "a \ud800 b"})
    assert json.loads((tmp_path / "rows.jsonl").read_text(encoding="utf-8")) == {"text": "a \ufffd b"}


def test_nested_rows_become_dotted_columns_in_csv_and_come_back_in_jsonl(tmp_path: Path) -> None:
    row = {"text": "up", "p": {"down": 0.1, "up": {"low": 0.4, "high": 0.5}}, "words": ["a,b", "c"], "empty": {}}
    for ending in ("csv", "jsonl"):
        with open_writer(tmp_path / f"rows.{ending}", columns=("label",)) as writer:
            writer.write(row)
    header, cells = csv_cells(tmp_path / "rows.csv")
    assert dict(zip(header, cells, strict=True)) == {
        "label": "",
        "text": "up",
        "p.down": "0.1",
        "p.up.low": "0.4",
        "p.up.high": "0.5",
        "words": '["a,b", "c"]',
    }
    assert json.loads((tmp_path / "rows.jsonl").read_text()) == row
