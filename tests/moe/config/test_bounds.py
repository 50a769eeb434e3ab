"""Every number in every settings model has a finite bound on both sides, and a value outside is one sentence."""

import math
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import annotated_types as at
import pytest
from pydantic import BaseModel

from moe.config.messages import validate_settings
from moe.config.run import RunSettings
from moe.serve.settings import ServeSettings
from moe.sweep.settings import SweepSettings

ROOTS = (RunSettings, ServeSettings, SweepSettings)
OUTSIDE = [math.inf, -math.inf, math.nan, 10**20, -(10**20), 1e300, -1e300]


def settings_models(model: Any) -> Iterator[type[BaseModel]]:
    """Yield a settings model and all models in its fields."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        yield model
        for field in model.model_fields.values():
            yield from settings_models(field.annotation)
    else:
        for argument in get_args(model):
            yield from settings_models(argument)


def number_bounds(annotation: Any, metadata: tuple[Any, ...] = ()) -> Iterator[list[Any]]:
    """Yield the constraints of each number in an annotation."""
    if get_origin(annotation) is Annotated:
        inner, *own = get_args(annotation)
        flat = [part for item in own for part in getattr(item, "metadata", [item])]
        yield from number_bounds(inner, (*metadata, *flat))
    elif annotation in (int, float):
        yield [item for item in metadata if isinstance(item, at.Ge | at.Gt | at.Le | at.Lt)]
    elif get_origin(annotation) is dict:
        yield from number_bounds(get_args(annotation)[1])
    elif get_origin(annotation) is tuple:
        for argument in get_args(annotation):
            yield from number_bounds(argument)
    else:
        for argument in get_args(annotation):
            yield from number_bounds(argument, metadata)


MODELS = list(dict.fromkeys(model for root in ROOTS for model in settings_models(root)))
NUMBERS = [
    (model, name)
    for model in MODELS
    for name, field in model.model_fields.items()
    if any(True for _ in number_bounds(field.annotation, tuple(field.metadata)))
]


def field_id(value: Any) -> str:
    return value if isinstance(value, str) else value.__name__


def test_walk_finds_the_numbers_of_all_parts() -> None:
    names = {name for _, name in NUMBERS}
    assert {
        "seed",
        "lr",
        "ratios",
        "constants",
        "fixed",
        "relative_bounds",
        "max_length",
        "port",
        "low",
        "seeds",
    } <= names
    assert len(NUMBERS) > 90


@pytest.mark.parametrize(("model", "name"), NUMBERS, ids=field_id)
def test_number_has_finite_bounds_on_both_sides(model: type[BaseModel], name: str) -> None:
    field = model.model_fields[name]
    for bounds in number_bounds(field.annotation, tuple(field.metadata)):
        limits = {key: getattr(item, key) for item in bounds for key in ("ge", "gt", "le", "lt") if hasattr(item, key)}
        assert limits.keys() & {"ge", "gt"}, f"{model.__name__}.{name} has no lower bound"
        assert limits.keys() & {"le", "lt"}, f"{model.__name__}.{name} has no upper bound"
        assert all(map(math.isfinite, limits.values()))


def shaped(annotation: Any, value: float) -> Any:
    """Put a number where an annotation expects one."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is dict:
        return {"classes": value}
    if origin is tuple:
        return [value] * (2 if Ellipsis in arguments else len(arguments))
    inner = next((part for part in arguments if get_origin(part) in (tuple, dict)), None)
    return value if inner is None else shaped(inner, value)


@pytest.mark.parametrize(("model", "name"), NUMBERS, ids=field_id)
def test_number_outside_its_bounds_is_one_sentence(model: type[BaseModel], name: str) -> None:
    for value in [*OUTSIDE, True, False]:
        settings, errors = validate_settings(model, {name: shaped(model.model_fields[name].annotation, value)})
        own = [error for error in errors if error.startswith(f"{name}")]
        assert settings is None
        assert own, f"{value} is accepted"
        assert all("\n" not in error and len(error) < 400 for error in own)
