"""Validation of settings: all errors at once, as sentences, with the line and a suggestion for misspelt keys."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from experts.errors import Fault
from experts.yaml_io import Location, Place, Places
from experts.yaml_scalars import kind_of

Model = TypeVar("Model", bound=BaseModel)
MAX_CHARACTERS = 200
"""Length at which a value is truncated in an error message."""


def validate_settings(
    model: type[Model], raw: Mapping[str, Any], places: Places | None = None, inside: tuple[str, ...] = ()
) -> tuple[Model | None, list[str]]:
    """Validate raw settings.

    Booleans are refused where a number is expected, which pydantic would accept as 0 or 1.

    Args:
        model: the settings.
        raw: their values as read from a file.
        places: where the values were written.
        inside: path of these settings within those that `places` are of.

    Returns:
        the settings, None if they are invalid; and every error as a sentence.
    """
    places = places or {}
    booleans = dict(booleans_as_numbers(model, raw, inside))
    errors = []
    for loc, value in booleans.items():
        place = find_place(places, loc)
        errors.append(_sentence(loc, f"expected a number, found {_shown(value, place)}", place))
    settings = None
    try:
        settings = model.model_validate(raw)
    except ValidationError as error:
        others = [detail for detail in error.errors() if (*inside, *detail["loc"]) not in booleans]
        errors += [format_error(detail, inside, model=model, places=places) for detail in others]
    return (None if errors else settings), errors


def format_error(
    error: Any, inside: tuple[str, ...] = (), *, model: type[BaseModel], places: Places | None = None
) -> str:
    """Format one validation error of a settings model as a sentence.

    Args:
        error: an element of `ValidationError.errors()`.
        inside: path of the validated part within the settings.
        model: the settings, whose keys are suggested for a misspelt one.
        places: where the values were written.
    """
    loc = tuple(part for part in (*inside, *error["loc"]) if part != "[key]")
    place, value = find_place(places or {}, loc), error["input"]
    if error["type"] == "extra_forbidden":
        near = _nearest(str(loc[-1]), _keys_at(loc[:-1], model))
        return _sentence(loc, "unknown key" + (f", did you mean {near}?" if near else "; remove it"), place)
    if error["type"] == "string_type" and (value is None or isinstance(value, bool | int | float)):
        text = place.text if place and place.text is not None else None
        quote = f'quote it, "{text}"' if text else "write a text in quotes"
        return _sentence(loc, f"expected text, found {_shown(value, place)}: {quote}", place)
    suffix = "" if error["type"] == "missing" else f", found {_found(value, place)}"
    return _sentence(loc, f"{error['msg'].removeprefix('Value error, ')}{suffix}", place)


def find_place(places: Places, loc: Sequence[Any]) -> Place | None:
    """Return where a value, or the nearest mapping or list that it is part of, was written; None if that is unknown."""
    location: Location = tuple(loc)
    while location and location not in places:
        location = location[:-1]
    found = places.get(location) if location else None
    return found if found is None or len(location) == len(loc) else Place(found.where)


def _sentence(loc: Sequence[Any], problem: str, place: Place | None) -> str:
    path = ".".join(str(part) for part in loc)
    return f"{path}: {problem}" + (f" ({place})" if place else "")


def _shown(value: Any, place: Place | None) -> str:
    """Show a boolean, number or null as written, with what YAML reads it as."""
    kind = kind_of(value)
    if place is None or place.text is None:
        return f"{_truncated(value)}, {kind}"
    return (
        f"{place.text[:MAX_CHARACTERS]}, which YAML reads as {kind}"
        if place.text
        else "nothing, which YAML reads as null"
    )


def _found(value: Any, place: Place | None) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return place.text[:MAX_CHARACTERS] if is_number and place and place.text else _truncated(value)


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
