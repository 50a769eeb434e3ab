"""Checks and repairs of single texts, for every source that texts come from."""

import re

_SURROGATES = re.compile("[\ud800-\udfff]")


def text_problem(value: object) -> str | None:
    """Return why a value cannot be the text of a row, or None if it can."""
    if value is None:
        return "missing text"
    if not isinstance(value, str):
        return f"text is not a string: {type(value).__name__}"
    if not any(letter.isprintable() and not letter.isspace() for letter in value):
        return "missing text"
    return None if is_encodable(value) else "broken encoding: unpaired surrogate"


def is_encodable(text: str) -> bool:
    """Whether a string can be encoded as UTF-8; JSON escapes may hold unpaired surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def replace_surrogates(text: str) -> str:
    """Replace unpaired surrogates, which tokenizers do not accept, by U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)
