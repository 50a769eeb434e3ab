"""The base class of results, and how they are read from JSON files."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, WrapSerializer

from experts.atomic_io import read_json
from experts.errors import Fault

Bounds = tuple[float, float]
"""The low and the high end of a 95 % interval, in the unit of its metric."""
Number = int | float
"""A number of a log, which stays an integer if it was written as one."""
R = TypeVar("R", bound="Result")
OrEmpty = Annotated[
    R | None,
    BeforeValidator(lambda value: value or None),
    WrapSerializer(lambda value, serialize: {} if value is None else serialize(value)),
]
"""A result that may be missing: None, and in JSON an empty object."""


class Result(BaseModel):
    """A result of a command.

    JSON has the fields that were set, in the order of their declaration: a field that was not set is left out, and one
    that was set to None is null. Reading ignores other keys.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True)


def read_result(path: Path, kind: type[R]) -> R | None:
    """Read a result from a JSON file; None if there is no file.

    Raises:
        Fault: if the file holds something else.
    """
    return parse_result(read_json(path), path, kind) if path.is_file() else None


def parse_result(content: Any, path: Path, kind: type[R]) -> R:
    """Read a result from JSON values.

    Args:
        content: the values.
        path: of the file that holds them.
        kind: class of the result.

    Raises:
        Fault: if they are of something else.
    """
    remedy = "write the folder again, or remove the file"
    if not isinstance(content, dict):
        raise Fault(f"a JSON object at {path}", f"a {type(content).__name__}", remedy)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise Fault(f"the fields of a {kind.__name__} at {path}", problem, remedy) from error
