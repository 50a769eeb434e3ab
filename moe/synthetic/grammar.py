"""A small grammar of signed slots: the label of a text is the product of the signs of its slots.

Each domain has a module with its words and templates.
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
    """Words and templates of one side of a domain: of training and validation, or of test.

    Args:
        words: slot name → sign → fillers separated by `|`. Signs are `++ + 0 - --`, or empty for a slot that does not
            affect the label. Neither does a slot whose name has a `~` before it in a template.
        templates: sentences with slots in braces. `{x}` and `{y}` are figures and form one slot, whose sign is the
            direction from x to y.
    """

    words: Mapping[str, Mapping[str, str]]
    templates: tuple[str, ...]

    def fillers(self, slot: str) -> list[tuple[str, str]]:
        """Return all fillers of a slot, as (sign, filler)."""
        return [(sign, filler) for sign, texts in self.words[slot].items() for filler in texts.split("|")]


@dataclass(frozen=True)
class Grammar:
    """The two sides of one domain, with disjoint templates and slot words."""

    train: Side
    test: Side


@dataclass(frozen=True)
class DrawnText:
    """A generated text.

    Args:
        text: the text.
        sign: -1, 0 or 1.
        strength: of the sentiment, 0 to 1; 0 for a neutral text.
        template: template of the text.
        fillers: words in its slots, without figures.
    """

    text: str
    sign: int
    strength: float
    template: str
    fillers: tuple[str, ...]


@dataclass(frozen=True)
class _Filler:
    sign: str
    text: str
    counts: bool


def draw_text(side: Side, sign: int, random: Random) -> DrawnText:
    """Generate a text of the given sign; templates that can have it, and fillers, are equally likely."""
    template = random.choice([template for template in side.templates if _can_have(side, template, sign)])
    while True:
        filled = _fill(side, template, random)
        signs = [filler.sign for filler in filled.values() if filler.counts and filler.sign]
        words = tuple(filler.text for slot, filler in filled.items() if slot.strip("{~}") not in FIGURES)
        if prod(SIGNS[key] or 0 for key in signs) == sign and len(set(words)) == len(words):
            break
    text = _SLOT.sub(lambda match: filled[match[0]].text, template)
    strengths = [STRENGTHS[key] for key in signs]
    return DrawnText(text=text, sign=sign, strength=max(strengths) if sign else 0.0, template=template, fillers=words)


def _can_have(side: Side, template: str, sign: int) -> bool:
    """Whether fillers exist with which the template has this sign."""
    reachable = {1}
    for ignored, name in dict.fromkeys(_SLOT.findall(template)):
        own = {-1, 0, 1} if name in FIGURES else {SIGNS[key] for key in side.words[name]} - {None}
        if own and not ignored:
            reachable = {before * (after or 0) for before in reachable for after in own}
    return sign in reachable


def _fill(side: Side, template: str, random: Random) -> dict[str, _Filler]:
    filled: dict[str, _Filler] = {}
    for match in _SLOT.finditer(template):
        ignored, name = match.groups()
        if name in FIGURES and match[0] not in filled:
            filled |= _draw_figures(random)
        elif name not in FIGURES:
            filled[match[0]] = _draw_filler(side, name, bool(ignored), random)
    return filled


def _draw_filler(side: Side, name: str, ignored: bool, random: Random) -> _Filler:
    """Draw a filler, all equally likely: the more fillers a sign has, the more common it is."""
    fillers = side.fillers(name)
    sign, text = random.choice([(sign, text) for sign, text in fillers if not ignored or sign != "0"])
    return _Filler(sign, text, counts=not ignored)


def _draw_figures(random: Random) -> dict[str, _Filler]:
    low = random.randint(2, 9)
    high = low * random.randint(3, 9)
    sign = random.choice(("++" if high > 6 * low else "+", "0", "--" if high > 6 * low else "-"))
    x, y = {1: (low, high), 0: (low, low), -1: (high, low)}[SIGNS[sign] or 0]
    return {"{x}": _Filler("", str(x), counts=False), "{y}": _Filler(sign, str(y), counts=True)}
