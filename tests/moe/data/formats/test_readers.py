"""Readers return the records of every kind of file in order, with line numbers, broken ones included."""

import csv
import json
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experts.errors import Fault
from moe.data.formats.content import TextForm
from moe.data.formats.csv_rows import read_csv_rows
from moe.data.formats.readers import read_records, read_texts
from moe.data.schema import Columns, Record

ROWS = [{"id": "a", "text": "up", "label": "positive"}, {"id": "b", "text": "down", "label": "negative"}]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path, **columns: str | None) -> list[Record]:
    return list(read_records(path, Columns(**columns)))


def parquet(path: Path, columns: dict[str, object]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_read_records_is_the_same_for_all_kinds_of_files(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "folder"))
    files = [
        write(tmp_path / "a.csv", "id,text,label\na,up,positive\nb,down,negative\n"),
        write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS)),
        parquet(tmp_path / "a.parquet", {key: [row[key] for row in ROWS] for key in ROWS[0]}),
        tmp_path / "folder",
    ]
    assert [[record.values for record in read(file)] for file in files] == [ROWS] * 4
    assert [[record.line for record in read(file)] for file in files] == [[2, 3], [1, 2], [1, 2], [1, 2]]


def test_read_records_of_a_text_file_gives_one_record_per_line(tmp_path: Path) -> None:
    records = read(write(tmp_path / "a.txt", "one\r\n\nthree"))
    assert [(r.line, r.values["id"], r.values["text"]) for r in records] == [
        (1, "line-1", "one"),
        (2, "line-2", ""),
        (3, "line-3", "three"),
    ]


def test_read_records_renames_ignores_and_passes_on_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "nr,headline,text,score,who\n7,up,body,0.5,me\n")
    columns = Columns(id="nr", text="headline", score=None)
    assert next(read_records(path, columns)).values == {"id": "7", "text": "up"}
    assert next(read_records(path, columns, others=["who"])).values == {"id": "7", "text": "up", "who": "me"}
    assert next(read_records(path, columns, others=None)).values == {"id": "7", "text": "up", "who": "me"}


def test_read_records_counts_lines_inside_quoted_fields(tmp_path: Path) -> None:
    records = read(write(tmp_path / "a.csv", 'text,label\n"one\ntwo",x\n\nthree,y\n'))
    assert [(r.line, r.values["text"]) for r in records] == [(2, "one\ntwo"), (5, "three")]


def test_read_records_strips_a_byte_order_mark(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.csv", "\ufefftext\nup\n"))[0].values["text"] == "up"


def test_read_records_continues_after_a_broken_line(tmp_path: Path) -> None:
    body = b'text,label\nfine,x\nbad \xff,x\n"never closed,x\nfine,x,more\nnul \0,x\nlast,y\n'
    records = read(write(tmp_path / "a.csv", body))
    assert [(r.line, (r.error or "").partition(":")[0]) for r in records] == [
        (2, ""),
        (3, "broken encoding"),
        (4, "malformed CSV"),
        (5, "wrong number of fields"),
        (6, "NUL byte"),
        (7, ""),
    ]
    assert records[1].values["text"] == "bad \ufffd"


def test_read_records_reports_text_after_a_closing_quote(tmp_path: Path) -> None:
    assert "malformed" in str(read(write(tmp_path / "a.csv", 'text,label\n"Buy" says X,y\n'))[0].error)


def test_read_records_reports_each_broken_json_line(tmp_path: Path) -> None:
    lines = [b'{"text": "a"}', b"{", b"", b"[1]", b'{"text": "\xff"}', b'{"text": "\\ud800"}', b"[" * 9999]
    records = read(
        write(tmp_path / "a.jsonl", b"\n".join([*lines, b'{"text": "z"}', b'{"text": "y"}', b'{"text": "x"}']))
    )
    assert [(r.line, (r.error or "").partition(":")[0]) for r in records[:6]] == [
        (1, ""),
        (2, "invalid JSON"),
        (4, "not a JSON object"),
        (5, "broken encoding"),
        (6, "broken encoding"),
        (7, "invalid JSON"),
    ]
    assert [r.error for r in records[6:]] == [None] * 3


def test_read_records_reports_undecodable_text_in_parquet(tmp_path: Path) -> None:
    broken = pa.array([b"fine", b"bad \xff", b"fine"]).view(pa.string())
    records = read(parquet(tmp_path / "a.parquet", {"text": broken}))
    assert [r.error for r in records] == [None, "broken encoding: text", None]
    assert records[1].values["text"] == "bad \ufffd"


def test_read_records_of_a_dataset_folder_names_splits_and_classes(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["down", "up"])})
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [1, -1]}, features=features)
    DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "d"))
    records = read(tmp_path / "d")
    assert [(r.line, r.values["label"], r.values["split"]) for r in records] == [
        (1, "up", "train"),
        (2, None, "train"),
        (3, "up", "test"),
        (4, None, "test"),
    ]


