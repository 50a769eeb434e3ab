"""Settings of the format of text files, from a config or from the command line.

Kept free of heavy imports, since the configuration imports it.
"""

import codecs

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from experts.errors import Fault


class TextFormat(BaseModel):
    """How the text of a csv, jsonl or txt file is stored, where that cannot be detected."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoding: str | None = Field(
        None,
        description="encoding of the text, such as gb18030, cp1252 or utf-16-le; null: UTF-8, or what the byte order "
        "mark of the file names",
    )
    separator: str | None = Field(
        None,
        description="character between the cells of a CSV row (`tab` is a tab); null: a comma, or the semicolon, tab "
        "or `|` that makes columns of the header",
    )

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, encoding: str | None) -> str | None:
        if encoding is None:
            return None
        try:
            codecs.lookup(encoding).incrementaldecoder("strict").decode(b"")
            "".encode(encoding)  # refuses codecs that are no text encodings, such as `rot13`
        except (LookupError, ValueError, TypeError):
            raise ValueError("expected a text encoding that Python knows, such as utf-16, cp1252 or gb18030") from None
        return codecs.lookup(encoding).name

    @field_validator("separator", mode="before")
    @classmethod
    def _check_separator(cls, separator: object) -> object:
        if not isinstance(separator, str):
            return separator
        separator = "\t" if separator in ("tab", "\\t") else separator
        if len(separator) != 1 or separator in '\r\n"\0' or separator.isalnum():
            raise ValueError("expected one character that is no letter, digit, quote or line end, such as ; or |")
        return separator


def parse_text_format(encoding: str | None, separator: str | None) -> TextFormat:
    """Return the text format that `--encoding` and `--separator` name.

    Raises:
        Fault: if one of them is invalid.
    """
    try:
        return TextFormat(encoding=encoding, separator=separator)
    except ValidationError as error:
        first = error.errors()[0]
        expected = first["msg"].removeprefix("Value error, expected ")
        raise Fault(f"{expected} for --{first['loc'][0]}", repr(first["input"]), "correct the option") from error
