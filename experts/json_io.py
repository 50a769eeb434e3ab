"""JSON from outside, parsed strictly: every reader of cards, manifests, logs, data lines and request bodies uses this.

Python's parser accepts what is not JSON (NaN), keeps the last of two equal keys, and raises a different exception for
each kind of bad input; `parse_json` raises `ValueError` for all of them, with one sentence.
`json_object` writes results.
"""

import json
import math
from collections.abc import Collection
from typing import Any, NoReturn

from pydantic import BaseModel

MAX_DEPTH = 100
"""Levels of objects and arrays; deeper values would exceed Python's recursion limit where they are used."""
MAX_DIGITS = 300
"""Digits of an integer, so that every integer can be converted to a float."""


def json_object(value: Any) -> dict[str, Any]:
    """Return the fields of a result that were set, as the `default` of `json.dumps`.

    Raises:
        TypeError: if the value is no model.
    """
    if not isinstance(value, BaseModel):
        raise TypeError(f"{type(value).__name__} cannot be written as JSON")
    return value.model_dump(exclude_unset=True, by_alias=True)


def parse_json(content: str | bytes | bytearray, constants: Collection[str] = ()) -> Any:
    """Parse a JSON text.

    Args:
        content: the text; bytes must be UTF-8, with or without a byte order mark.
        constants: names of the numbers outside JSON that are accepted all the same: NaN, Infinity, -Infinity.

    Raises:
        ValueError: if it is not JSON, repeats a key, is nested too deeply, or has a number that is not finite.
    """

    def constant(name: str) -> float:
        if name not in constants:
            raise ValueError(f"{name}, which is not a JSON number")
        return float(name)

    try:
        text = content if isinstance(content, str) else bytes(content).decode("utf-8")
        value = json.loads(
            text.removeprefix("\ufeff"),
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=constant,
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"bytes that are not UTF-8 at position {error.start}") from error
    except RecursionError:
        _refuse_depth()
    except json.JSONDecodeError as error:
        raise ValueError(f"no valid JSON: {error.msg}, line {error.lineno} column {error.colno}") from error
    except ValueError:
        raise  # of the functions below
    except Exception as error:  # whatever else the parser raises is about its input
        raise ValueError(f"no valid JSON: {type(error).__name__}") from error
    if is_deeper(value, MAX_DEPTH):
        _refuse_depth()
    return value


def _refuse_depth() -> NoReturn:
    raise ValueError(f"values nested more than {MAX_DEPTH} levels deep") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {repeated[:40]!r} twice in one object")
    return mapping


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits; at most {MAX_DIGITS}")
    return int(digits)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]}, which is too large for a number")
    return number


def is_deeper(value: Any, depth: int) -> bool:
    """Whether mappings and lists are nested in more than `depth` levels; without recursion."""
    level = [value] if isinstance(value, dict | list) else []
    while level and depth:
        items = (inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer))
        level = [inner for inner in items if isinstance(inner, dict | list)]
        depth -= 1
    return bool(level)
