"""Sessions of an exchange, and the session for which a text counts: the first whose close is not before it."""

from dataclasses import dataclass
from datetime import date
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experts.errors import Fault, suggest
from moe.extras import require

DATE_ONLY = r"^\d{4}(-?\d{2}){0,2}$|^\d{4}-?W\d{2}(-?\d)?$"
DATE_FIRST = r"^\d{4}-?(?:\d{2}|W)"
WITH_OFFSET = r"(?:[Zz]|[+-]\d{2}(?::?\d{2})?)$"
NO_TIME, UNREADABLE, NO_CLOCK = "no time", "a time that is not ISO 8601", "a date without a time of day"
AMBIGUOUS = "a local time that the change of the clocks skips or repeats"


@dataclass(frozen=True)
class Sessions:
    """Consecutive sessions of an exchange.

    Args:
        calendar: its name.
        dates: of the sessions (T,), without a time zone.
        closes: when they close (T,), in UTC; earlier on half days.
        zone: time zone of the exchange.
    """

    calendar: str
    dates: pd.DatetimeIndex
    closes: pd.DatetimeIndex
    zone: str

    def __len__(self) -> int:
        return len(self.dates)

    def assign(self, times: pd.Series, cutoff_minutes: float = 0) -> NDArray[np.int64]:
        """Return the index of the session for which each text counts: the first that closes at its time or later.

        Args:
            times: in UTC (R,), none missing.
            cutoff_minutes: minutes before the close at which a session ends for texts.

        Returns:
            indices (R,); T for texts after the last close.
        """
        ends = self.closes.as_unit("ns").asi8 - round(cutoff_minutes * 60e9)
        index = np.searchsorted(ends, pd.DatetimeIndex(times.array).as_unit("ns").asi8, side="left")
        return np.asarray(index, np.int64)


def open_sessions(calendar: str, start: date, end: date) -> Sessions:
    """Return the sessions of an exchange from `start` to a month after `end`, so that every text until `end` has one.

    Raises:
        Fault: if the package is missing, or the calendar is unknown or does not cover these dates.
    """
    calendars = require("exchange_calendars", "signals")
    names = calendars.get_calendar_names(include_aliases=True)
    if calendar not in names:
        raise Fault(
            "the name of an exchange's calendar, such as XNYS or XLON", repr(calendar), suggest(calendar, names)
        )
    try:
        exchange: Any = calendars.get_calendar(
            calendar, start=pd.Timestamp(start), end=pd.Timestamp(end) + pd.Timedelta(days=31)
        )
    except (ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise Fault(
            f"dates that the calendar {calendar} covers", f"{start} to {end}: {reason}", "choose another calendar"
        ) from error
    return Sessions(calendar, exchange.sessions, pd.DatetimeIndex(exchange.closes.array), str(exchange.tz))


def check_time_zone(name: str | None) -> None:
    """Check the name of a time zone.

    Raises:
        Fault: if it is unknown.
    """
    if name is None:
        return
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        remedy = suggest(name, available_timezones())
        raise Fault("a time zone such as America/New_York or UTC", repr(name), remedy) from error


def parse_times(values: pd.Series, time_zone: str | None) -> tuple[pd.Series, pd.Series]:
    """Parse times of publication.

    Args:
        values: ISO 8601 texts, or timestamps (R,).
        time_zone: of times without an offset; None refuses them.

    Returns:
        times in UTC (R,), NaT where there is none; and why not (R,), None where there is one.

    Raises:
        Fault: if there are numbers instead of times, or a time has no offset while `time_zone` is None.
    """
    if pd.api.types.is_numeric_dtype(values) and values.notna().any():
        example = f"the number {values.dropna().iloc[0]:g}"
        raise Fault("times in ISO 8601 or timestamps", example, "convert them, e.g. by pandas.to_datetime(…, unit='s')")
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        return values.dt.tz_convert("UTC"), _reasons(values.isna(), NO_TIME)
    if pd.api.types.is_datetime64_dtype(values):
        problems = _reasons(values.isna(), NO_TIME)
        times = _localize(values, time_zone, values.notna())
    else:
        texts = values.where(values.isna(), values.astype(str).str.strip())
        blank = texts.isna() | (texts == "")
        only_date = ~blank & texts.str.match(DATE_ONLY, na=False)
        rest = ~blank & ~only_date & texts.str.match(DATE_FIRST, na=False)  # pandas reads words such as `today`
        offset = rest & texts.str.contains(WITH_OFFSET, regex=True, na=False)
        times = pd.Series(pd.NaT, index=values.index, dtype="datetime64[ns, UTC]")
        times[offset] = pd.to_datetime(texts[offset], format="ISO8601", utc=True, errors="coerce")
        naive = pd.to_datetime(texts[rest & ~offset], format="ISO8601", errors="coerce")
        times[naive.index] = _localize(naive, time_zone, naive.notna())
        problems = _reasons(blank, NO_TIME)
        problems[~blank & ~rest] = UNREADABLE
        problems[only_date] = NO_CLOCK
        problems[offset & times.isna()] = UNREADABLE
        problems[naive.index[naive.isna()]] = UNREADABLE
    problems[times.isna() & problems.isna()] = AMBIGUOUS
    return times, problems


def _reasons(mask: pd.Series, reason: str) -> pd.Series:
    problems = pd.Series(None, index=mask.index, dtype=object)
    problems[mask] = reason
    return problems


def _localize(times: pd.Series, time_zone: str | None, known: pd.Series) -> pd.Series:
    if not known.any():
        return times.dt.tz_localize("UTC")
    if time_zone is None:
        first = known.idxmax()
        raise Fault(
            "times with an offset from UTC, or the time zone of times without one",
            f"{times[first].isoformat(sep=' ')} without an offset",
            "pass --time-zone, such as --time-zone America/New_York or --time-zone UTC",
        )
    return times.dt.tz_localize(time_zone, ambiguous="NaT", nonexistent="NaT").dt.tz_convert("UTC")


def parse_dates(values: pd.Series) -> pd.Series:
    """Parse dates of prices: ISO 8601 texts, dates or timestamps; of a time with an offset its own local date.

    Returns:
        midnights without a time zone (R,), NaT where there is no date.
    """
    if pd.api.types.is_numeric_dtype(values):
        values = values.where(values.isna(), values.astype("Int64").astype(str))
    if pd.api.types.is_datetime64_any_dtype(values):
        return values.dt.tz_localize(None).dt.normalize().astype("datetime64[ns]")
    days = values.where(values.isna(), values.astype(str).str.strip().str.slice(0, 10))
    compact = days.str.fullmatch(r"\d{8}", na=False)
    days = days.where(compact | days.str.fullmatch(r"\d{4}-\d{2}-\d{2}", na=False))
    return pd.to_datetime(days, format="ISO8601", errors="coerce").astype("datetime64[ns]")
