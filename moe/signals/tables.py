"""Columns of a parquet, csv or jsonl file as a pandas frame with the line of every row."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from experts.errors import Fault, suggest
from moe.data.column_names import find_column
from moe.data.formats.readers import file_kind, read_column_names, read_records
from moe.data.schema import Columns

LINE, ERROR = "line", "error"


@dataclass(frozen=True)
class ColumnRequest:
    """Columns to read from a file.

    Args:
        names: name in the file by the name in the frame.
        optional: names in the frame that a file may lack.
        setting: prefix of the settings that name the columns, for messages.
    """

    names: Mapping[str, str]
    optional: frozenset[str] = frozenset()
    setting: str = ""


def read_columns(path: Path, request: ColumnRequest) -> pd.DataFrame:
    """Read columns of a file in order; columns that are optional and missing are left out.

    Returns:
        a frame with the requested names, `line` (from 1; of a csv file the physical line) and `error`, which is None
        or says why a row cannot be read.

    Raises:
        Fault: if the file cannot be read, has no rows, or lacks a column that is needed.
    """
    known = read_column_names(path, set(request.names.values()))
    spelled = {name: find_column(column, known) for name, column in request.names.items()}
    for name, column in request.names.items():
        if spelled[name] is None and name not in request.optional:
            remedy = suggest(column, known)
            raise Fault(
                f"a column {column!r} in {path.name}",
                f"the columns {', '.join(known) or '(none)'}",
                f"{remedy.rstrip('?')}{'? Name it' if remedy.endswith('?') else ', and name it'} with "
                f"--set {request.setting}.{name}=COLUMN",
            )
    columns = {name: column for name, column in spelled.items() if column is not None}
    error = find_column(ERROR, known)
    frame = _read_parquet(path, columns, error) if file_kind(path) == ".parquet" else _read_text(path, columns, error)
    if frame.empty:
        raise Fault(f"rows in {path}", "none", "use another file")
    return frame


def _read_parquet(path: Path, columns: Mapping[str, str], error: str | None) -> pd.DataFrame:
    wanted = dict.fromkeys([*columns.values(), *([error] if error else [])])
    table = pq.read_table(path, columns=list(wanted))
    frame = pd.DataFrame({name: table.column(column).to_pandas() for name, column in columns.items()})
    frame[ERROR] = table.column(error).to_pandas() if error else None
    frame[LINE] = range(1, len(frame) + 1)
    return frame


def _read_text(path: Path, columns: Mapping[str, str], error: str | None) -> pd.DataFrame:
    carried = {*columns.values(), *([error] if error else [])}
    records = read_records(path, Columns().restricted_to("text"), text_optional=True, others=carried, carried=carried)
    rows = [
        (
            *(record.values.get(column) for column in columns.values()),
            record.error or (record.values.get(error) or None if error else None),
            record.line,
        )
        for record in records
    ]
    return pd.DataFrame(rows, columns=[*columns, ERROR, LINE])
