"""Checks and repairs of single texts, and of targets, for every source that they come from.

A target is an entity of a text whose sentiment is predicted. An encoder reads it as the second segment of a pair, after
the text in its template. A long text is truncated; its target is not, unless it takes more than half of the tokens.
"""

import math
import os
import re
import unicodedata
from collections.abc import Sequence

from experts.errors import Fault

MAX_TARGETS = 300
"""Most targets of one request."""
PLAIN_SEPARATOR = "\n"
"""Written before a target for tokenizers that put no token of their own between the segments of a pair."""
_SURROGATES = re.compile("[\ud800-\udfff]")


def text_problem(value: object) -> str | None:
    """Return why a value cannot be the text of a row, or None if it can."""
    if value is None:
        return "missing text"
    if not isinstance(value, str):
        return f"text is not a string: {type(value).__name__}"
    if not any(letter.isprintable() and not letter.isspace() for letter in value):
        return "missing text"
    if "\0" in value:
        return "NUL byte"
    return None if is_encodable(value) else "broken encoding: unpaired surrogate"


def string_or_none(value: object) -> str | None:
    """Return a string that can be written to any output, or None for another value, which an error explains."""
    return replace_surrogates(value) if isinstance(value, str) else None


def target_problem(value: object) -> str | None:
    """Return why a value cannot be the target of a row, or None if it can."""
    if is_blank(value):
        return "missing target"
    problem = text_problem(value)
    return problem and problem.replace("text", "target", 1)


def is_blank(value: object) -> bool:
    """Whether a cell is empty: None, NaN, or a string without a printable character."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and text_problem(value) == "missing text"


def check_targets(targets: Sequence[str]) -> None:
    """Check the targets that a user names for every text.

    Raises:
        Fault: for more than `MAX_TARGETS`, or one that is blank or cannot be encoded as UTF-8.
    """
    if len(targets) > MAX_TARGETS:
        raise Fault(f"at most {MAX_TARGETS} targets", str(len(targets)), "split them over several calls")
    for target in targets:
        if problem := target_problem(target):
            raise Fault("targets with letters or digits in them", problem, "remove or correct this target")


def is_encodable(text: str) -> bool:
    """Whether a string can be encoded as UTF-8; JSON escapes may hold unpaired surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def decode_argument(text: str) -> str:
    """Return a text of the command line; one in UTF-8 is decoded as such even if the locale is not UTF-8."""
    if is_encodable(text):
        return text
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        return text


def replace_surrogates(text: str) -> str:
    """Replace unpaired surrogates, which tokenizers do not accept, by U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)


def target_limit(max_length: int, special_tokens: int) -> int:
    """Return the most tokens of a target: half of all, and few enough to leave two for the text.

    Args:
        max_length: most tokens of the pair, special tokens included.
        special_tokens: number of special tokens of a pair.
    """
    return max(1, min(max_length // 2, max_length - special_tokens - 2))


def cut_target(target: str, offsets: Sequence[tuple[int, int]], limit: int) -> str:
    """Return a target up to the end of its last token within the limit; unchanged if it has no more tokens.

    Args:
        target: the entity.
        offsets: start and end of each of its tokens, in characters; without special tokens.
        limit: most tokens, see `target_limit`.
    """
    return target if len(offsets) <= limit else target[: max(1, offsets[limit - 1][1])]


def window_overlap(max_length: int, windows: int) -> int:
    """Return the tokens that two windows of a text share: a quarter of a window; 0 if texts are truncated.

    Args:
        max_length: most tokens of a window, special tokens included.
        windows: most windows of a text in training.
    """
    return max_length // 4 if windows > 1 and max_length >= 24 else 0  # a target leaves shorter windows too few tokens


def segment_separator(single_tokens: int, pair_tokens: int) -> str:
    """Return what to write before a target: nothing if special tokens separate the segments of a pair.

    Args:
        single_tokens: special tokens that the tokenizer adds to a single text.
        pair_tokens: those that it adds to a pair.
    """
    return "" if pair_tokens > single_tokens else PLAIN_SEPARATOR


def contains_target(text: str, target: str) -> bool:
    """Whether a text contains a target, without regard to letter case, white space and full-width forms."""
    return _plain(target) in _plain(text)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
