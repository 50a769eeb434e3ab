"""What pydantic finds wrong in settings, told to people: a sentence, with a guess at the key that was meant.

Which settings there are is `moe.config.run`'s.
"""

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel

LONGEST = 200
"""Characters of a value that a sentence shows."""


def format_error(error: Any, inside: tuple[str, ...] = (), *, model: type[BaseModel]) -> str:
    """One validation error of a model of settings in a sentence, with a guess at what was meant.

    Args:
        error: as pydantic tells it.
        inside: where in the settings the faulty part stands.
        model: the settings.
    """
    error = {**error, "loc": (*inside, *error["loc"])}
    path = ".".join(str(part) for part in error["loc"] if part != "[key]")
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), _keys_at(error["loc"][:-1], model), n=1, cutoff=0.5)
        return f"{path}: unknown key" + (f", did you mean {near[0]}?" if near else "; leave it out")
    found = "" if error["type"] == "missing" else f", found {_shown(error['input'])}"
    return f"{path}: {error['msg'].removeprefix('Value error, ')}{found}"


def _shown(value: Any) -> str:
    """A value for people, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python writes out
        return f"{type(value).__name__} too long to show"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _keys_at(path: Sequence[Any], model: Any) -> list[str]:
    """The keys that the settings know at a place."""
    for part in path:
        field = getattr(model, "model_fields", {}).get(part)
        inner = [model] if field is None else [field.annotation]
        model = next((one for one in _flatten(inner[0]) if hasattr(one, "model_fields")), model)
    return list(getattr(model, "model_fields", {}))


def _flatten(annotation: Any) -> list[Any]:
    return [annotation] + [inner for one in get_args(annotation) for inner in _flatten(one)]
