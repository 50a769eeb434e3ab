"""Tests of `moe.data.formats.text_lines`: one broken line is one broken row, in every encoding."""

import codecs
import gzip
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.errors import Fault
from moe.data.formats import text_lines
from moe.data.formats.content import TextForm, detect_text
from moe.data.formats.text_lines import TextLine, read_lines, stream_lines


def lines(content: bytes, form: TextForm | None = None) -> list[TextLine]:
    return list(stream_lines(io.BytesIO(content), form))


def test_lines_have_numbers_and_their_line_ends() -> None:
    assert lines(b"a\nb\r\n\nc") == [
        TextLine(1, "a\n", None),
        TextLine(2, "b\r\n", None),
        TextLine(3, "\n", None),
        TextLine(4, "c", None),
    ]
    assert lines(b"") == []


def test_bytes_that_are_no_utf8_are_an_error_of_their_line() -> None:
    first, second, third = lines(b"fine\nhalf \xe5\x88\nand \xff\n")
    assert first.error is None
    assert second == TextLine(2, "half \ufffd\n", "broken encoding: byte 0xe5 is not UTF-8")
    assert third == TextLine(3, "and \ufffd\n", "broken encoding: byte 0xff is not UTF-8")


def test_nul_is_an_error_and_becomes_the_replacement_character() -> None:
    assert lines(b"a\0b\nc\n") == [TextLine(1, "a\ufffdb\n", "NUL byte"), TextLine(2, "c\n", None)]


def test_byte_order_mark_is_removed_at_the_start_only() -> None:
    mark = codecs.BOM_UTF8
    assert [line.text for line in lines(mark + b"a\n" + mark + b"b\n")] == ["a\n", "\ufeffb\n"]
    wide = "\ufeffa\n\ufeffb\n".encode("utf-16-le")
    assert [line.text for line in lines(wide)] == ["a\n", "\ufeffb\n"]


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_stream_with_the_mark_of_utf16_is_decoded_as_such(mark: bytes) -> None:
    codec = "utf-16-le" if mark == codecs.BOM_UTF16_LE else "utf-16-be"
    assert [line.text for line in lines(mark + "利好\nup\n".encode(codec))] == ["利好\n", "up\n"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "gb18030", "big5", "shift_jis", "cp1252", "utf-16-le"])
def test_encoding_that_is_named_is_decoded_across_blocks(
    tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_lines, "_BLOCK", 5)  # characters and line ends are cut by blocks
    text = ["café", "déjà"] if encoding == "cp1252" else ["上市", "中文"]
    path = tmp_path / "rows.txt"
    path.write_bytes("\n".join([*text, ""]).encode(encoding))
    form = detect_text(path, encoding)
    assert [(line.number, line.text, line.error) for line in read_lines(path, form)] == [
        (i + 1, f"{part}\n", None) for i, part in enumerate(text)
    ]


@given(st.lists(st.text("ab 利é😀\t", max_size=8), min_size=1, max_size=8), st.sampled_from(["utf-8", "utf-16-le"]))
@settings(max_examples=40, deadline=None)
def test_lines_of_every_encoding_joined_give_the_text(parts: list[str], encoding: str) -> None:
    text = "\n".join(parts)
    result = lines(text.encode(encoding), TextForm(encoding))
    assert "".join(line.text for line in result) == text
    assert [line.number for line in result] == list(range(1, len(result) + 1))
    assert all(line.error is None for line in result)


def test_line_beyond_the_limit_is_one_error_in_every_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "MAX_LINE", 20)
    for encoding in ("utf-8", "utf-16-le"):
        result = lines(("short\n" + "x" * 100 + "\nlast\n").encode(encoding), TextForm(encoding))
        assert [(line.number, line.error is None) for line in result] == [(1, True), (2, False), (3, True)]
        assert (result[1].text, result[2].text) == ("", "last\n")
        assert result[1].error is not None
        assert result[1].error.startswith("line too long: more than 20")


def test_gzip_file_that_was_cut_is_refused_after_the_lines_before(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt.gz"
    path.write_bytes(gzip.compress(b"".join(b"line %d\n" % i for i in range(50_000)))[:-1000])
    received: list[int] = []
    with pytest.raises(Fault, match=r"undamaged gzip data in .*after line \d+: .*Copy the file again"):
        received += [line.number for line in read_lines(path, detect_text(path))]
