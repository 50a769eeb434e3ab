"""Plain statements: short sentences whose label every reader agrees on, written by a seeded program.

Labelled headlines leave out what needs no journalist: that profit rose, that a price is a price, that a question states
nothing. The ready mixture learns this from these sentences, besides real text. No sentence is taken from a data set.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal, TypedDict

from experts.yaml_io import read_yaml

TABLES = Path(__file__).with_suffix(".yaml")
"""Words and templates, separated by `|` or line breaks; `_` stands for the end of a sentence."""
NEUTRAL_SHARE = 0.3
"""Share of neutral statements; the rest is half positive and half negative."""
CAPITAL_SHARE = 0.4
"""Share of forum posts that begin with a capital letter."""
AMOUNTS = ("${} million", "EUR {} million", "{} million euros", "${}m", "EUR {} mn", "{}%")
Register = Literal["news", "forum"]
Label = Literal["negative", "neutral", "positive"]
LABEL_BY_SIGN: dict[str, Label] = {"-": "negative", "0": "neutral", "+": "positive"}
_SLOT = re.compile(r"\{(\w+)\}")


def generate_statements(register: Register, rows: int, seed: int) -> list[dict[str, str]]:
    """Generate distinct statements; they depend only on the arguments.

    Args:
        register: sentences of `news`, or posts of a `forum`.
        rows: number of statements.
        seed: of the random draws.

    Returns:
        Rows with `id`, `text` and `label`.
    """
    random, tables = Random(f"statements {register} {seed}"), read_tables()
    labels: dict[str, Label] = {}
    while len(labels) < rows:
        label = draw_label(random)
        text = fill(random.choice(tables[register][label]), random)
        ends = tables["sentence_ends"] if register == "news" else tables["post_ends"][label]
        capital = register == "news" or random.random() < CAPITAL_SHARE
        labels.setdefault(end_sentence(text, random.choice(ends), capital), label)
    return [
        {"id": f"statement-{register}-{i}", "text": text, "label": label}
        for i, (text, label) in enumerate(labels.items())
    ]


def generate_target_statements(rows: int, seed: int) -> list[dict[str, str]]:
    """Generate statements on two firms, one row for each firm; they depend only on the arguments.

    Args:
        rows: number of rows, two for each statement.
        seed: of the random draws.

    Returns:
        Rows with `id`, `text`, `target` and `label`.
    """
    random, tables = Random(f"target statements {seed}"), read_tables()
    statements: dict[str, list[tuple[str, Label]]] = {}
    while 2 * len(statements) < rows:
        signs, _, template = random.choice(tables["pairs"]).partition(" ")
        firms = random.sample(tables["words"]["firm"], 2)
        text = fill(template, random, {"a": firms[0], "b": firms[1]})
        labels = [(firm, LABEL_BY_SIGN[sign]) for firm, sign in zip(firms, signs, strict=True)]
        statements.setdefault(end_sentence(text, random.choice(tables["sentence_ends"])), labels)
    return [
        {"id": f"statement-target-{i}-{k}", "text": text, "target": firm, "label": label}
        for i, (text, labels) in enumerate(statements.items())
        for k, (firm, label) in enumerate(labels)
    ][:rows]


class StatementTables(TypedDict):
    """Words and templates, as `TABLES` has them.

    Args:
        words: words for each slot of a template.
        news: templates of news by label.
        forum: templates of posts by label.
        post_ends: ends of posts by label.
        pairs: templates on two firms, each after the signs of their labels.
        sentence_ends: ends of sentences.
    """

    words: dict[str, list[str]]
    news: dict[Label, list[str]]
    forum: dict[Label, list[str]]
    post_ends: dict[Label, list[str]]
    pairs: list[str]
    sentence_ends: list[str]


@cache
def read_tables() -> StatementTables:
    """Read words and templates: the strings of `TABLES` as lists of entries."""

    def split(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: split(inner) for key, inner in value.items()}
        return [part.strip() for part in re.split(r"[|\n]", value) if part.strip()]

    tables: StatementTables = split(read_yaml(TABLES))
    return tables


def draw_label(random: Random) -> Label:
    """Draw the label of a statement."""
    return "neutral" if random.random() < NEUTRAL_SHARE else random.choice(("positive", "negative"))


def fill(template: str, random: Random, given: Mapping[str, str] | None = None) -> str:
    """Fill every slot of a template with an entry of its table, and the slots of that entry too.

    `{low}` and `{high}` are two amounts in one unit, the second one larger; `{n}`, `{percent}`, `{money}` and `{price}`
    are numbers.

    Args:
        given: words for some of the slots.
    """
    low, unit = random.uniform(1, 400), random.choice(AMOUNTS)
    amounts = {"low": low, "high": low * random.uniform(1.05, 2.5)}
    values = {name: unit.format(f"{amount:.1f}") for name, amount in amounts.items()} | dict(given or {})
    while _SLOT.search(template):
        template = _SLOT.sub(lambda match: values.get(match[1]) or _draw(match[1], random), template)
    return " ".join(template.split())


def _draw(slot: str, random: Random) -> str:
    integer, decimal = random.randint(2, 60), random.uniform(0.5, 40)
    number = random.choice((f"{integer}", f"{decimal:.1f}"))
    if slot == "n":
        return f"{integer * random.choice((1, 10, 100)):,}"
    if slot == "percent":
        return number + random.choice(("%", "%", " percent", " per cent"))
    if slot == "money":
        return random.choice(("${} million", "EUR {} million", "{} million euros", "${}bn")).format(number)
    if slot == "price":
        return random.choice(("${}", "${}", "{}", "EUR {}")).format(f"{random.uniform(2, 400):.2f}")
    return random.choice(read_tables()["words"][slot])


def end_sentence(text: str, end: str, capital: bool = True) -> str:
    """Return the text with the end of a sentence, unless it is a question; and with a capital letter or as it is."""
    text = text[0].upper() + text[1:] if capital else text
    return text if text.endswith("?") else text + end.replace("_", "")
