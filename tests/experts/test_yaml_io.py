"""Tests of `experts.yaml_io`: limits hold before anything is built, and no value is silently another one."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from experts import yaml_io
from experts.errors import Fault
from experts.yaml_io import MAX_BYTES, Position, parse_yaml, read_yaml
from experts.yaml_scalars import dump_yaml


@pytest.fixture(params=["CSafeLoader", "SafeLoader"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use libyaml's parser, or the one in Python."""
    monkeypatch.setattr(yaml_io, "_PARSER", getattr(yaml, request.param, yaml.SafeLoader))


def merge_bomb(lines: int) -> str:
    """Each line merges the line before nine times."""
    merged = [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, lines + 1)]
    return "\n".join(["a0: &a0 {k: v}", *merged])


def alias_bomb(lines: int) -> str:
    """Each line is a list of the line before nine times."""
    lists = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, lines + 1)]
    return "\n".join(["a0: &a0 [x]", *lists])


REFUSED: dict[str, tuple[str, str]] = {
    "octal": ("a: 1\nb: 010", "line 2: 010 is octal"),
    "leading zeros": ("a: 007", "line 1: 007 is octal"),
    "octal of YAML 1.2": ("a: 0o17", "line 1: 0o17 is octal"),
    "hex": ("a: 0x1F", "hexadecimal"),
    "binary": ("a: [1, 0b11]", "binary"),
    "base 60": ("a: 1:30", "line 1: 1:30 is base 60"),
    "base 60 with seconds": ("a: 12:30:45", "base 60"),
    "date": ("a:\n  - 2024-01-01", "line 2: 2024-01-01 is a date in YAML: quote it"),
    "time": ("a: 2024-01-01T10:00:00Z", "is a date"),
    "underscores": ("a: 1_0", "underscores"),
    "number as key": ("a: {0: x}", "line 1: the key 0, which YAML reads as a number: quote it"),
    "boolean as key": ("no: x", "the key no, which YAML reads as a boolean: quote it"),
    "null as key": ("~: x", "the key ~, which YAML reads as null"),
    "nothing as key": ("? \n: x", "an empty key"),
    "NaN as key": (".nan: x", "the key .nan"),
    "list as key": ("? [a]\n: x", "a mapping or list as a key"),
    "mapping as key": ("? {a: b}\n: x", "a mapping or list as a key"),
    "repeated key": ("a: 1\nb: 2\na: 3", "line 3: duplicate key 'a'"),
    "repeated quoted key": ("a: 1\n'a': 3", "line 2: duplicate key 'a'"),
    "repeated merge": ("x: &x {a: 1}\ny: {<<: *x, <<: *x}", "duplicate key '<<'"),
    "second document": ("a: 1\n---\nb: 2", "line 2: a second document"),
    "empty integer": ("a: !!int ''", "line 1: the tag !!int"),
    "no float": ("a: !!float '_'", "the tag !!float"),
    "no timestamp": ("a: !!timestamp 99", "the tag !!timestamp"),
    "binary tag": ("a: !!binary x", "the tag !!binary"),
    "set": ("!!set {a, b}", "the tag !!set"),
    "ordered mapping": ("a: !!omap [b: 1]", "the tag !!omap"),
    "python": ("a: !!python/object/apply:os.system [true]", "the tag !!python/object/apply:os.system"),
    "renamed python tag": ("%TAG !p! tag:yaml.org,2002:python/\n---\na: !p!name:os.system ''", "the tag !!python"),
    "unknown tag": ("a: !secret b", "the tag !secret"),
    "merge bomb": (merge_bomb(7), "more than 50,000 values"),
    "long merge bomb": (merge_bomb(500), "more than 50,000 values"),
    "alias bomb": (alias_bomb(9), "more than 50,000 values"),
    "self-reference": ("a: &a {b: *a}", "the alias *a"),
    "self-merge": ("a: &a {<<: *a}", "the alias *a"),
    "unknown alias": ("a: *b", "b"),
    "merge of a number": ("a: {<<: 3}", "a merge key << without a mapping"),
    "megabytes": ("a: " + "x" * 3_000_000, "more than 1,048,576 bytes"),
    "many keys": ("\n".join(f"k{i}:" for i in range(30_000)), "more than 50,000 values"),
    "deep list": ("[" * 20_000, "nested more than 32 levels"),
    "deep mapping": ("{a: " * 5_000, "nested more than 32 levels"),
    "deep block": ("\n".join(f"{' ' * i}a:" for i in range(200)), "nested more than 32 levels"),
    "digits": ("a: " + "9" * 5_000, "a number of 5,000 digits; at most 300"),
    "fraction digits": ("a: 0." + "9" * 5_000, "digits"),
    "wrong escape": ('a: "\\U00110000"', "a"),
    "tab": ("a:\n\t- b", "line 2"),
    "NUL": ("a: \0", "character"),
    "surrogate": ("a: \ud800", "no valid YAML"),
    "future version": ("%YAML 9.0\n---\na: 1", "line 1"),
    "open quote": ("a: 'b", "line"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.usefixtures("parser")
def test_yaml_that_is_ambiguous_or_too_large_is_refused_with_its_line(name: str, tmp_path: Path) -> None:
    text, message = REFUSED[name]
    with pytest.raises(ValueError) as caught:
        parse_yaml(text)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200
    (tmp_path / "a.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(Fault, match=r"a YAML file at .*a\.yaml") as fault:
        read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(fault.value)


def test_all_ambiguous_values_are_listed_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        parse_yaml("a: 010\nb: 1:30\nc: 0x1\nd: 2024-01-01\ne: 1_0\nf: 011\ng: 012")
    assert [f"line {n}: " in str(caught.value) for n in range(1, 8)] == [True] * 5 + [False] * 2
    assert "and 2 more" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.5e3", 1500.0),
        ("-.5", -0.5),
        ("+5", 5),
        ("0", 0),
        ("10_000", 10_000),
        ("on", True),
        ("No", False),
        ("~", None),
        ("", None),
        ("y", "y"),
        ("=", "="),
        ("!!str 010", "010"),
        ("! 12", "12"),
        ("'010'", "010"),
        ('"no"', "no"),
        ("0.50", 0.5),
        ("-1.0e+300", -1e300),
        ("127.0.0.1", "127.0.0.1"),
        ("1.2.3", "1.2.3"),
        ("a: b", {"a": "b"}),
        ("&x [1, *y]", None),
        ("|\n  text\n", "text\n"),
    ],
)
@pytest.mark.usefixtures("parser")
def test_plain_value_is_read_as_it_looks(text: str, value: Any) -> None:
    if "*y" in text:
        with pytest.raises(ValueError, match="y"):
            parse_yaml(text)
        return
    read = parse_yaml(f"k:\n  {text}" if ": " in text else f"k: {text}").value["k"]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.usefixtures("parser")
def test_merge_keys_and_aliases_are_copied_with_the_own_keys_first() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: [*a, *b], x: 9}\nd: *a\n"
    value = parse_yaml(text).value
    assert value["c"] == {"x": 9, "y": 2, "z": 4}
    value["d"]["x"] = 7
    assert value["a"]["x"] == 1, "an override of one must not change the other"


