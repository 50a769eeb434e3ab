"""Validation errors of pydantic as sentences for users, with a suggestion for misspelt keys, and all of one config."""

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel

from experts.errors import Fault

MAX_CHARACTERS = 200
"""Length at which a value is truncated in an error message."""


def format_error(error: Any, inside: tuple[str, ...] = (), *, model: type[BaseModel]) -> str:
    """Format one validation error of a settings model as a sentence.

    Args:
        error: an element of `ValidationError.errors()`.
        inside: path of the validated part within the settings.
        model: the settings, whose keys are suggested for a misspelt one.
    """
    error = {**error, "loc": (*inside, *error["loc"])}
    path = ".".join(str(part) for part in error["loc"] if part != "[key]")
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), _keys_at(error["loc"][:-1], model), n=1, cutoff=0.5)
        return f"{path}: unknown key" + (f", did you mean {near[0]}?" if near else "; remove it")
    suffix = "" if error["type"] == "missing" else f", found {_truncated(error['input'])}"
    return f"{path}: {error['msg'].removeprefix('Value error, ')}{suffix}"


def _truncated(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer with more digits than Python converts to text
        return f"{type(value).__name__} too long to show"
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"


def _keys_at(path: Sequence[Any], model: Any) -> list[str]:
    """Keys that a settings model accepts at a path."""
    for part in path:
        field = getattr(model, "model_fields", {}).get(part)
        annotation = model if field is None else field.annotation
        model = next((inner for inner in _flatten(annotation) if hasattr(inner, "model_fields")), model)
    return list(getattr(model, "model_fields", {}))


def _flatten(annotation: Any) -> list[Any]:
    """An annotation and all its type arguments, depth first."""
    return [annotation] + [inner for argument in get_args(annotation) for inner in _flatten(argument)]


class ConfigFault(Fault):
    """All errors of one config, one per line."""

    def __init__(self, source: str, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        single = len(faults) == 1
        self.expected, self.found, self.remedy = f"a valid config in {source}", "; ".join(faults), "fix it"
        body = faults[0] if single else "".join(f"\n  - {fault}" for fault in faults)
        ValueError.__init__(self, f"{source}: {body}" if single else f"{source} has {len(faults)} errors:{body}")
