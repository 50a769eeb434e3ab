"""Every kind of file gives its records in order, with the line they stand in, and broken ones in their place."""

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
from moe.data.readers import read_records, read_texts
from moe.data.schema import Columns, Record
from moe.data.text_lines import read_csv_rows

ROWS = [{"id": "a", "text": "up", "label": "positive"}, {"id": "b", "text": "down", "label": "negative"}]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path, **columns: str | None) -> list[Record]:
    return list(read_records(path, Columns(**columns)))


def parquet(path: Path, columns: dict[str, object]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_all_kinds_of_files_give_the_same_records(tmp_path: Path):
    Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "folder"))
    files = [
        write(tmp_path / "a.csv", "id,text,label\na,up,positive\nb,down,negative\n"),
        write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS)),
        parquet(tmp_path / "a.parquet", {key: [row[key] for row in ROWS] for key in ROWS[0]}),
        tmp_path / "folder",
    ]
    assert [[record.values for record in read(file)] for file in files] == [ROWS] * 4
    assert [[record.line for record in read(file)] for file in files] == [[2, 3], [1, 2], [1, 2], [1, 2]]


def test_a_text_file_gives_a_record_a_line_named_by_its_number(tmp_path: Path):
    found = read(write(tmp_path / "a.txt", "one\r\n\nthree"))
    assert [(r.line, r.values["id"], r.values["text"]) for r in found] == [
        (1, "line-1", "one"),
        (2, "line-2", ""),
        (3, "line-3", "three"),
    ]


def test_columns_are_renamed_ignored_and_passed_on(tmp_path: Path):
    path = write(tmp_path / "a.csv", "nr,headline,text,score,who\n7,up,body,0.5,me\n")
    assert read(path, id="nr", text="headline", score=None)[0].values == {"id": "7", "text": "up", "who": "me"}


def test_a_quoted_line_break_keeps_later_line_numbers_right(tmp_path: Path):
    found = read(write(tmp_path / "a.csv", 'text,label\n"one\ntwo",x\n\nthree,y\n'))
    assert [(r.line, r.values["text"]) for r in found] == [(2, "one\ntwo"), (5, "three")]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path):
    assert read(write(tmp_path / "a.csv", "\ufefftext\nup\n"))[0].values["text"] == "up"


def test_a_broken_line_is_one_error_and_reading_goes_on(tmp_path: Path):
    body = b'text,label\nfine,x\nbad \xff,x\n"never closed,x\nfine,x,more\nnul \0,x\nlast,y\n'
    found = read(write(tmp_path / "a.csv", body))
    assert [(r.line, (r.error or "").partition(":")[0]) for r in found] == [
        (2, ""),
        (3, "broken encoding"),
        (4, "malformed CSV"),
        (5, "wrong number of fields"),
        (6, "NUL byte"),
        (7, ""),
    ]
    assert found[1].values["text"] == "bad \ufffd"


def test_text_after_a_closed_quote_is_an_error_not_a_guess(tmp_path: Path):
    assert "malformed" in str(read(write(tmp_path / "a.csv", 'text,label\n"Buy" says X,y\n'))[0].error)


def test_each_broken_json_line_is_an_error_in_its_place(tmp_path: Path):
    lines = [b'{"text": "a"}', b"{", b"", b"[1]", b'{"text": "\xff"}', b'{"text": "\\ud800"}', b"[" * 9999]
    found = read(
        write(tmp_path / "a.jsonl", b"\n".join([*lines, b'{"text": "z"}', b'{"text": "y"}', b'{"text": "x"}']))
    )
    assert [(r.line, (r.error or "").partition(":")[0]) for r in found[:6]] == [
        (1, ""),
        (2, "no JSON"),
        (4, "no JSON object"),
        (5, "broken encoding"),
        (6, "broken encoding"),
        (7, "no JSON"),
    ]
    assert [r.error for r in found[6:]] == [None] * 3


def test_undecodable_text_in_parquet_is_one_error(tmp_path: Path):
    broken = pa.array([b"fine", b"bad \xff", b"fine"]).view(pa.string())
    found = read(parquet(tmp_path / "a.parquet", {"text": broken}))
    assert [r.error for r in found] == [None, "broken encoding: text", None]
    assert found[1].values["text"] == "bad \ufffd"


