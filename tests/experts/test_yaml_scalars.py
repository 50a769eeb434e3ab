"""Tests of `experts.yaml_scalars`: plain values have one meaning, ambiguous ones are named, the dumper quotes both."""

import random
from typing import Any

import pytest

from experts.yaml_io import parse_yaml
from experts.yaml_scalars import dump_yaml, find_trap, is_number, kind_of, resolve_plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, True) for word in ("true", "True", "TRUE", "yes", "on", "ON")),
        *((word, False) for word in ("false", "no", "No", "off")),
        *((word, None) for word in ("null", "Null", "~", "")),
        ("0", 0),
        ("-17", -17),
        ("+3", 3),
        ("1_000", 1000),
        ("-12_345_678", -12_345_678),
        ("1e-4", 1e-4),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.inf", float("-inf")),
        ("tRuE", "tRuE"),
        ("y", "y"),
        ("1_00", "1_00"),
        ("1.2.3", "1.2.3"),
        ("0x", "0x"),
        ("- 1", "- 1"),
        ("１", "１"),
    ],
)
def test_plain_text_has_one_value(text: str, value: Any) -> None:
    result = resolve_plain(text)
    assert (type(result), result) == (type(value), value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("010", "octal"),
        ("-007", "octal"),
        ("0o17", "octal, hexadecimal or binary"),
        ("0xFF", "octal, hexadecimal or binary"),
        ("0b101", "octal, hexadecimal or binary"),
        ("12:30", "base 60"),
        ("1:30:00", "base 60"),
        ("2024-01-31", "a date"),
        ("2024-1-1 10:00:00", "a date"),
        ("1_00", "a number with underscores"),
        ("1_000.5", "a number with underscores"),
    ],
)
def test_ambiguous_plain_text_is_named(text: str, problem: str) -> None:
    found_problem = find_trap(text)
    assert found_problem is not None
    assert found_problem.startswith(problem)


@pytest.mark.parametrize("text", ["0", "10", "1_000", "0.5", "007x", "24-01-31", "a:30", "12:", "x_1", "_1"])
def test_unambiguous_plain_text_is_no_trap(text: str) -> None:
    assert find_trap(text) is None


def test_kinds_are_named_as_users_know_them() -> None:
    assert [kind_of(value) for value in (None, True, 0, 1.5, "x")] == [
        "null",
        "a boolean",
        "a number",
        "a number",
        "text",
    ]


def test_number_of_any_size_is_a_number() -> None:
    assert is_number("9" * 5000)
    assert not is_number("9" * 5000 + "x")


@pytest.mark.parametrize("seed", range(40))
def test_dumped_text_of_odd_characters_is_read_as_the_same_text(seed: int) -> None:
    source = random.Random(seed)
    alphabet = "0123456789_.:-+eExob~nyf #'\"{}[]&*!|>%@`,?利\t"
    texts = ["".join(source.choices(alphabet, k=source.randint(0, 8))) for _ in range(40)]
    assert parse_yaml(dump_yaml({"texts": texts, **{f"k{i}": text for i, text in enumerate(texts)}})).value == {
        "texts": texts,
        **{f"k{i}": text for i, text in enumerate(texts)},
    }


@pytest.mark.parametrize("seed", range(10))
def test_dumped_numbers_are_read_as_the_same_numbers(seed: int) -> None:
    source = random.Random(seed)
    numbers = [
        source.choice([source.random(), source.gauss(0, 1e12), source.randint(-(10**12), 10**12)]) for _ in range(50)
    ]
    numbers += [0.0, -0.0, 1e-300, 1e300, 1e22, float("inf"), -float("inf")]
    values = parse_yaml(dump_yaml(numbers)).value
    assert [(type(value), value) for value in values] == [(type(number), number) for number in numbers]
