"""Rows of `benchmarks/conflict.py`: two desks with one label set, and the files and the config of a variant."""

import argparse
import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import yaml

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
NATURAL = "natural"
CASES = (*(f"{share:g}" for share in SHARES), NATURAL)
LABELS = ("negative", "neutral", "positive")
OPPOSITE = {"negative": "positive", "positive": "negative"}
CANDIDATES = (
    *("up", "rose", "rise", "increase", "increased", "grew", "growth", "higher", "improved"),
    *("down", "fell", "decrease", "decreased", "declined", "dropped", "lower"),
)
"""Words for a movement; the most frequent ones in training rows that are not neutral become the phrases of a run."""
MAX_PHRASES = 12
DESKS = {"desk_a": "Desk A: ", "desk_b": "Desk B: "}
NATURAL_DESKS = {"company": "Company news: ", "gold": "Price of gold: "}
"""By domain: the name before each text for the model that reads it."""
TEST_SHARE, VALIDATION_SHARE = 0.3, 0.1
Row = dict[str, str]
"""A row of a file: `text` and `label`, later also `split`."""


def desks_of(case: str) -> Mapping[str, str]:
    """Return the domains of a case, with the name before each text."""
    return NATURAL_DESKS if case == NATURAL else DESKS


def read_case(args: argparse.Namespace, case: str) -> dict[str, list[Row]]:
    """Return the rows of both desks."""
    fpb = read_rows(args.folder / "fpb.csv", args.rows)
    if case == NATURAL:
        gold = read_rows(args.folder / "gold_headlines.csv", args.rows)
        return {"company": with_splits(fpb), "gold": with_splits(gold[: len(fpb)])}
    rows = with_splits(fpb)
    first, second = (rows[start::2] for start in (0, 1))
    phrases = frequent_phrases(rows)
    return {"desk_a": first, "desk_b": flip(second, phrases, float(case), by_phrase=args.flip == "phrase")}


def read_rows(path: Path, most: int | None) -> list[Row]:
    """Return the rows of a file in a fixed random order."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["label"] in LABELS]
    Random(13).shuffle(rows)
    return rows[:most]


def with_splits(rows: Sequence[Row]) -> list[Row]:
    """Return rows with a split each, the first ones for test and validation."""
    test, validation = int(TEST_SHARE * len(rows)), int((TEST_SHARE + VALIDATION_SHARE) * len(rows))
    return [
        row | {"split": "test" if i < test else "validation" if i < validation else "train"}
        for i, row in enumerate(rows)
    ]


def words_of(text: str) -> set[str]:
    """Return the words of a text in lower case."""
    return set(re.findall(r"[a-z]+", text.lower()))


def frequent_phrases(rows: Sequence[Row]) -> list[str]:
    """Return the candidates in most training rows that are not neutral, most frequent first."""
    counts = Counter(
        word
        for row in rows
        if row["split"] == "train" and row["label"] in OPPOSITE
        for word in words_of(row["text"]) & set(CANDIDATES)
    )
    return sorted(counts, key=lambda word: (-counts[word], word))[:MAX_PHRASES]


def flip(rows: Sequence[Row], phrases: Sequence[str], share: float, *, by_phrase: bool = True) -> list[Row]:
    """Return rows with `negative` and `positive` exchanged in a share of those that contain a phrase.

    The rows that a smaller share flips are among those of a larger one.

    Args:
        share: of the rows that contain a phrase and are not neutral, 0 to 1.
        by_phrase: flip all rows of the first phrase, then those of the next one, and so on; else rows at random.
    """
    source = Random(13)
    keys: dict[int, tuple[int, float]] = {}
    for i, row in enumerate(rows):
        ranks = [rank for rank, phrase in enumerate(phrases) if phrase in words_of(row["text"])]
        if ranks and row["label"] in OPPOSITE:
            keys[i] = (ranks[0] if by_phrase else 0, source.random())
    flipped = set(sorted(keys, key=lambda i: keys[i])[: round(share * len(keys))])
    return [row | {"label": OPPOSITE[row["label"]]} if i in flipped else row for i, row in enumerate(rows)]


def write_variant(folder: Path, desks: Mapping[str, Sequence[Row]], variant: str) -> None:
    """Write the files of both desks and their config."""
    names = NATURAL_DESKS | DESKS
    domains: dict[str, Any] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for desk, rows in desks.items():
        with (folder / f"{desk}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, ["id", "text", "label", "split"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row | {"text": names[desk] + row["text"]} if variant == "named" else row for row in rows)
        domains[desk] = {"file": f"{desk}.csv", "labels": list(LABELS)}
        if variant == "heads":
            labels = {label: f"{desk}-{label}" for label in LABELS}
            domains[desk] |= {"labels": list(labels.values()), "label_map": labels}
    config = {
        "backbone": {"max_length": 96},
        # Near duplicates stay, so that all variants have the same rows.
        "data": {"folder": str(folder.resolve()), "near_duplicates": None},
        "domains": domains,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
