"""A small grammar of signed slots: the label of a text is the product of the signs of its slots.

The words and templates of each domain live in its own module beside this one; rows, splits and files in
`moe.synthetic`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from random import Random

SIGNS = {"++": 1, "+": 1, "0": 0, "-": -1, "--": -1, "": None}
STRENGTHS = {"++": 0.9, "+": 0.5, "0": 0.0, "-": 0.5, "--": 0.9, "": 0.0}
FIGURES = ("x", "y")
_SLOT = re.compile(r"\{(~?)(\w+)\}")


@dataclass(frozen=True)
class Side:
    """The words and templates of one side of a domain: of training (and validation), or of test.

    Args:
        words: slot name → sign → fillers with `|` between them. Signs are `++ + 0 - --`, or empty for a slot that says
            nothing of the label. A `~` before a slot's name in a template draws a filler that does not count either.
        templates: sentences with slots in braces. `{x}` and `{y}` are figures, and count as one slot whose sign is the
            direction from x to y.
    """

    words: Mapping[str, Mapping[str, str]]
    templates: tuple[str, ...]

    def fillers(self, slot: str) -> list[tuple[str, str]]:
        """Every (sign, filler) of a slot."""
        return [(sign, filler) for sign, texts in self.words[slot].items() for filler in texts.split("|")]


@dataclass(frozen=True)
class Grammar:
    """One domain's two sides, whose templates and slot words are disjoint."""

    train: Side
    test: Side


@dataclass(frozen=True)
class DrawnText:
    """One text with how it came about.

    Args:
        sign: -1, 0 or 1.
        strength: 0 to 1, how strongly it says so; 0 for a neutral text.
        template: the template it was made from.
        fillers: the words put in, figures left out.
    """

    text: str
    sign: int
    strength: float
    template: str
    fillers: tuple[str, ...]


@dataclass(frozen=True)
class _Filled:
    sign: str
    text: str
    counts: bool


def draw_text(side: Side, sign: int, random: Random) -> DrawnText:
    """Make one text of the given sign, templates and fillers all being equally likely."""
    template = random.choice([one for one in side.templates if _reaches(side, one, sign)])
    while True:
        filled = _fill(side, template, random)
        counted = [one.sign for one in filled.values() if one.counts and one.sign]
        words = tuple(one.text for slot, one in filled.items() if slot.strip("{~}") not in FIGURES)
        if prod(SIGNS[one] or 0 for one in counted) == sign and len(set(words)) == len(words):
            break
    text = _SLOT.sub(lambda match: filled[match[0]].text, template)
    strengths = [STRENGTHS[one] for one in counted]
    return DrawnText(text, sign, max(strengths) if sign else 0.0, template, words)


def _reaches(side: Side, template: str, sign: int) -> bool:
    counted = [name for ignored, name in _SLOT.findall(template) if not ignored]
    return sign != 0 or any(name in FIGURES or "0" in side.words[name] for name in counted)


def _fill(side: Side, template: str, random: Random) -> dict[str, _Filled]:
    filled: dict[str, _Filled] = {}
    for match in _SLOT.finditer(template):
        ignored, name = match.groups()
        if name in FIGURES and match[0] not in filled:
            filled |= _figures(random)
        elif name not in FIGURES:
            filled[match[0]] = _word(side, name, bool(ignored), random)
    return filled


def _word(side: Side, name: str, ignored: bool, random: Random) -> _Filled:
    """Draw a filler, all equally likely, so that a list's length says how common its sign is."""
    sign, text = random.choice([one for one in side.fillers(name) if not ignored or one[0] != "0"])
    return _Filled(sign, text, not ignored)


def _figures(random: Random) -> dict[str, _Filled]:
    low = random.randint(2, 9)
    high = low * random.randint(3, 9)
    sign = random.choice(("++" if high > 6 * low else "+", "0", "--" if high > 6 * low else "-"))
    x, y = {1: (low, high), 0: (low, low), -1: (high, low)}[SIGNS[sign] or 0]
    return {"{x}": _Filled("", str(x), False), "{y}": _Filled(sign, str(y), True)}
