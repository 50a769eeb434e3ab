"""Tests of `moe.data.formats.json_lines`: columns of the first rows, and lines that are no objects."""

import json
from pathlib import Path

import pytest

from experts.errors import Fault
from moe.data.formats.content import TextForm
from moe.data.formats.json_lines import json_columns, json_rows


def write(folder: Path, *lines: str) -> Path:
    path = folder / "rows.jsonl"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


def test_columns_are_those_of_all_first_rows_in_order(tmp_path: Path) -> None:
    path = write(tmp_path, '{"b": 1, "a": 2}', "", "[1]", '{"c": 3, "a": 4}')
    assert json_columns(path, TextForm()) == ["b", "a", "c"]


def test_columns_of_rows_after_the_first_thousand_are_not_listed(tmp_path: Path) -> None:
    path = write(tmp_path, *['{"a": 1}'] * 1000, '{"late": 1}')
    assert json_columns(path, TextForm()) == ["a"]
    assert [row for _, row, _ in json_rows(path)][-1] == {"late": 1}


def test_columns_are_unknown_if_no_row_can_be_read(tmp_path: Path) -> None:
    assert json_columns(write(tmp_path, "text", "1", "null"), TextForm()) is None


@pytest.mark.parametrize("lines", [('[{"text": "a"}, {"text": "b"}]',), ("[", '  {"text": "a"},', "]"), ("[]",)])
def test_array_is_refused_with_the_command_that_converts_it(tmp_path: Path, lines: tuple[str, ...]) -> None:
    with pytest.raises(Fault, match=r"found a JSON array\. Write it as JSON lines, e\.g\. with `jq"):
        json_columns(write(tmp_path, *lines), TextForm())


def test_rows_that_all_repeat_a_key_are_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="'text' more than once"):
        json_columns(write(tmp_path, '{"text": 1, "text": 2}'), TextForm())
    assert json_columns(write(tmp_path, '{"text": 1, "text": 2}', '{"text": 3}'), TextForm()) == ["text"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("{", "invalid JSON"),
        ('{"a": 1,}', "invalid JSON"),
        ("{'a': 1}", "invalid JSON"),
        ('{"a": 1} {"a": 2}', "invalid JSON"),
        ("[1, 2]", "not a JSON object: list"),
        ('"text"', "not a JSON object: str"),
        ("null", "not a JSON object: NoneType"),
        ('{"a": 1, "a": 2}', "repeated key: 'a'"),
        ('{"a": "\\ud800"}', "broken encoding: unpaired surrogate"),
        ('{"\\udfff": 1}', "broken encoding: unpaired surrogate"),
        ('{"a": ' + "[" * 100_000 + "}", "invalid JSON: nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "invalid JSON: a number of more than"),
        ('{"a": "\0"}', "NUL byte"),
    ],
    ids=lambda value: value[:20],
)
def test_line_that_is_no_usable_object_is_an_error_of_its_line(tmp_path: Path, line: str, error: str) -> None:
    rows = list(json_rows(write(tmp_path, '{"a": 1}', line, '{"a": 2}')))
    assert [(number, row) for number, row, problem in rows if problem is None] == [(1, {"a": 1}), (3, {"a": 2})]
    (broken,) = [problem for _, _, problem in rows if problem is not None]
    assert broken.startswith(error)


def test_broken_line_is_kept_as_text(tmp_path: Path) -> None:
    assert list(json_rows(write(tmp_path, "  half {  "))) == [
        (1, {"": "half {"}, "invalid JSON: Expecting value: line 1 column 1 (char 0)")
    ]


def test_paired_surrogates_nested_repetitions_and_unicode_are_no_errors(tmp_path: Path) -> None:
    rows = ['{"a": "\\ud83d\\ude00"}', '{"a": {"b": 1}, "c": {"b": 2}}', '{"a": "利好", "\\u0061b": 1}']
    assert [(row, error) for _, row, error in json_rows(write(tmp_path, *rows))] == [
        (json.loads(row), None) for row in rows
    ]
