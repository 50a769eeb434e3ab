"""Validation of settings: all errors at once, as sentences, with the line and a suggestion for misspelt keys."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from experts.errors import Fault
from experts.yaml_io import Location, Position, Positions
from experts.yaml_scalars import kind_of

Model = TypeVar("Model", bound=BaseModel)
MAX_CHARACTERS = 200
"""Length at which a value is truncated in an error message."""


def validate_settings(
    model: type[Model], raw: Mapping[str, Any], positions: Positions | None = None, inside: tuple[str, ...] = ()
) -> tuple[Model | None, list[str]]:
    """Validate raw settings.

    Booleans are refused where a number is expected, which pydantic would accept as 0 or 1.

    Args:
        model: the settings.
        raw: their values as read from a file.
        positions: where the values were written.
        inside: path of these settings within those that `positions` are of.

    Returns:
        the settings, None if they are invalid; and every error as a sentence.
    """
    positions = positions or {}
    booleans = dict(booleans_as_numbers(model, raw, inside))
    errors = []
    for loc, value in booleans.items():
        position = find_position(positions, loc)
        errors.append(_sentence(loc, f"expected a number, found {_shown(value, position)}", position))
    settings = None
    try:
        settings = model.model_validate(raw)
    except ValidationError as error:
        others = [detail for detail in error.errors() if (*inside, *detail["loc"]) not in booleans]
        errors += [format_error(detail, inside, model=model, positions=positions) for detail in others]
    return (None if errors else settings), errors


def format_error(
    error: Any, inside: tuple[str, ...] = (), *, model: type[BaseModel], positions: Positions | None = None
) -> str:
    """Format one validation error of a settings model as a sentence.

    Args:
        error: an element of `ValidationError.errors()`.
        inside: path of the validated part within the settings.
        model: the settings, whose keys are suggested for a misspelt one.
        positions: where the values were written.
    """
    loc = tuple(part for part in (*inside, *error["loc"]) if part != "[key]")
    position, value = find_position(positions or {}, loc), error["input"]
    if error["type"] == "extra_forbidden":
        near = _nearest(str(loc[-1]), _keys_at(loc[:-1], model))
        return _sentence(loc, "unknown key" + (f", did you mean {near}?" if near else "; remove it"), position)
    if error["type"] == "string_type" and (value is None or isinstance(value, bool | int | float)):
        text = position.text if position and position.text is not None else None
        quote = f'quote it, "{text}"' if text else "write a text in quotes"
        return _sentence(loc, f"expected text, found {_shown(value, position)}: {quote}", position)
    suffix = "" if error["type"] == "missing" else f", found {_found(value, position)}"
    return _sentence(loc, f"{error['msg'].removeprefix('Value error, ')}{suffix}", position)


def find_position(positions: Positions, loc: Sequence[Any]) -> Position | None:
    """Return where a value, or the nearest mapping or list that it is part of, was written; None if that is unknown."""
    location: Location = tuple(loc)
    while location and location not in positions:
        location = location[:-1]
    nearest = positions.get(location) if location else None
    return nearest if nearest is None or len(location) == len(loc) else Position(nearest.where)


def _sentence(loc: Sequence[Any], problem: str, position: Position | None) -> str:
    path = ".".join(str(part) for part in loc)
    return f"{path}: {problem}" + (f" ({position})" if position else "")


def _shown(value: Any, position: Position | None) -> str:
    """Show a boolean, number or null as written, with what YAML reads it as."""
    kind = kind_of(value)
    if position is None or position.text is None:
        return f"{_truncated(value)}, {kind}"
    return (
        f"{position.text[:MAX_CHARACTERS]}, which YAML reads as {kind}"
        if position.text
        else "nothing, which YAML reads as null"
    )


def _found(value: Any, position: Position | None) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return position.text[:MAX_CHARACTERS] if is_number and position and position.text else _truncated(value)


def _truncated(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer with more digits than Python converts to text
        return f"{type(value).__name__} too long to show"
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"


def booleans_as_numbers(annotation: Any, value: Any, loc: Location = ()) -> Iterator[tuple[Location, bool]]:
    """Yield the booleans where an annotation expects numbers, with their locations."""
    kinds = _flatten(annotation)
    if isinstance(value, bool):
        if bool not in kinds and any(kind in (int, float) for kind in kinds):
            yield loc, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            for field in _fields_at(annotation, key):
                yield from booleans_as_numbers(field, inner, (*loc, key))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            for field in _items_of(annotation):
                yield from booleans_as_numbers(field, inner, (*loc, i))


def _fields_at(annotation: Any, key: Any) -> Iterator[Any]:
    """Yield the annotation of a key: that of a model's field, or of a mapping's values."""
    if hasattr(annotation, "model_fields"):
        if key in annotation.model_fields:
            yield annotation.model_fields[key].annotation
    elif get_origin(annotation) is dict:
        yield get_args(annotation)[1]
    else:
        for inner in get_args(annotation):
            yield from _fields_at(inner, key)


def _items_of(annotation: Any) -> Iterator[Any]:
    """Yield the annotations of the items of a list or tuple, joined in a union."""
    if get_origin(annotation) in (list, tuple):
        yield annotation
    elif get_origin(annotation) is not dict:
        for inner in get_args(annotation):
            yield from _items_of(inner)


def _keys_at(path: Sequence[Any], model: Any) -> list[str]:
    """Keys that a settings model accepts at a path."""
    for part in path:
        field = getattr(model, "model_fields", {}).get(part)
        annotation = model if field is None else field.annotation
        model = next((inner for inner in _flatten(annotation) if hasattr(inner, "model_fields")), model)
    return list(getattr(model, "model_fields", {}))


def _nearest(key: str, known: Sequence[str]) -> str | None:
    """Return the known key that is most like another one, in any case."""
    near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.5)
    return near[0] if near else None


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
