"""What a file is: unambiguous encodings, separators and compressions are read, others are named with a remedy."""

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from experts.errors import Fault
from moe.data.formats.content import guess_encoding
from moe.data.formats.readers import describe_format, read_column_names, read_records, read_texts
from moe.data.formats.text_format import TextFormat, parse_text_format
from moe.data.formats.text_lines import TextLine, stream_lines
from moe.data.profile import inspect_file
from moe.data.schema import Columns, TaskSettings

CSV = "id,text,label\n1,Gewinn stieg – très fort,up\n2,利润下降了 😀,down\n"
TEXTS = ["Gewinn stieg – très fort", "利润下降了 😀"]
JSONL = '{"text": "Gewinn stieg – très fort"}\n{"text": "利润下降了 😀"}\n'


def archive(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as zipped:
        zipped.writestr(name, CSV)
    return stream.getvalue()


def parquet() -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table({"text": TEXTS}), stream)
    return stream.getvalue()


READ: dict[str, tuple[str, bytes, str]] = {
    "plain": ("a.csv", CSV.encode(), "csv"),
    "UTF-8 with a mark": ("a.csv", CSV.encode("utf-8-sig"), "csv"),
    "semicolons": ("a.csv", CSV.replace(",", ";").encode(), "csv, separated by `;`"),
    "tabs": ("a.csv", CSV.replace(",", "\t").encode(), "csv, separated by tabs"),
    "tabs in tsv": ("a.tsv", CSV.replace(",", "\t").encode(), "tsv, separated by tabs"),
    "pipes": ("a.csv", CSV.replace(",", "|").encode(), "csv, separated by `|`"),
    "a declared separator": ("a.csv", ("sep=;\n" + CSV.replace(",", ";")).encode(), "csv, separated by `;`"),
    "commas in a header with semicolons": (
        "a.csv",
        CSV.replace(",", ";").replace("id", '"id, of the source"').encode(),
        "csv, separated by `;`",
    ),
    "UTF-16": ("a.csv", CSV.encode("utf-16"), "csv, UTF-16"),
    "UTF-16, big end first": ("a.csv", ("\ufeff" + CSV).encode("utf-16-be"), "csv, UTF-16"),
    "UTF-16 with tabs, as Excel writes it": (
        "a.txt.csv",
        CSV.replace(",", "\t").replace("\n", "\r\n").encode("utf-16"),
        "csv, separated by tabs, UTF-16",
    ),
    "UTF-32": ("a.csv", CSV.encode("utf-32"), "csv, UTF-32"),
    "UTF-16 in jsonl": ("a.jsonl", JSONL.encode("utf-16"), "jsonl, UTF-16"),
    "CR": ("a.csv", CSV.replace("\n", "\r").encode(), "csv, lines end in CR"),
    "CR LF": ("a.csv", CSV.replace("\n", "\r\n").encode(), "csv"),
    "gzip": ("a.csv.gz", gzip.compress(CSV.encode()), "csv, gzip"),
    "gzip without its ending": ("a.jsonl", gzip.compress(JSONL.encode()), "jsonl, gzip"),
    "bzip2": ("a.jsonl.bz2", bz2.compress(JSONL.encode()), "jsonl, bzip2"),
    "xz": ("a.csv.XZ", lzma.compress(CSV.encode()), "csv, xz"),
    "zstd": ("a.csv.zst", pa.compress(CSV.encode(), "zstd", asbytes=True), "csv, zstd"),
    "gzip of UTF-16": ("a.csv.gz", gzip.compress(CSV.encode("utf-16")), "csv, UTF-16, gzip"),
    "Parquet in csv": ("a.csv", parquet(), "parquet"),
}
NAMED: dict[str, tuple[str, bytes, str]] = {
    "UTF-16 without a mark": ("a.csv", CSV.encode("utf-16-le"), "UTF-16LE without a byte order mark.*utf-16-le"),
    "the same, big end first": ("a.jsonl", JSONL.encode("utf-16-be"), "UTF-16BE without.*`encoding: utf-16-be`"),
    "Windows-1252": ("a.csv", "text\nGewinn für € 5\nÜbung\n".encode("cp1252"), "Windows-1252.*--encoding cp1252"),
    "Windows-1252 in some lines": (
        "a.csv",
        ("text\n" + "profit rose\n" * 20 + "Gewinn für alle\n" * 3).encode("cp1252"),
        "probably Windows-1252",
    ),
    "a JSON array": ("a.jsonl", b'[\n{"text": "up"},\n{"text": "down"}\n]\n', "a JSON array.*jq"),
    "GB18030": ("a.csv", "text,label\n股价大幅上涨,利好\n公司利润下降,利空\n".encode("gb18030"), "GB18030"),
    "Big5": ("a.csv", "text,label\n股價大幅上漲,利多\n公司利潤下降,利空\n".encode("big5"), "Big5"),
    "Shift_JIS": ("a.csv", "text\n会社の利益が増加した\n株価が下落\n".encode("shift_jis"), "Shift_JIS"),
    "EUC-KR": ("a.csv", "text\n회사의 이익이 증가했다\n주가가 하락\n".encode("euc_kr"), "EUC-KR"),
    "zip": ("a.csv", archive("a.csv"), "a zip archive.*[Uu]npack"),
    "an Excel workbook": ("a.csv", archive("xl/workbook.xml"), "an Excel workbook.*CSV UTF-8"),
    "an Excel workbook by its name": ("a.xlsx", archive("xl/workbook.xml"), "an Excel workbook.*CSV UTF-8"),
    "an old workbook": ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0\n", "an old Excel"),
    "an HTML page": ("a.csv", b"<!DOCTYPE html>\n<html>404</html>\n", "an HTML page"),
    "a pointer of Git LFS": ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "a PDF file": ("a.txt", b"%PDF-1.7\n\xff\xfe\0\n", "a PDF file"),
    "text in parquet": ("a.parquet", CSV.encode(), "a Parquet file.*found text.*[Rr]ename"),
    "gzip in parquet": ("a.parquet", gzip.compress(CSV.encode()), "a Parquet file.*found gzip"),
    "a cut gzip file": ("a.csv.gz", gzip.compress(CSV.encode())[:30], "undamaged gzip data"),
    "an empty gzip file": ("a.csv.gz", gzip.compress(b""), "an empty file"),
    "an unknown separator": ("a.csv", CSV.replace(",", "^").encode(), r"columns id\^text\^label"),
    "semicolons without the column": ("a.csv", b"id;headline\n1;up\n", "columns id, headline.*headline"),
}


