"""Texts of a file with the month of each, for drift by month."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from experts.errors import Fault, suggest
from moe.data.column_names import find_column
from moe.data.formats.readers import read_records
from moe.data.schema import Columns, Record
from moe.data.text_checks import is_blank, text_problem

DATE = "date"


@dataclass(frozen=True)
class DriftRequest:
    """A file to check for drift, and how to read it.

    Args:
        file: csv, jsonl, parquet, txt or a `datasets` folder.
        text_column: column that holds the text.
        date_column: column that holds the date; None uses the column `date` if there is one; "" ignores dates.
        date_format: format of the dates, as for `strptime`; None is ISO 8601.
        domain: compare with validation rows of this domain only; None compares with those of all domains.
    """

    file: Path
    text_column: str = "text"
    date_column: str | None = None
    date_format: str | None = None
    domain: str | None = None


@dataclass
class DatedTexts:
    """Texts of a file with their months.

    Args:
        texts: all readable texts, in order.
        months: month of each as `2024-01`, None if its date is missing or cannot be parsed.
        rejected: number of rows without a readable text.
        dated: whether the file has a column of dates.
        unreadable: the first date that cannot be parsed; None without any.
    """

    texts: list[str]
    months: list[str | None]
    rejected: int
    dated: bool
    unreadable: str | None = None


def read_dated_texts(request: DriftRequest) -> DatedTexts:
    """Read all valid texts of a file, in order, with their months.

    Raises:
        Fault: if the file cannot be read, has no text, lacks the requested column of dates, or has none that
            can be parsed.
    """
    result = DatedTexts(texts=[], months=[], rejected=0, dated=bool(request.date_column))
    column = request.date_column if request.date_column is not None else DATE
    for record in _records(request):
        text = record.values.get("text")
        if record.error or text_problem(text):
            result.rejected += 1
            continue
        spelling = find_column(column, list(record.values)) if column else None
        date_value = record.values[spelling] if spelling is not None else None
        result.dated = result.dated or spelling is not None
        result.texts.append(str(text))
        result.months.append(month_of(date_value, request.date_format))
        if result.months[-1] is None and result.unreadable is None and not is_blank(date_value):
            result.unreadable = str(date_value)
    if not result.texts:
        raise Fault(
            f"texts in {request.file}",
            f"none that can be read, {result.rejected} rows rejected",
            "use another file, or set --text-column",
        )
    if (request.date_column or result.unreadable is not None) and not any(result.months):
        expected = request.date_format or "ISO 8601, such as 2024-01-31"
        example = f", e.g. {result.unreadable!r}" if result.unreadable is not None else ""
        raise Fault(
            f"dates ({expected}) in the column {column!r} of {request.file}",
            f"none that can be parsed{example}",
            "set --date-format, e.g. --date-format %d.%m.%Y, or --date-column to another column; --date-column '' "
            "ignores dates",
        )
    return result


def _records(request: DriftRequest) -> Iterator[Record]:
    column = request.date_column
    for number, record in enumerate(read_records(request.file, Columns(text=request.text_column))):
        if number == 0 and column and find_column(column, list(record.values)) is None and not record.error:
            known = list(map(str, record.values))
            raise Fault(
                f"a column {column!r} in {request.file.name}",
                f"the columns {', '.join(known)}",
                f"{suggest(column, known)}{'' if suggest(column, known).endswith('?') else ' in --date-column'}",
            )
        yield record


def month_of(value: Any, date_format: str | None = None) -> str | None:
    """Return the month of a date as `2024-01`, or None if it cannot be parsed.

    Args:
        value: a date, or a string that holds one.
        date_format: format of the string, as for `strptime`; None is ISO 8601, with or without the day.
    """
    if isinstance(value, date):
        return f"{value:%Y-%m}"
    word = str(value).strip()
    for text in (word, f"{word}-01") if date_format is None else (word,):
        try:
            return f"{datetime.strptime(text, date_format) if date_format else datetime.fromisoformat(text):%Y-%m}"
        except ValueError:
            continue
    return None
