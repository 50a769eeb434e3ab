"""What a file holds, by its first bytes: text and its encoding, a compressed file, or a format to name in a message."""

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from experts.errors import Fault
from moe.data.formats.refusals import parser_errors

SAMPLE_BYTES = 1 << 16
_OTHER_LINES, _OTHER_SHARE = 3, 0.05
"""Lines, and share of all, that are not UTF-8 in a file of another encoding; all its other lines are ASCII."""
PARQUET = "a Parquet file"
COMPRESSED_ENDINGS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
"""Endings after that of the content, such as `.csv.gz`."""
_COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
"""Longest first, since that of UTF-32 begins with that of UTF-16."""
_FORMATS = {
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "an empty zip archive",
    b"PAR1": PARQUET,
    b"PARE": "an encrypted Parquet file",
    b"ARROW1": "an Arrow or Feather file",
    b"FEA1": "a Feather file",
    b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old Excel or Word file",
    b"%PDF": "a PDF file",
    b"SQLite format 3\x00": "an SQLite database",
    b"\x89HDF": "an HDF5 file",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x04\x22\x4d\x18": "an lz4 file",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"\x80\x04\x95": "a pickle",
}
_TEXT_FORMATS = {
    b"version https://git-lfs": "a Git LFS pointer instead of the file",
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"<?xml": "an XML file",
}
_REMEDIES = {
    "a zip archive": "unpack it and name the file in it",
    "an Excel workbook": "save the sheet as CSV UTF-8 in the spreadsheet program",
    "an old Excel or Word file": "save the sheet as CSV UTF-8 in the spreadsheet program",
    "an Arrow or Feather file": "write it as Parquet, e.g. with pandas: read_feather(…).to_parquet(…)",
    "a Git LFS pointer instead of the file": "download the file with `git lfs pull`",
    "an HTML page": "download the file itself, and not the page about it",
}


@dataclass(frozen=True)
class TextForm:
    """How the text of a file is stored.

    Args:
        encoding: name of a Python codec.
        has_mark: whether it begins with a byte order mark.
        newline: what ends a line.
        compression: `gzip`, `bzip2`, `xz`, `zstd` or None.
        separator: of the cells of a CSV row.
        skipped_lines: lines before the header of a CSV file.
    """

    encoding: str = "utf-8"
    has_mark: bool = False
    newline: str = "\n"
    compression: str | None = None
    separator: str = ","
    skipped_lines: int = 0

    def describe(self, kind: str) -> str:
        """Describe the file in a few words, naming only what is not the default.

        Args:
            kind: of the content: csv, jsonl or txt.
        """
        names = {"\t": "tabs", "|": "`|`", ";": "`;`"}
        parts = [
            f"separated by {names.get(self.separator, f'`{self.separator}`')}" if self.separator != "," else "",
            encoding_name(self.encoding) if self.encoding != "utf-8" else "",
            "lines end in CR" if self.newline == "\r" else "",
            self.compression or "",
        ]
        return ", ".join([kind, *filter(None, parts)])


def encoding_name(codec: str) -> str:
    """Return the usual name of a Python codec, which `iconv` knows too."""
    names = {"cp1252": "Windows-1252", "shift_jis": "Shift_JIS", "big5": "Big5"}
    return names.get(codec, codec.upper().replace("_", "-").replace("-LE", "LE").replace("-BE", "BE"))


def open_content(path: Path, compression: str | None = None) -> IO[bytes]:
    """Open a file for reading bytes, decompressed."""
    if compression == "zstd":
        import pyarrow as pa  # slow to import, and other files do not need it

        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    openers: dict[str | None, Any] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
    return cast(IO[bytes], openers[compression](path, "rb") if compression in openers else path.open("rb"))


def read_start(path: Path) -> bytes:
    """Return the first bytes of a file as it is stored."""
    with path.open("rb") as stream:
        return stream.read(SAMPLE_BYTES)


