"""What a written answer says: which choice, which figure, which names; nothing where it says none.

How answers are counted is `moe.qa.scoring`'s.
"""

import re
import string
from collections.abc import Sequence

NUMBER = re.compile(r"(?P<open>\()?(?P<sign>[-−+])?\s*[$€£¥]?\s*(?P<digits>\d[\d,]*(?:\.\d+)?|\.\d+)\s*(?P<percent>%)?")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def parse_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The choice that an answer names: word for word, else the only one that stands in it as whole words.

    Case and punctuation at the ends do not matter. A choice that is named only inside a longer one is not named.
    """
    said = answer.strip().strip(string.punctuation + " ").casefold()
    for choice in choices:
        if said == choice.casefold():
            return choice
    left, named = said, []
    for choice in sorted(choices, key=len, reverse=True):
        pattern = rf"(?<!\w){re.escape(choice.casefold())}(?!\w)"
        if re.search(pattern, left):
            named.append(choice)
            left = re.sub(pattern, " ", left)
    return named[0] if len(named) == 1 else None


def parse_number(answer: str) -> tuple[float, bool] | None:
    """The first figure in an answer, and whether it is told in percent; brackets around it are a minus."""
    found = NUMBER.search(answer)
    if found is None:
        return None
    value = float(found["digits"].replace(",", ""))
    bracketed = found["open"] is not None and answer[found.end() : found.end() + 1] == ")"
    return (-value if bracketed or found["sign"] in ("-", "−") else value), found["percent"] is not None


def parse_entities(answer: str) -> set[tuple[str, str]] | None:
    """Names with their types, `name, TYPE` a line; empty for `none`; None where no line is of that form."""
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    if [line.strip(".").casefold() for line in lines] == ["none"]:
        return set()
    pairs = [line.rpartition(",") for line in lines]
    found = {(normalize_text(name), kind.strip().upper()) for name, comma, kind in pairs if comma and normalize_text(name)}
    return found or None


def normalize_text(text: str) -> str:
    """Words alone, to be compared: lower case, without articles, punctuation and spare space (as SQuAD's are)."""
    return " ".join(_ARTICLES.sub(" ", text.casefold().translate(_PUNCTUATION)).split())
