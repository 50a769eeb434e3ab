"""Parsing of free-text answers: a choice, a number or named entities; nothing if the answer states none."""

import re
import string
from collections.abc import Sequence

NUMBER = re.compile(r"(?P<open>\()?(?P<sign>[-−+])?\s*[$€£¥]?\s*(?P<digits>\d[\d,]*(?:\.\d+)?|\.\d+)\s*(?P<percent>%)?")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def parse_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The choice that an answer consists of, else the only choice that it contains as whole words; None otherwise.

    Case and surrounding punctuation are ignored. A choice does not count where it is part of a longer one.
    """
    text = answer.strip().strip(string.punctuation + " ").casefold()
    for choice in choices:
        if text == choice.casefold():
            return choice
    contained = []
    for choice in sorted(choices, key=len, reverse=True):
        pattern = rf"(?<!\w){re.escape(choice.casefold())}(?!\w)"
        if re.search(pattern, text):
            contained.append(choice)
            text = re.sub(pattern, " ", text)
    return contained[0] if len(contained) == 1 else None


def parse_number(answer: str) -> tuple[float, bool] | None:
    """The first number in an answer, and whether it is a percentage; a number in parentheses is negative."""
    match = NUMBER.search(answer)
    if match is None:
        return None
    value = float(match["digits"].replace(",", ""))
    in_parentheses = match["open"] is not None and answer[match.end() : match.end() + 1] == ")"
    return (-value if in_parentheses or match["sign"] in ("-", "−") else value), match["percent"] is not None


def parse_entities(answer: str) -> set[tuple[str, str]] | None:
    """Entities as (name, type), one `name, TYPE` per line; empty for `none`; None if no line has this form."""
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    if [line.strip(".").casefold() for line in lines] == ["none"]:
        return set()
    pairs = [line.rpartition(",") for line in lines]
    entities = {(normalize_text(name), kind.strip().upper()) for name, comma, kind in pairs if comma}
    return {(name, kind) for name, kind in entities if name} or None


def normalize_text(text: str) -> str:
    """Text in lower case without articles, punctuation and extra spaces, as SQuAD compares answers."""
    return " ".join(_ARTICLES.sub(" ", text.casefold().translate(_PUNCTUATION)).split())