def write(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("case", READ)
def test_unambiguous_content_is_read_and_named_by_inspect(tmp_path: Path, case: str) -> None:
    name, content, description = READ[case]
    path = write(tmp_path, name, content)
    assert [(r.values["text"], r.error) for r in read_texts(path)] == [(text, None) for text in TEXTS]
    assert describe_format(path) == inspect_file(path).format == description
    assert "text" in read_column_names(path)


@pytest.mark.parametrize("case", NAMED)
def test_other_content_is_named_with_what_to_do(tmp_path: Path, case: str) -> None:
    name, content, message = NAMED[case]
    with pytest.raises(Fault, match=message):
        list(read_records(write(tmp_path, name, content)))


@pytest.mark.parametrize(
    ("encoding", "separator", "description"),
    [
        ("gb18030", None, "GB18030"),
        ("utf-16-le", "^", "separated by `^`, UTF-16LE"),
        ("UTF8", "tab", "separated by tabs"),
    ],
)
def test_text_format_reads_what_cannot_be_detected(
    tmp_path: Path, encoding: str, separator: str | None, description: str
) -> None:
    form = TextFormat(encoding=encoding, separator=separator)
    content = CSV.replace(",", form.separator or ",").encode(encoding)
    path = write(tmp_path, "a.csv", content)
    task = TaskSettings(labels=("up", "down"), format=form)
    assert [r.values["text"] for r in read_texts(path, Columns(), form)] == TEXTS
    assert (inspect_file(path, task).classes, inspect_file(path, task).format) == (
        {"up": 1, "down": 1},
        f"csv, {description}",
    )


def test_single_lines_of_another_encoding_are_errors_of_their_lines(tmp_path: Path) -> None:
    for broken, other in ((2, 40), (3, 60)):
        lines = [b"profit rose"] * other + ["fünf".encode("cp1252")] * broken
        records = read_texts(write(tmp_path, "a.txt", b"\n".join(lines)))
        assert sum(record.error is not None for record in records) == broken
    mixed = ["利润".encode(), *["für".encode("cp1252")] * 3, *[b"profit"] * 5]
    assert sum(record.error is not None for record in read_texts(write(tmp_path, "b.txt", b"\n".join(mixed)))) == 3


def test_bytes_that_an_encoding_lacks_are_an_error_of_their_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "利润\n".encode("gb18030") + b"\xff\xff\n" + "下降".encode("gb18030"))
    records = list(read_texts(path, Columns(), TextFormat(encoding="gb18030")))
    assert [r.error for r in records] == [None, "broken encoding: not GB18030", None]
    odd = "\ufeffup\n".encode("utf-16-le") + b"\x00\xd8\n\x00" + "down\n".encode("utf-16-le")
    assert [r.error for r in read_texts(write(tmp_path, "b.txt", odd))] == [None, "broken encoding: not UTF-16", None]


@pytest.mark.parametrize(
    "wrong", [{"encoding": "rot13"}, {"encoding": "utf-99"}, {"separator": "ab"}, {"separator": '"'}]
)
def test_text_format_refuses_what_python_cannot_decode(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="expected"):
        TextFormat(**wrong)
    (option,) = wrong
    with pytest.raises(Fault, match=f"--{option}"):
        parse_text_format(wrong.get("encoding"), wrong.get("separator"))


def test_line_longer_than_the_limit_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe.data.formats.text_lines.MAX_LINE", 1000)
    for encoding in ("utf-8", "utf-16"):
        path = write(tmp_path, "a.txt", ("up\n" + "x" * 200_000 + "\ndown\n").encode(encoding))
        lines = [(r.line, r.error and r.error[:13]) for r in read_texts(path)]
        assert lines == [(1, None), (2, "line too long"), (3, None)]


def test_stream_gives_each_line_as_it_arrives() -> None:
    class Stream(io.BytesIO):
        lines = 0

        def readline(self, size: int | None = -1) -> bytes:
            self.lines += 1
            return super().readline(size)

    for content in (b"\xef\xbb\xbfup\ndown\n", "\ufeffup\ndown\n".encode("utf-16-le")):
        stream = Stream(content + content[-8:] * 50)
        assert next(stream_lines(stream)) == TextLine(1, "up\n", None)
        assert stream.lines <= 3
        assert next(stream_lines(Stream(b""), None), None) is None


def test_guess_of_an_encoding_needs_text() -> None:
    assert guess_encoding(bytes(range(1, 256))) is None
    assert guess_encoding(b"profit rose by \x80 5 million\n") == "cp1252"
