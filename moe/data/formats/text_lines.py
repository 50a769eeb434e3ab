"""Lines of text, decoded one by one, so that one broken line is one broken row."""

import codecs
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple

from moe.data.formats.content import TextForm, encoding_name, open_content
from moe.data.formats.refusals import parser_errors

MAX_LINE = 1 << 26
"""Most bytes or characters of a line, so that a file of one endless line does not fill the memory."""
_BLOCK = 1 << 16
_MARK, _BROKEN = "finmoe.mark", "\udcff"
codecs.register_error(_MARK, lambda error: (_BROKEN, getattr(error, "end", 0)))


class TextLine(NamedTuple):
    """A line: its number (from 1), its text including the line end, and why it is broken, or None."""

    number: int
    text: str
    error: str | None


def read_lines(path: Path, form: TextForm = TextForm()) -> Iterator[TextLine]:
    """Read the lines of a file lazily, without a byte order mark.

    Raises:
        Fault: if the file cannot be read to its end, such as a cut gzip file.
    """
    kind = f"{form.compression} data" if form.compression else "data"
    number = 0
    with (
        parser_errors(f"undamaged {kind} in {path}", "copy the file again", lambda: f"after line {number}: "),
        open_content(path, form.compression) as stream,
    ):
        for line in stream_lines(stream, form):
            number = line.number
            yield line


def stream_lines(stream: IO[bytes], form: TextForm | None = None) -> Iterator[TextLine]:
    """Read the lines of a stream as they arrive, without a byte order mark.

    Args:
        stream: of bytes.
        form: how the text is stored; None is UTF-8, unless the stream begins with the byte order mark of UTF-16.
    """
    first = stream.readline(MAX_LINE + 1)
    if form is None:
        form = TextForm("utf-16") if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else TextForm()
    if (form.encoding, form.newline) == ("utf-8", "\n"):
        yield from _utf8_lines(first, stream)
    else:
        yield from _other_lines(first, stream, form)


def _utf8_lines(raw: bytes, stream: IO[bytes]) -> Iterator[TextLine]:
    raw, number = raw.removeprefix(codecs.BOM_UTF8), 1
    while raw:
        if len(raw) <= MAX_LINE:
            yield TextLine(number, *_decode(raw))
        else:
            yield TextLine(number, "", f"line too long: more than {MAX_LINE:,} bytes")
            while raw and not raw.endswith(b"\n"):
                raw = stream.readline(MAX_LINE)
        number += 1
        raw = stream.readline(MAX_LINE + 1)


def _other_lines(first: bytes, stream: IO[bytes], form: TextForm) -> Iterator[TextLine]:
    """Lines in another encoding than UTF-8, or with another end than LF."""
    decoder = codecs.getincrementaldecoder(form.encoding)(_MARK)
    number, parts = 1, list[str]()
    for block in chain([first], iter(partial(stream.readline, _BLOCK), b""), [b""]):
        *ended, rest = decoder.decode(block, not block).split(form.newline)
        for text in ended:
            yield _marked_line(number, "".join([*parts, text]) + "\n", form)
            number, parts = number + 1, []
        if sum(map(len, parts)) <= MAX_LINE:
            parts.append(rest)
    if any(parts):
        yield _marked_line(number, "".join(parts), form)


def _marked_line(number: int, text: str, form: TextForm) -> TextLine:
    text = text.removeprefix("\ufeff") if number == 1 else text
    if len(text) > MAX_LINE:
        return TextLine(number, "", f"line too long: more than {MAX_LINE:,} characters")
    if _BROKEN in text:
        return TextLine(number, text.replace(_BROKEN, "\ufffd"), f"broken encoding: not {encoding_name(form.encoding)}")
    return TextLine(number, *_without_nul(text))


def _decode(raw: bytes) -> tuple[str, str | None]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return raw.decode("utf-8", "replace"), f"broken encoding: byte 0x{raw[error.start]:02x} is not UTF-8"
    return _without_nul(text)


def _without_nul(text: str) -> tuple[str, str | None]:
    return (text.replace("\0", "\ufffd"), "NUL byte") if "\0" in text else (text, None)
