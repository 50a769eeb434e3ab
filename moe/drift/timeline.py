"""The texts of a file with the month of each: what is read as a date, and what is not guessed.

What is asked of them is `moe.drift.drift`'s.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from experts.errors import Fault
from moe.data.readers import read_records, text_problem
from moe.data.schema import Columns, Record

DATE = "date"


@dataclass(frozen=True)
class DriftRequest:
    """The file to look at, and how it is read.

    Args:
        file: csv, jsonl, parquet, txt or a `datasets` folder.
        text: its text column.
        when: its column of dates; None is `date` where there is one.
        form: how dates are written, as `strptime` has it; None is ISO 8601.
        domain: compare with validation rows of this domain alone.
    """

    file: Path
    text_column: str = "text"
    date_column: str | None = None
    date_format: str | None = None
    domain: str | None = None


@dataclass
class DatedTexts:
    """The texts of a file with their months; what could not be read is counted."""

    texts: list[str]
    months: list[str | None]
    rejected: int
    dated: bool


def read_dated_texts(asked: DriftRequest) -> DatedTexts:
    """Every text of a file that can be read, in order.

    Raises:
        Fault: when the file cannot be read, has no text, or not the column of dates that is named.
    """
    found = DatedTexts([], [], 0, asked.date_column is not None)
    for record in _records(asked):
        text = record.values.get("text")
        if record.error or text_problem(text):
            found.rejected += 1
            continue
        found.dated = found.dated or DATE in record.values
        found.texts.append(str(text))
        found.months.append(month_of(record.values.get(asked.date_column or DATE), asked.date_format))
    if not found.texts:
        raise Fault(f"texts in {asked.file}", f"none that can be read, {found.rejected} rejected", "name another file")
    if asked.date_column is not None and not any(found.months):
        form = asked.date_format or "ISO 8601, such as 2024-01-31"
        raise Fault(f"dates ({form}) in the column {asked.date_column!r} of {asked.file}", "none", "say --date-format")
    return found


def _records(asked: DriftRequest) -> Iterator[Record]:
    for number, record in enumerate(read_records(asked.file, Columns(text=asked.text_column))):
        if (
            number == 0
            and asked.date_column is not None
            and asked.date_column not in record.values
            and not record.error
        ):
            known = ", ".join(map(str, record.values))
            raise Fault(f"a column {asked.date_column!r} in {asked.file.name}", f"the columns {known}", "name another")
        yield record


def month_of(value: Any, form: str | None = None) -> str | None:
    """The month of a date, as `2024-01`; None where it cannot be read.

    Args:
        value: a date or a word.
        form: how a word is written, as `strptime` has it; None is ISO 8601, or a month of it.
    """
    if isinstance(value, date):
        return f"{value:%Y-%m}"
    word = str(value).strip()
    for text in (word, f"{word}-01") if form is None else (word,):
        try:
            return f"{datetime.strptime(text, form) if form else datetime.fromisoformat(text):%Y-%m}"
        except ValueError:
            continue
    return None
