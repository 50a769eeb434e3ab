"""One table of refusals for all formats: the same content is refused alike in every format that can hold it."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from experts.errors import Fault
from experts.json_io import to_json
from moe.data.formats.readers import read_records, read_texts
from moe.data.prepare import prepare_task
from moe.data.pretraining_corpus import corpus_digest
from moe.data.profile import inspect_file
from moe.data.schema import Columns, DataSettings, TaskSettings

Rows = list[list[Any]]


def write_csv(path: Path, names: list[str], rows: Rows, separator: str = ",") -> None:
    lines = [separator.join("" if cell is None else str(cell) for cell in row) for row in [names, *rows]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def write_tsv(path: Path, names: list[str], rows: Rows) -> None:
    write_csv(path, names, rows, "\t")


def write_jsonl(path: Path, names: list[str], rows: Rows) -> None:
    objects = [
        ", ".join(f'"{name}": {json.dumps(cell)}' for name, cell in zip(names, row, strict=True)) for row in rows
    ]
    path.write_text("".join(f"{{{fields}}}\n" for fields in objects), encoding="utf-8")


def to_table(names: list[str], rows: Rows) -> pa.Table:
    return pa.table([pa.array(values) for values in zip(*rows, strict=True)], names=names)


def write_parquet(path: Path, names: list[str], rows: Rows) -> None:
    pq.write_table(to_table(names, rows), path)


def write_folder(path: Path, names: list[str], rows: Rows) -> None:
    """A folder of `datasets`, whose Arrow file is then replaced, since `datasets` itself refuses some of them."""
    table = to_table([f"{name}{i}" if name in names[:i] else name for i, name in enumerate(names)], rows)
    Dataset(table).save_to_disk(str(path))
    table = table.rename_columns(names)
    with pa.OSFile(str(path / "data-00000-of-00001.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)


FORMATS: dict[str, Callable[[Path, list[str], Rows], None]] = {
    "a.csv": write_csv,
    "a.tsv": write_tsv,
    "a.jsonl": write_jsonl,
    "a.parquet": write_parquet,
    "folder": write_folder,
}
REFUSED_FILES: dict[str, tuple[list[str], Rows, Columns, str]] = {
    "two needed columns of one name": (["text", "text"], [["a", "b"]], Columns(), "unique column names.*'text' more"),
    "two other columns of one name": (
        ["text", "x", "x"],
        [["a", "b", "c"]],
        Columns(),
        "unique column names.*'x' more",
    ),
    "no text column": (["id", "headline"], [["1", "up"]], Columns(), r"a column 'text'.*columns id, headline"),
    "no renamed column": (["text"], [["up"]], Columns(label="stance"), "a column 'stance'"),
}
REFUSED_ROWS: dict[str, tuple[Any, str]] = {
    "null": (None, "missing text"),
    "empty": ("", "missing text"),
    "blank": (" \u3000 ", "missing text"),
    "invisible": ("\u200b", "missing text"),
    "NUL": ("profit\0rose", "NUL byte"),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("refusal", REFUSED_FILES)
def test_file_is_refused_alike_in_every_format(tmp_path: Path, name: str, refusal: str) -> None:
    names, rows, columns, message = REFUSED_FILES[refusal]
    FORMATS[name](tmp_path / name, names, rows)
    with pytest.raises(Fault, match=message):
        read_records(tmp_path / name, columns)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("refusal", REFUSED_ROWS)
def test_row_is_refused_alike_in_every_format(tmp_path: Path, name: str, refusal: str) -> None:
    text, reason = REFUSED_ROWS[refusal]
    FORMATS[name](tmp_path / name, ["id", "text"], [["1", "up"], ["2", text], ["3", "down"]])
    assert [record.error for record in read_texts(tmp_path / name)] == [None, reason, None]
    report = inspect_file(tmp_path / name)
    assert (report.rows, report.rejected.reasons) == (2, {reason: 1})


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "folder"])
@pytest.mark.parametrize("value", [float("nan"), 5, True, ["a"], {"a": "b"}])
def test_value_that_is_no_text_is_refused_alike_in_every_format(tmp_path: Path, name: str, value: Any) -> None:
    FORMATS[name](tmp_path / name, ["text"], [[value], [value]])
    for record in read_texts(tmp_path / name):
        assert record.error == f"text is not a string: {type(value).__name__}"


@pytest.mark.parametrize("name", [*FORMATS, "a.txt"])
@pytest.mark.parametrize("kind", ["missing", "pipe", "device", "socket", "empty"])
def test_what_is_no_file_is_refused_at_once_in_every_format(
    tmp_path: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    path = Path(name)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(name)
    elif kind == "empty":
        path.write_bytes(b"")
    names = {"missing": "nothing there", "pipe": "a pipe", "device": "a character device", "socket": "a socket"}
    for call in (
        lambda: read_records(path),
        lambda: prepare_task(path, TaskSettings(), DataSettings(), "news", "news", tmp_path / "out"),
        lambda: inspect_file(path),
        *([] if kind == "empty" else [lambda: corpus_digest([path], "news")]),
    ):
        with pytest.raises(Fault, match=names.get(kind, "an empty file|ending in")):
            call()


LINES: dict[str, tuple[str, str]] = {
    "a repeated key": ('{"text": "a", "text": "b"}', "repeated key: 'text'"),
    "a repeated key with a surrogate": (r'{"text": "a", "\ud800": 1, "\ud800": 2}', "repeated key: '\\ud800'"),
    "NaN": ('{"text": NaN}', "text is not a string: float"),
    "Infinity": ('{"text": -Infinity}', "text is not a string: float"),
    "null": ('{"text": null}', "missing text"),
    "a list": ('{"text": ["a"]}', "text is not a string: list"),
    "an unpaired surrogate": (r'{"text": "a \ud83d b"}', "broken encoding: unpaired surrogate"),
    "an escaped NUL": (r'{"text": "a \u0000 b"}', "NUL byte"),
    "a NUL": ('{"text": "a \0 b"}', "NUL byte"),
    "a long number": (f'{{"text": "a", "x": {"9" * 5000}}}', "invalid JSON: a number of more than 4300 digits"),
    "a long negative number": (f'{{"text": "a", "x": [-{"9" * 5000}]}}', "invalid JSON: a number of more than 4300"),
    "deep lists": (f'{{"text": "a", "x": {"[" * 50_000}', "invalid JSON: nested too deeply"),
    "deep objects": ('{"a": ' * 50_000, "invalid JSON: nested too deeply"),
    "deep, with an escape": ('{"text": "\\u0041", "x": ' + "[" * 900 + "]" * 900 + "}", ""),
    "half a line": ('{"text": "a', "invalid JSON"),
    "a control character": ('{"text": "a\x01"}', "invalid JSON"),
    "two objects": ('{"text": "a"} {"text": "b"}', "invalid JSON"),
    "a number": ("5", "not a JSON object: int"),
    "a byte order mark": ('\ufeff{"text": "a"}', "invalid JSON"),
}


@pytest.mark.parametrize("name", LINES)
def test_odd_json_line_is_one_error_and_the_others_are_read(tmp_path: Path, name: str) -> None:
    line, message = LINES[name]
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "up"}}\n{line}\n{{"text": "down"}}\n', encoding="utf-8")
    first, odd, last = read_texts(path)
    assert (first.error, last.error, odd.line) == (None, None, 2)
    assert (odd.error or "").startswith(message)
    report = inspect_file(path)
    assert report.records == 3
    json.dumps(to_json(report), allow_nan=False).encode()


def test_nested_key_may_be_repeated(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"meta": {"x": 1, "x": 2}, "text": "up"}\n', encoding="utf-8")
    assert [record.error for record in read_texts(path)] == [None]


def test_damaged_folder_of_datasets_is_a_fault(tmp_path: Path) -> None:
    for name, content in {"dataset_info.json": "{", "state.json": "[]", "data-00000-of-00001.arrow": "x"}.items():
        write_folder(tmp_path / name, ["text"], [["up"]])
        (tmp_path / name / name).write_text(content)
        with pytest.raises(Fault, match="save_to_disk"):
            read_records(tmp_path / name)