def test_read_records_is_lazy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.csv", "text\n" + "a text of some words\n" * 50_000)
    lines: list[int] = []

    def counting(file: Path, form: TextForm):
        for row in read_csv_rows(file, form):
            lines.append(row.number)
            yield row

    monkeypatch.setattr("moe.data.formats.readers.read_csv_rows", counting)
    assert len(list(islice(read_records(path), 10))) == 10
    assert len(lines) == 10


def test_read_texts_returns_every_row_in_order_invalid_ones_with_a_reason(tmp_path: Path) -> None:
    rows = ['{"text": "a"}', '{"text": " "}', '{"text": 5}', '{"other": 1}', "{", '{"text": "b"}']
    records = list(read_texts(write(tmp_path / "a.jsonl", "\n".join(rows))))
    assert [(r.error or "").partition(":")[0] for r in records] == [
        "",
        "missing text",
        "text is not a string",
        "missing text",
        "invalid JSON",
        "",
    ]


def test_read_texts_of_one_broken_json_line_returns_one_error(tmp_path: Path) -> None:
    (record,) = read_texts(write(tmp_path / "a.jsonl", '{"text": "cut'))
    assert str(record.error).startswith("invalid JSON")
    assert record.values == {"id": "line-1", "text": '{"text": "cut'}


def test_read_texts_of_a_one_column_csv_returns_empty_lines(tmp_path: Path) -> None:
    records = list(read_texts(write(tmp_path / "a.csv", "text\na\n\nb\n")))
    assert [(r.line, r.error) for r in records] == [(2, None), (3, "missing text"), (4, None)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "an empty file"),
        ("a.csv", b"\x89PNG\x00\x01\xff\n\xfe\xff\x00", "a PNG image"),
        ("a.csv", b"\x88\x00\x01\xff\n\xfe\xff\x00", "NUL or undecodable"),
        ("a.csv", "标题,标签\n利好消息,涨\n".encode("gb18030"), "probably GB18030.*encoding: gb18030"),
        ("a.csv", b"id,headline\n1,up\n", r"columns id, headline.*columns: \{text: headline\}"),
        ("a.csv", b"text,text\nup,down\n", "unique column names"),
        ("a.csv", b'"text\nup\n', "column names in the first line"),
        ("a.jsonl", b'{"id": 1, "sentence": "up"}\n', r"columns id, sentence.*\{text: sentence\}"),
        ("a.parquet", b"not parquet at all", "Parquet"),
        ("a.xlsx", b"text", r"ending in \.csv"),
    ],
)
def test_read_records_refuses_unreadable_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(Fault, match=message):
        read_records(write(tmp_path / name, content))


def test_read_records_refuses_missing_files_and_other_folders(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="nothing there"):
        read_records(tmp_path / "no.csv")
    with pytest.raises(Fault, match="save_to_disk"):
        read_records(tmp_path)


def test_read_records_requires_renamed_columns(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="'sentiment'"):
        read(write(tmp_path / "a.csv", "text,label\nup,x\n"), label="sentiment")


def test_read_records_refuses_a_truncated_parquet_file(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"text": ["a text"] * 5000})
    with pytest.raises(Fault, match="Parquet"):
        read(write(path, path.read_bytes()[:200]))


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.text("a,\"'\n 利é", min_size=1, max_size=9), min_size=1, max_size=8))
def test_read_records_reads_back_quoted_csv(tmp_path_factory: pytest.TempPathFactory, written: list[str]) -> None:
    cells = "".join('"' + text.replace('"', '""') + '",x\n' for text in written)
    path = write(tmp_path_factory.mktemp("csv") / "a.csv", "text,label\n" + cells)
    assert [r.values["text"] for r in read(path)] == written


def test_reading_csv_leaves_the_limit_of_the_process_as_it_was(tmp_path: Path) -> None:
    path = write(tmp_path / "long.csv", f"text\n{'a' * 300_000}\nb\n".encode())
    before = csv.field_size_limit(1_000)
    try:
        records = read_records(path)
        assert csv.field_size_limit() == 1_000
        assert len(str(next(records).values["text"])) == 300_000
        assert csv.field_size_limit() == 1_000, "a reader that is read further later changes it in between"
        assert next(records).values["text"] == "b"
    finally:
        csv.field_size_limit(before)
