"""Standard streams that print any character, whatever the console's encoding."""

import codecs
import io
from collections.abc import Iterable
from typing import IO

PLAIN = "finmoe.plain"
"""Name of the error handler that writes what an encoding lacks in ASCII."""
_SYMBOLS = {
    "…": "...",
    "→": "->",
    "←": "<-",
    "≥": ">=",
    "≤": "<=",
    "≈": "~",
    "±": "+/-",
    "−": "-",
    "–": "-",
    "—": "-",
    "×": "x",
    "·": "-",
    "•": "*",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "─": "-",
    "━": "-",
    "│": "|",
}
_BOXES, _BLOCKS = range(0x2500, 0x2580), range(0x2580, 0x25A0)


def replace_unencodable(streams: Iterable[IO[str]]) -> None:
    """Make streams write ASCII for characters that their encoding lacks, instead of raising an error.

    Typographic symbols, boxes and bars get a similar sign, other characters their code point, such as `\\u5229`.
    """
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PLAIN)


def _to_plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain_character, error.object[error.start : error.end])), error.end


def _plain_character(character: str) -> str:
    if ord(character) in _BLOCKS:
        return "#"
    other = "+" if ord(character) in _BOXES else character.encode("ascii", "backslashreplace").decode()
    return _SYMBOLS.get(character, other)


codecs.register_error(PLAIN, _to_plain)
