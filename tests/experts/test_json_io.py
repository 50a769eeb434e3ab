"""Tests of `experts.json_io`: everything that is not strict JSON is a `ValueError` with one sentence."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from experts.atomic_io import check_manifest, read_json, write_json
from experts.errors import Fault
from experts.json_io import INLINE, MAX_DEPTH, OMIT_NONE, parse_json, to_json

BAD: dict[str, tuple[str | bytes, str]] = {
    "deep list": ("[" * 200_000, "nested more than 100 levels"),
    "closed deep list": ("[" * 500 + "]" * 500, "nested more than 100 levels"),
    "deep object": ('{"a":' * 5_000 + "1" + "}" * 5_000, "nested more than 100 levels"),
    "5,000 digits": ('{"rank": ' + "9" * 5_000 + "}", "a number of 5,000 digits; at most 300"),
    "negative digits": ("-" + "9" * 5_000, "a number of 5,001 digits"),
    "too large": ('{"a": 1e999}', "1e999, which is too large"),
    "nan": ('{"a": NaN}', "NaN, which is not a JSON number"),
    "infinity": ('{"a": -Infinity}', "-Infinity, which is not a JSON number"),
    "repeated key": ('{"a": {"b": 1, "c": 2, "b": 3}}', "the key 'b' twice in one object"),
    "empty": ("", "line 1 column 1"),
    "two values": ('{"a": 1} {"a": 2}', "Extra data, line 1 column 10"),
    "cut": ('{"a":\n [1, 2', "line 2"),
    "latin-1": ('{"a": "\xe9"}'.encode("latin-1"), "bytes that are not UTF-8 at position 7"),
    "utf-16": ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
    "NUL": ("\0", "no valid JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_json_is_a_value_error_in_one_sentence(name: str, tmp_path: Path) -> None:
    content, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        parse_json(content)
    assert len(str(caught.value)) < 120
    path = tmp_path / "manifest.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for read in (lambda: read_json(path), lambda: check_manifest(tmp_path, "a mixture")):
        with pytest.raises(Fault, match=r"manifest\.json") as fault:
            read()
        assert "\n" not in str(fault.value)


@pytest.mark.parametrize("value", [{"a": [1, -2.5, None, True, "é"]}, [], "x", 10**299, 1e-300, {}])
def test_json_is_parsed_as_by_the_standard_library(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(b"\xef\xbb\xbf" + json.dumps(value, ensure_ascii=False).encode()) == value


def test_json_of_the_greatest_depth_is_accepted() -> None:
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(ValueError, match="levels deep"):
        parse_json("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


def test_constants_are_accepted_where_a_caller_names_them() -> None:
    assert math.isnan(parse_json('{"score": NaN}', constants=("NaN",))["score"])
    with pytest.raises(ValueError, match="Infinity"):
        parse_json("Infinity", constants=("NaN",))


@dataclass(frozen=True)
class Inner:
    """A result inside another one."""

    value: float | None
    note: str | None = field(default=None, metadata=OMIT_NONE)


@dataclass(frozen=True)
class Outer:
    """A result with others inside."""

    b: Inner
    a: Inner = field(metadata=INLINE)
    c: tuple[Inner, ...]


def test_a_result_is_written_as_an_object_of_its_fields_in_order(tmp_path: Path) -> None:
    result = Outer(b=Inner(None), a=Inner(0.5, "half"), c=(Inner(1.0),))
    expected = {"b": {"value": None}, "value": 0.5, "note": "half", "c": [{"value": 1.0}]}
    assert to_json(result) == expected
    write_json(tmp_path / "result.json", result)
    assert json.dumps(read_json(tmp_path / "result.json")) == json.dumps(expected), (
        "keys are in the order of the fields"
    )
    with pytest.raises(TypeError, match="set cannot be written as JSON"):
        to_json({1})
