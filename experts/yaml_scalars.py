"""What plain texts mean in YAML: values that are unambiguous, forms that are refused, and a dumper that quotes both."""

import re
from typing import Any

import yaml

MAX_DIGITS = 300
"""Digits of an integer."""
_WORDS: dict[str, bool | None] = {
    spelling: value
    for words, value in (
        (("true", "yes", "on"), True),
        (("false", "no", "off"), False),
        (("null", "~", ""), None),
    )
    for word in words
    for spelling in (word, word.capitalize(), word.upper())
}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_THOUSANDS = re.compile(r"[-+]?[1-9][0-9]{0,2}(?:_[0-9]{3})+")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_TRAPS = (
    (re.compile(r"[-+]?0[0-9_]+"), "octal in YAML 1.1: write it without the leading zero, or quote it"),
    (re.compile(r"[-+]?0[oxb][0-9a-fA-F_]+"), "octal, hexadecimal or binary: write it in decimals, or quote it"),
    (re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"), "base 60 in YAML 1.1: quote it as text"),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt \t].*)?"), "a date in YAML: quote it as text"),
    (
        re.compile(r"(?=.*_)[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?"),
        "a number with underscores: leave them out, or quote it",
    ),
)
"""Plain values that are refused, since YAML 1.1 and 1.2 or a reader and a parser would differ about them."""


def resolve_plain(text: str) -> Any:
    """Return the value of a plain text: a boolean, None, a number, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text) or _THOUSANDS.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def find_trap(text: str) -> str | None:
    """Return what is ambiguous about a plain text; None if nothing is."""
    if _THOUSANDS.fullmatch(text):
        return None
    return next((kind for pattern, kind in _TRAPS if pattern.fullmatch(text)), None)


def is_number(text: str) -> bool:
    """Whether a plain text is a number, of any size."""
    return _FLOAT.fullmatch(text) is not None


def kind_of(value: Any) -> str:
    """Name what a plain text was read as."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    return "a number" if isinstance(value, int | float) else "text"


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper without aliases, which also quotes texts that this module reads as numbers or refuses."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write a value at every place where it occurs."""
        return True


for _pattern in (_FLOAT, _THOUSANDS, *(pattern for pattern, _ in _TRAPS)):
    _Dumper.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(rf"(?:{_pattern.pattern})$"), list("-+.0123456789")
    )


def dump_yaml(value: Any, **options: Any) -> str:
    """Return plain values as YAML that `parse_yaml` reads as the same values.

    Args:
        options: of PyYAML's `dump`, such as `default_flow_style`.
    """
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **options))
