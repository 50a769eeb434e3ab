"""Targets: entities of a text whose sentiment is predicted. How a target is cut, separated and looked for in its text.

An encoder reads a target as the second segment of a pair, after the text in its template. A long text is truncated, and
the target is not, unless it takes more than half of the tokens.
"""

import unicodedata
from collections.abc import Sequence

MAX_TARGETS = 300
"""Most targets of one request."""
PLAIN_SEPARATOR = "\n"
"""Written before a target for tokenizers that put no token of their own between the segments of a pair."""


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
