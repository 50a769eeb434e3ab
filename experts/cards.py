"""JSON that this program wrote beside weights, read as what it has to be: of the known format, whole, nothing unknown.

Cards, calibrations and references for drift are such records; what they hold is told where they are declared.
"""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from experts.atomic_io import read_json
from experts.errors import Fault

Record = TypeVar("Record", bound=BaseModel)


def read_record(path: Path, kind: type[Record], known: int, noun: str, again: str) -> Record:
    """Read a record.

    Args:
        known: the format that this version reads and writes.
        noun: what the record is called, such as "expert card".
        again: what makes a whole one.

    Raises:
        Fault: when there is none, or one of another format, or a broken one.
    """
    content = read_json(path)
    _refuse_other_format(content, known, noun, path, again)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise Fault(f"a whole {noun} at {path}", f"{where}: {first['msg']}", again) from error


def _refuse_other_format(content: Any, known: int, noun: str, path: Path, again: str) -> None:
    found = content.get("format") if isinstance(content, dict) else None
    if not isinstance(found, int):
        raise Fault(f"a {noun} with its format at {path}", "no format in it", "write the folder again")
    if found != known:
        advice = "update finmoe" if found > known else f"older formats are not carried over: {again}"
        raise Fault(f"a {noun} of format {known} at {path}", f"format {found}", advice)
