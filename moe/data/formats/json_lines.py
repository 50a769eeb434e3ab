"""Rows of a JSON lines file; a line that is no object, or an ambiguous one, is a broken row."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from experts.errors import Fault
from moe.data.formats.arrow_tables import RawRow
from moe.data.formats.content import TextForm
from moe.data.formats.refusals import check_unique_names
from moe.data.formats.text_lines import TextLine, read_lines
from moe.data.text_checks import is_encodable

_HEADER_ROWS = 1000
"""Rows from which the columns are collected."""
_Pairs = list[tuple[str, Any]]


def json_columns(path: Path, form: TextForm) -> list[str] | None:
    """Return the keys of the first rows of a JSON lines file; None if none of these rows can be read.

    Raises:
        Fault: if all of these rows that are objects have a key twice, or if the file holds a JSON array.
    """
    repeated: list[str] = []
    first, rows, valid = "", 0, 0
    names: dict[str, None] = {}
    for line in islice(_nonempty_lines(path, form), _HEADER_ROWS):
        row, error, keys = _parse(line)
        first, rows = first or line.text.strip(), rows + 1
        if error is None:
            valid += 1
            names |= dict.fromkeys(row)
        elif len(keys) > len(set(keys)):
            repeated = repeated or keys
    if not names:
        check_unique_names(repeated, path)
    if first.startswith("[") and 2 * valid < rows:
        raise Fault(
            f"one JSON object per line in {path}",
            "a JSON array",
            "write it as JSON lines, e.g. with `jq -c '.[]' FILE`",
        )
    return list(names) or None


def json_rows(path: Path, form: TextForm = TextForm()) -> Iterator[RawRow]:
    """Read the rows of a JSON lines file lazily; empty lines are no rows."""
    for line in _nonempty_lines(path, form):
        row, error, _ = _parse(line)
        yield line.number, row, error


def _nonempty_lines(path: Path, form: TextForm) -> Iterator[TextLine]:
    return (line for line in read_lines(path, form) if line.text.strip() or line.error)


def _parse(line: TextLine) -> tuple[dict[str, Any], str | None, list[str]]:
    """The row of a line, or its text under the key "" with an error; and the keys of the row as they are written."""
    text, outermost = line.text.strip(), _Pairs()

    def to_object(pairs: _Pairs) -> dict[str, Any]:
        nonlocal outermost
        outermost = pairs  # the last call is for the outermost object
        return dict(pairs)

    if line.error:
        return {"": text}, line.error, []
    try:
        row = json.loads(text, object_pairs_hook=to_object)
        broken = "\\u" in text and not is_encodable(json.dumps(row, ensure_ascii=False))
    except (ValueError, RecursionError) as error:
        return {"": text}, f"invalid JSON: {_reason(error)}", []
    if not isinstance(row, dict):
        return {"": text}, f"not a JSON object: {type(row).__name__}", []
    keys = [key for key, _ in outermost]
    if repeated := [key for key, count in Counter(keys).items() if count > 1]:
        return {"": text}, f"repeated key: {repeated[0]!r}"[:200], keys
    return ({"": text}, "broken encoding: unpaired surrogate", []) if broken else (row, None, keys)


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return str(error)
    return f"a number of more than {sys.get_int_max_str_digits()} digits"
