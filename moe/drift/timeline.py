"""Texts of a file with the month of each, for drift by month."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from experts.errors import Fault, suggest
from moe.data.column_names import find_column
from moe.data.formats.readers import read_column_names, read_records
from moe.data.schema import Columns, Record
from moe.data.splitting.times import read_time
from moe.data.text_checks import is_blank, text_problem
from moe.inference.text_io import TextSource

DATE = "date"


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


def read_dated_texts(
    source: TextSource, *, date_column: str | None = None, date_format: str | None = None
) -> DatedTexts:
    """Read all valid texts of a file, in order, with their months.

    Args:
        source: the file.
        date_column: column that holds the date; None uses the column `date` if there is one; "" ignores dates.
        date_format: format of the dates, as for `strptime`; None is ISO 8601.

    Raises:
        Fault: if the file cannot be read, has no text, lacks the requested column of dates, or has none that
            can be parsed.
    """
    result = DatedTexts(texts=[], months=[], rejected=0, dated=bool(date_column))
    column = DATE if date_column is None else date_column
    for record in _records(source, date_column):
        text = record.values.get("text")
        if record.error or text_problem(text):
            result.rejected += 1
            continue
        spelling = find_column(column, list(record.values)) if column else None
        date_value = record.values[spelling] if spelling is not None else None
        result.dated = result.dated or spelling is not None
        result.texts.append(str(text))
        result.months.append(month_of(date_value, date_format))
        if result.months[-1] is None and result.unreadable is None and not is_blank(date_value):
            result.unreadable = str(date_value)
    if not result.texts:
        raise Fault(
            f"texts in {source.file}",
            f"none that can be read, {result.rejected} rows rejected",
            "use another file, or set --text-column",
        )
    if (date_column or result.unreadable is not None) and not any(result.months):
        expected = date_format or "ISO 8601, such as 2024-01-31"
        example = f", e.g. {result.unreadable!r}" if result.unreadable is not None else ""
        raise Fault(
            f"dates ({expected}) in the column {column!r} of {source.file}",
            f"none that can be parsed{example}",
            "set --date-format, e.g. --date-format %d.%m.%Y, or --date-column to another column; --date-column '' "
            "ignores dates",
        )
    return result


def _records(source: TextSource, column: str | None) -> Iterator[Record]:
    file = source.required_file
    columns = Columns(text=source.text_column).restricted_to("text", column or DATE)
    records = read_records(file, columns, others={column or DATE}, text_format=source.text_format)
    names = read_column_names(file, columns.required(), source.text_format)
    if column and names and find_column(column, names) is None:
        near = suggest(column, names)
        raise Fault(
            f"a column {column!r} in {file.name}",
            f"the columns {', '.join(names)}",
            f"{near}{'' if near.endswith('?') else ' in --date-column'}",
        )
    return records


def month_of(value: Any, date_format: str | None = None) -> str | None:
    """Return the month of a date as `2024-01`, or None if it cannot be parsed.

    Args:
        value: a date, or a string that holds one.
        date_format: format of the string, as for `strptime`; None is ISO 8601, with or without the day.
    """
    spellings = (value, f"{str(value).strip()}-01") if date_format is None else (value,)
    for spelling in spellings:
        try:
            return f"{read_time(spelling, date_format):%Y-%m}"
        except ValueError:
            continue
    return None