def test_places_name_the_line_and_the_text_as_written() -> None:
    positions = parse_yaml("a: yes\nb:\n  - 1\n  - {c: 'no'}\n").positions
    assert positions[("a",)] == Position("line 1", "yes")
    assert positions[("b", 0)] == Position("line 3", "1")
    assert positions[("b", 1, "c")] == Position("line 4", None)


def test_values_of_equal_hash_are_not_one_key() -> None:
    assert parse_yaml("'0': a\n'no': b\n'': c\n").value == {"0": "a", "no": "b", "": "c"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: é\n".encode("latin-1"), "line 1: bytes that are not UTF-8"),
        ("a: b\n".encode("utf-16"), "UTF-16: save it as UTF-8"),
        (b"- a\n", "a YAML mapping"),
        (b"", "a YAML mapping"),
        ("é".encode() * (MAX_BYTES // 2 + 1), "more than 1,048,576 bytes"),
    ],
)
def test_read_yaml_refuses_other_encodings_and_content(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(Fault, match=message):
        read_yaml(tmp_path / "a.yaml")


def test_read_yaml_accepts_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("\ufeffa: b".encode())
    assert read_yaml(tmp_path / "a.yaml") == {"a": "b"}


PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=30)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False),
    PRINTABLE,
    st.from_regex(r"[-+]?[0-9_.:xoe-]{1,12}", fullmatch=True),
    st.sampled_from(
        ["no", "ON", "~", "null", "010", "1e5", "12e4567", "1:30", "2024-01-01", "0x1f", "1_000", ".inf", "<<"]
    ),
)


@settings(max_examples=200, deadline=None)
@given(value=st.dictionaries(PRINTABLE, st.one_of(SCALARS, st.lists(SCALARS, max_size=4)), max_size=4))
def test_dump_yaml_is_read_as_the_same_values(value: dict[str, Any]) -> None:
    assert parse_yaml(dump_yaml(value)).value == value


def test_dump_yaml_writes_no_aliases() -> None:
    shared = [1, 2]
    text = dump_yaml({"a": shared, "b": shared, "c": math.inf})
    assert "&" not in text
    assert parse_yaml(text).value == {"a": [1, 2], "b": [1, 2], "c": math.inf}


def test_bomb_tests_are_as_large_as_they_claim() -> None:
    text = alias_bomb(3)
    value = parse_yaml(text).value["a3"]
    assert len(list(itertools.chain.from_iterable(itertools.chain.from_iterable(value)))) == 9**3
