"""Tests of plain statements: what they are, and that they repeat no sentence that the ready mixture is tested on."""

import re
from collections import Counter
from random import Random

import pytest
from plain_sentences import SENTENCES

from moe.synthetic.statements import (
    LABEL_BY_SIGN,
    Register,
    fill,
    generate_statements,
    generate_target_statements,
    read_tables,
)

ROWS = 3000
REGISTERS: tuple[Register, ...] = ("news", "forum")


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z']+", re.sub(r"\$[a-z]+", "ticker", text.lower())))


def similarity(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("register", REGISTERS)
def test_statements_are_distinct_reproducible_and_have_no_open_slot(register: Register) -> None:
    rows = generate_statements(register, ROWS, 13)
    assert rows == generate_statements(register, ROWS, 13)
    assert rows != generate_statements(register, ROWS, 14)
    assert len({row["text"] for row in rows}) == len({row["id"] for row in rows}) == ROWS
    assert not [row for row in rows if re.search(r"[{}|_]|  ", row["text"])]


@pytest.mark.parametrize("register", REGISTERS)
def test_statements_have_three_labels_of_about_equal_size(register: Register) -> None:
    counts = Counter(row["label"] for row in generate_statements(register, ROWS, 13))
    assert set(counts) == set(LABEL_BY_SIGN.values())
    assert min(counts.values()) > 0.2 * ROWS


def test_statement_figures_go_in_the_direction_that_the_sentence_states() -> None:
    rows = generate_statements("news", ROWS, 13)
    pairs = [(row, re.search(r"(rose|fell) from \D*([\d.]+)\D+ to \D*([\d.]+)", row["text"])) for row in rows]
    stated = [(match[1], float(match[2]) < float(match[3])) for _, match in pairs if match]
    assert len(stated) > 10
    assert set(stated) == {("rose", True), ("fell", False)}


def test_statements_are_not_near_a_sentence_of_the_test() -> None:
    texts = [words(row["text"]) for register in REGISTERS for row in generate_statements(register, 2 * ROWS, 13)]
    near = {text: max(similarity(words(text), other) for other in texts) for text, _ in SENTENCES}
    assert {text: value for text, value in near.items() if value >= 0.7} == {}


def test_statements_use_every_table_and_every_slot_has_one() -> None:
    tables = read_tables()
    groups = [tables["words"], tables["news"], tables["forum"], {"": tables["pairs"]}]
    slots = {
        slot
        for group in groups
        for entries in group.values()
        for text in entries
        for slot in re.findall(r"{(\w+)}", text)
    }
    assert slots - {"a", "b", "low", "high", "n", "percent", "money", "price"} == set(tables["words"])


def test_target_statements_have_a_row_for_each_firm_that_they_name() -> None:
    rows = generate_target_statements(600, 13)
    assert rows == generate_target_statements(600, 13)
    assert all(row["target"] in row["text"] for row in rows)
    assert set(Counter(row["text"] for row in rows).values()) == {2}
    labels = {text: [row["label"] for row in rows if row["text"] == text] for text in {row["text"] for row in rows}}
    assert sum(len(set(pair)) == 2 for pair in labels.values()) > 0.7 * len(labels)


def test_given_words_fill_their_slots() -> None:
    assert fill("{a} beats {b}", Random(1), {"a": "Arvenia", "b": "Kestor"}) == "Arvenia beats Kestor"