def compression_of(start: bytes) -> str | None:
    """Return the compression that the first bytes of a file stand for, or None."""
    if start.startswith(b"BZh") and start[4:10] == b"1AY&SY":
        return "bzip2"
    return next((name for magic, name in _COMPRESSIONS.items() if start.startswith(magic)), None)


def format_of(start: bytes, path: Path | None = None) -> str | None:
    """Return the name of the format that the first bytes of a file stand for, or None for text and unknown formats.

    Args:
        start: the first bytes.
        path: the file, to recognise an Excel workbook among zip archives.
    """
    text = start[:64].lstrip().lower()
    if (name := next((name for magic, name in _TEXT_FORMATS.items() if text.startswith(magic)), None)) is not None:
        return name
    if is_utf8_text(start):
        return None  # a header such as `ORC,text`
    name = next((name for magic, name in _FORMATS.items() if start.startswith(magic)), None)
    if name == "a zip archive" and path is not None and _is_workbook(path):
        return "an Excel workbook"
    return name


def format_fault(path: Path, format_name: str, expected: str, remedy: str | None = None) -> Fault:
    """Return the fault for a file in a format that is not read, or not under this name.

    Args:
        path: the file.
        format_name: its format, or compression.
        expected: the formats that are read.
        remedy: see `Fault`; by default that for the format.
    """
    return Fault(f"{expected} at {path}", format_name, remedy or remedy_for(format_name))


def remedy_for(format_name: str) -> str:
    """Return what to do about a file in a format that is not read."""
    return _REMEDIES.get(format_name, "copy it again, convert it, or correct its ending")


def detect_text(path: Path, encoding: str | None = None) -> TextForm:
    """Return how the text of a file is stored: what is unambiguous is detected.

    That is compression by its magic bytes, Unicode by its byte order mark, and lines that end in CR.

    Args:
        path: the file.
        encoding: encoding of the text; None detects it.

    Raises:
        Fault: if the file is empty or holds no text, or text in an encoding that has to be named.
    """
    start = read_start(path)
    compression = compression_of(start)
    if compression is not None:
        with (
            parser_errors(f"undamaged {compression} data in {path}", "copy the file again"),
            open_content(path, compression) as stream,
        ):
            start = stream.read(SAMPLE_BYTES)
    if not start.strip():
        raise Fault(f"rows in {path}", "an empty file", "use another file")
    if (format_name := format_of(start, path if compression is None else None)) is not None:
        raise format_fault(path, format_name, "text (csv, jsonl or txt)")
    mark = next((mark for mark in _BYTE_ORDER_MARKS if start.startswith(mark)), b"")
    codec = encoding or _BYTE_ORDER_MARKS.get(mark, "utf-8")
    if encoding is None and codec == "utf-8":
        _check_utf8(path, start)
    text = start.decode(codec, "replace")
    newline = "\r" if "\n" not in text and "\r" in text.rstrip("\r") else "\n"
    return TextForm(codec, bool(mark), newline, compression)


def _check_utf8(path: Path, start: bytes) -> None:
    """Check that the first lines of a file are UTF-8 text without NUL, except for some of them.

    Raises:
        Fault: if most of them are not, or if several are not and no line outside ASCII is UTF-8.
    """
    lines = [line for line in start.split(b"\n")[: -1 if b"\n" in start else None] if line.strip()]
    broken = sum(not is_utf8_text(line) for line in lines)
    beyond_ascii = sum(not line.isascii() or b"\0" in line for line in lines)
    other = broken == beyond_ascii and broken >= _OTHER_LINES and broken > _OTHER_SHARE * len(lines)
    if (2 * broken <= len(lines) and not other) or (len(lines) == 1 and _ends_within_a_character(start)):
        return
    wide = guess_wide(start)
    guess = wide or guess_encoding(start)
    if guess is None:
        raise Fault(
            f"UTF-8 text in {path}",
            f"NUL or undecodable bytes in {broken} of its first {len(lines)} lines",
            "convert the file (e.g. `iconv -f GB18030 -t UTF-8`), or correct its ending",
        )
    name = encoding_name(guess)
    raise Fault(
        f"UTF-8 text in {path}",
        f"{name} without a byte order mark" if wide else f"text in another encoding, probably {name}",
        f"set `encoding: {guess}` in the settings of its task, pass --encoding {guess} to moe infer or moe data "
        f"inspect, or convert it with `iconv -f {name} -t UTF-8`",
    )


