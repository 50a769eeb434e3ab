"""JSON from outside, parsed strictly: every reader of cards, manifests, logs, data lines and request bodies uses this.

Python's parser accepts what is not JSON (NaN), keeps the last of two equal keys, and raises a different exception for
each kind of bad input; `parse_json` raises `ValueError` for all of them, with one sentence. `json_object` writes
results: an object of the fields of a dataclass or a pydantic model.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn, TypeAlias

from pydantic import BaseModel

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""A value of JSON or YAML."""
MAX_DEPTH = 100
"""Levels of objects and arrays; deeper values would exceed Python's recursion limit where they are used."""
MAX_DIGITS = 300
"""Digits of an integer, so that every integer can be converted to a float."""
OMIT_NONE = {"omit_none": True}
"""Metadata of a dataclass field that JSON leaves out where it is None; other fields are then null."""
INLINE = {"inline": True}
"""Metadata of a dataclass field whose value, a dataclass or None, has its fields in the object of the outer one."""


def json_object(value: Any) -> dict[str, object]:
    """Return the fields of a result in order, as the `default` of `json.dumps`; of a model, those that were set.

    Raises:
        TypeError: if the value is neither a pydantic model nor a dataclass.
    """
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True, by_alias=True)
    if not is_dataclass(value) or isinstance(value, type):
        raise TypeError(f"{type(value).__name__} cannot be written as JSON")
    content: dict[str, object] = {}
    for field in fields(value):
        item = getattr(value, field.name)
        if "inline" in field.metadata:
            content |= {} if item is None else json_object(item)
        elif item is not None or "omit_none" not in field.metadata:
            content[field.name] = item
    return content


def to_json(value: Any) -> Any:
    """Return a result as plain JSON values: results as objects, tuples as lists."""
    return json.loads(json.dumps(value, default=json_object))


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
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:40]!r} twice in one object")
            seen.add(key)
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
