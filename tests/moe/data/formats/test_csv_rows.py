"""Tests of `moe.data.formats.csv_rows`: separators, headers, broken rows between whole ones."""

from pathlib import Path

import pytest

from experts.errors import Fault
from moe.data.formats.content import TextForm, detect_text
from moe.data.formats.csv_rows import CsvRow, read_csv_header, read_csv_rows


def write(folder: Path, content: str) -> Path:
    path = folder / "rows.csv"
    path.write_bytes(content.encode())
    return path


def header_of(path: Path, *required: str, separator: str | None = None) -> tuple[list[str], str]:
    """Column names, and the separator that was detected."""
    names, form = read_csv_header(path, detect_text(path), required, separator)
    return names, form.separator


def rows_of(path: Path, *required: str) -> list[CsvRow]:
    return list(read_csv_rows(path, read_csv_header(path, detect_text(path), required)[1]))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separator_that_makes_several_columns_is_detected(tmp_path: Path, separator: str) -> None:
    path = write(tmp_path, separator.join(["id", "text", "label"]) + "\n")
    assert header_of(path) == (["id", "text", "label"], separator)


def test_comma_is_preferred_if_several_separators_make_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "a;b,c|d\n")
    assert header_of(path) == (["a;b", "c|d"], ",")
    assert header_of(path, "a") == (["a", "b,c|d"], ";"), "the one with the required column"
    assert header_of(path, "D") == (["a;b,c", "d"], "|"), "in any letter case"


def test_single_column_needs_no_separator(tmp_path: Path) -> None:
    assert header_of(write(tmp_path, "text\nprofit; rose | today\n"), "text") == (["text"], ",")


def test_separator_that_is_named_wins(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b;c\n")
    assert header_of(path, separator=";") == (["a,b", "c"], ";")
    assert header_of(path, separator="#") == (["a,b;c"], "#")


@pytest.mark.parametrize("declaration", ["sep=;", '"sep=;"', "sep=; "])
def test_first_line_of_excel_settles_the_separator_and_is_no_row(tmp_path: Path, declaration: str) -> None:
    path = write(tmp_path, f"{declaration}\ntext;label\na,b;up\n")
    assert header_of(path) == (["text", "label"], ";")
    assert rows_of(path) == [CsvRow(3, {"text": "a,b", "label": "up"}, None)]


def test_quoted_header_may_hold_separators_and_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path, '"the ""text""","label, or\nnone"\nup,x\n')
    assert header_of(path)[0] == ['the "text"', "label, or\nnone"]
    assert [(row.number, row.error) for row in rows_of(path)] == [(3, None)]


def test_header_that_is_broken_or_repeats_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="Add a header line: id,text,label"):
        header_of(write(tmp_path, '"never closed\n'))
    with pytest.raises(Fault, match="'text' more than once"):
        header_of(write(tmp_path, "text,label,text\n"))


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('c,"half"x,up', "malformed CSV"),
        ("c,only two", "wrong number of fields: 2 instead of 3"),
        ("c,d,up,more", "wrong number of fields: 4 instead of 3"),
        ("c,d\0,up", "NUL byte"),
        ("   ", "wrong number of fields: 1 instead of 3"),
    ],
)
def test_broken_row_has_its_line_and_reason_and_its_neighbours_are_read(tmp_path: Path, line: str, error: str) -> None:
    path = write(tmp_path, f'id,text,label\na,"x\ny",up\n{line}\nb,z,down\n')
    first, broken, last = rows_of(path)
    assert first == CsvRow(2, {"id": "a", "text": "x\ny", "label": "up"}, None)
    assert broken.number == 4
    assert broken.error is not None
    assert broken.error.startswith(error)
    assert last == CsvRow(5, {"id": "b", "text": "z", "label": "down"}, None)


def test_quote_that_is_never_closed_is_one_broken_row(tmp_path: Path) -> None:
    path = write(tmp_path, 'text,label\na,up\n"open,down\nb,up\nc,down\n')
    rows = rows_of(path)
    assert [row.number for row in rows] == [2, 3, 4, 5]
    assert [row.error is None for row in rows] == [True, False, True, True]
    assert [row.cells.get("text") for row in rows if row.error is None] == ["a", "b", "c"]


def test_empty_line_is_a_row_of_a_file_with_one_column_only(tmp_path: Path) -> None:
    assert [row.cells for row in rows_of(write(tmp_path, "text\na\n\nb\n"))] == [{"text": t} for t in ("a", "", "b")]
    assert [row.cells["text"] for row in rows_of(write(tmp_path, "text,label\na,1\n\nb,2\n"))] == ["a", "b"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system_give_the_same_rows(tmp_path: Path, end: str) -> None:
    path = write(tmp_path, end.join(["text,label", "a,up", '"b, c",down', ""]))
    assert [(row.number, row.cells, row.error) for row in rows_of(path)] == [
        (2, {"text": "a", "label": "up"}, None),
        (3, {"text": "b, c", "label": "down"}, None),
    ]


def test_rows_are_read_without_a_separator_in_the_form(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label\na,up\n")
    assert [row.cells for row in read_csv_rows(path, TextForm())] == [{"text": "a", "label": "up"}]
