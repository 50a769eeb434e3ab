"""The texts of a file with the month of each: what is read as a date, and what is not guessed.

What is asked of them is `moe.drift.drift`'s.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from experts.errors import Fault
from moe.data.readers import records, text_fault
from moe.data.schema import Columns, Record

DATE = "date"


@dataclass(frozen=True)
class Asked:
    """The file to look at, and how it is read.

    Args:
        file: csv, jsonl, parquet, txt or a `datasets` folder.
        text: its text column.
        when: its column of dates; None is `date` where there is one.
        form: how dates are written, as `strptime` has it; None is ISO 8601.
        domain: compare with validation rows of this domain alone.
    """

    file: Path
    text: str = "text"
    when: str | None = None
    form: str | None = None
    domain: str | None = None


@dataclass
class Texts:
    """The texts of a file with their months; what could not be read is counted."""

    texts: list[str]
    months: list[str | None]
    rejected: int
    dated: bool


def read_texts(asked: Asked) -> Texts:
    """Every text of a file that can be read, in order.

    Raises:
        Fault: when the file cannot be read, has no text, or not the column of dates that is named.
    """
    found = Texts([], [], 0, asked.when is not None)
    for record in _records(asked):
        text = record.values.get("text")
        if record.error or text_fault(text):
            found.rejected += 1
            continue
        found.dated = found.dated or DATE in record.values
        found.texts.append(str(text))
        found.months.append(month_of(record.values.get(asked.when or DATE), asked.form))
    if not found.texts:
        raise Fault(f"texts in {asked.file}", f"none that can be read, {found.rejected} rejected", "name another file")
    if asked.when is not None and not any(found.months):
        form = asked.form or "ISO 8601, such as 2024-01-31"
        raise Fault(f"dates ({form}) in the column {asked.when!r} of {asked.file}", "none", "say --date-format")
    return found


def _records(asked: Asked) -> Iterator[Record]:
    for number, record in enumerate(records(asked.file, Columns(text=asked.text))):
        if number == 0 and asked.when is not None and asked.when not in record.values and not record.error:
            known = ", ".join(map(str, record.values))
            raise Fault(f"a column {asked.when!r} in {asked.file.name}", f"the columns {known}", "name another")
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