def test_a_dataset_folder_names_splits_and_classes(tmp_path: Path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["down", "up"])})
    part = Dataset.from_dict({"text": ["a", "b"], "label": [1, -1]}, features=features)
    DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "d"))
    found = read(tmp_path / "d")
    assert [(r.line, r.values["label"], r.values["split"]) for r in found] == [
        (1, "up", "train"),
        (2, None, "train"),
        (3, "up", "test"),
        (4, None, "test"),
    ]


def test_records_are_read_as_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "a.csv", "text\n" + "a text of some words\n" * 50_000)
    passed: list[int] = []

    def watched(file: Path):
        for row in read_csv_rows(file):
            passed.append(row.number)
            yield row

    monkeypatch.setattr("moe.data.readers.csv_rows", watched)
    assert len(list(islice(read_records(path), 10))) == 10
    assert len(passed) == 10


def test_texts_gives_every_row_in_order_bad_ones_with_a_reason(tmp_path: Path):
    rows = ['{"text": "a"}', '{"text": " "}', '{"text": 5}', '{"other": 1}', "{", '{"text": "b"}']
    found = list(read_texts(write(tmp_path / "a.jsonl", "\n".join(rows))))
    assert [(r.error or "").partition(":")[0] for r in found] == [
        "",
        "missing text",
        "text is no text",
        "missing text",
        "no JSON",
        "",
    ]


def test_a_json_file_of_one_broken_line_is_one_bad_row(tmp_path: Path):
    (found,) = read_texts(write(tmp_path / "a.jsonl", '{"text": "cut'))
    assert str(found.error).startswith("no JSON")
    assert found.values == {"id": "line-1", "text": '{"text": "cut'}


def test_an_empty_line_is_a_row_of_a_one_column_csv(tmp_path: Path):
    found = list(read_texts(write(tmp_path / "a.csv", "text\na\n\nb\n")))
    assert [(r.line, r.error) for r in found] == [(2, None), (3, "missing text"), (4, None)]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", b"", "an empty file"),
        ("a.csv", b"\x89PNG\x00\x01\xff\n\xfe\xff\x00", "NUL or undecodable"),
        ("a.csv", "标题,标签\n利好消息,涨\n".encode("gb18030"), "NUL or undecodable"),
        ("a.csv", b"id,headline\n1,up\n", r"columns id, headline.*columns: \{text: headline\}"),
        ("a.csv", b"text,text\nup,down\n", "each column"),
        ("a.csv", b'"text\nup\n', "first line of column names"),
        ("a.jsonl", b'{"id": 1, "sentence": "up"}\n', r"columns id, sentence.*\{text: sentence\}"),
        ("a.parquet", b"not parquet at all", "Parquet"),
        ("a.xlsx", b"text", r"ending in \.csv"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_fault(tmp_path: Path, name: str, content: bytes, told: str):
    with pytest.raises(Fault, match=told):
        read_records(write(tmp_path / name, content))


def test_a_missing_file_and_a_foreign_folder_are_faults(tmp_path: Path):
    with pytest.raises(Fault, match="nothing there"):
        read_records(tmp_path / "no.csv")
    with pytest.raises(Fault, match="save_to_disk"):
        read_records(tmp_path)


def test_a_renamed_column_must_be_there(tmp_path: Path):
    with pytest.raises(Fault, match="'sentiment'"):
        read(write(tmp_path / "a.csv", "text,label\nup,x\n"), label="sentiment")


def test_a_truncated_parquet_file_is_a_fault(tmp_path: Path):
    path = parquet(tmp_path / "a.parquet", {"text": ["a text"] * 5000})
    with pytest.raises(Fault, match="Parquet"):
        read(write(path, path.read_bytes()[:200]))


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.text("a,\"'\n 利é", min_size=1, max_size=9), min_size=1, max_size=8))
def test_what_csv_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, written: list[str]):
    cells = "".join('"' + text.replace('"', '""') + '",x\n' for text in written)
    path = write(tmp_path_factory.mktemp("csv") / "a.csv", "text,label\n" + cells)
    assert [r.values["text"] for r in read(path)] == written