def is_utf8_text(raw: bytes) -> bool:
    """Whether bytes are UTF-8 without NUL."""
    try:
        return "\0" not in raw.decode()
    except UnicodeDecodeError:
        return False


def _ends_within_a_character(sample: bytes) -> bool:
    """Whether the sample is text except for a character that is cut off at its end."""
    return len(sample) == SAMPLE_BYTES and any(is_utf8_text(sample[:-cut]) for cut in range(1, 4))


def guess_wide(sample: bytes) -> str | None:
    """Return the codec of UTF-16 or UTF-32 without a byte order mark, which shows as NULs at regular places."""
    if b"\0" not in sample:
        return None
    for codec, size in (("utf-32-le", 4), ("utf-32-be", 4), ("utf-16-le", 2), ("utf-16-be", 2)):
        text = sample[: len(sample) // size * size].decode(codec, "replace")
        odd = sum(letter in "\0\ufffd" or not (letter.isprintable() or letter in "\r\n\t") for letter in text)
        if text and ("\n" in text or "," in text or " " in text) and odd <= 0.02 * len(text):
            return codec
    return None


def guess_encoding(sample: bytes) -> str | None:
    """Return the codec that text which is not UTF-8 is probably written in, or None if it does not look like text.

    East Asian encodings are distinguished by how many of the characters are common ones.
    """
    if b"\0" in sample or sum(byte < 32 and byte not in b"\t\r\n\x1b" for byte in sample) > 0.01 * len(sample):
        return None
    if _common_share(sample, "euc_kr") > 0.97:  # before GB 18030, in which most Hangul read as frequent characters
        return "euc_kr"
    scores = {codec: _common_share(sample, codec) for codec in ("gb18030", "big5", "shift_jis")}
    best = max(scores, key=lambda codec: scores[codec])
    if scores[best] >= 0.7:
        return best
    high = sum(byte >= 0x80 for byte in sample)
    return "cp1252" if high <= 0.2 * len(sample) else None


def _common_share(sample: bytes, codec: str) -> float:
    """Share of the non-ASCII characters that are common in the languages written in a codec; 0 if it cannot decode."""
    decoder = codecs.getincrementaldecoder(codec)()
    try:
        letters = [letter for letter in decoder.decode(sample) if ord(letter) >= 0x80]  # the last one may be cut
    except UnicodeDecodeError:
        return 0.0
    return sum(_is_common(letter, codec) for letter in letters) / len(letters) if letters else 0.0


def _is_common(letter: str, codec: str) -> bool:
    if "\u3000" <= letter <= "\u303f" or "\uff00" <= letter <= "\uff5e" or letter in "“”‘’—…·":
        return True  # punctuation and full-width letters
    if codec == "euc_kr":
        return "\uac00" <= letter <= "\ud7a3"
    if codec == "shift_jis":
        return "\u3041" <= letter <= "\u30ff" or _lead_byte(letter, codec) <= 0x97
    first, last = {"gb18030": (0xB0, 0xD7), "big5": (0xA4, 0xC6)}[codec]  # their tables of frequent characters
    return first <= _lead_byte(letter, codec) <= last and _encoded_length(letter, codec) == 2


def _lead_byte(letter: str, codec: str) -> int:
    return letter.encode(codec)[0]


def _encoded_length(letter: str, codec: str) -> int:
    return len(letter.encode(codec))


def _is_workbook(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.startswith("xl/") for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False
