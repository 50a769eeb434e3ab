"""Sessions of an exchange, and the session for which a text counts: the first whose close is not before it."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experts.errors import Fault, suggest
from moe.data.splitting.times import TimeFormat, read_time
from moe.extras import require

DATE_ONLY = re.compile(r"\d{4}(-?\d{2}){0,2}|\d{4}-?W\d{2}(-?\d)?")
NO_TIME, UNREADABLE, NO_CLOCK = "no time", "a time that is not ISO 8601", "a date without a time of day"


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
        ends = self.closes.as_unit("us").asi8 - round(cutoff_minutes * 60e6)
        index = np.searchsorted(ends, pd.DatetimeIndex(times.array).as_unit("us").asi8, side="left")
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


def parse_times(values: pd.Series, time_zone: str | None) -> tuple[pd.Series, pd.Series]:
    """Parse times of publication.

    Args:
        values: ISO 8601 texts, or timestamps (R,).
        time_zone: of times without an offset; a local time that occurs twice or never is the later one. None refuses
            such times.

    Returns:
        times in UTC (R,), NaT where there is none; and why not (R,), None where there is one.

    Raises:
        Fault: if there are numbers instead of times, or a time has no offset while `time_zone` is None.
    """
    if pd.api.types.is_numeric_dtype(values) and values.notna().any():
        example = f"the number {values.dropna().iloc[0]:g}"
        raise Fault("times in ISO 8601 or timestamps", example, "convert them, e.g. by pandas.to_datetime(…, unit='s')")
    problems = pd.Series(None, index=values.index, dtype=object)
    if pd.api.types.is_datetime64_any_dtype(values):
        problems[values.isna()] = NO_TIME
        if isinstance(values.dtype, pd.DatetimeTZDtype):
            return values.dt.tz_convert("UTC"), problems
        return _localize(values, time_zone), problems
    parsed = [_read(value) for value in values]
    problems[:] = [result if isinstance(result, str) else None for result in parsed]
    times = [None if isinstance(result, str) else result for result in parsed]
    aware = [None if time is None or time.tzinfo is None else time.astimezone(UTC) for time in times]
    naive = [None if time is None or time.tzinfo is not None else time for time in times]
    with_offset = pd.Series(aware, index=values.index, dtype="datetime64[us, UTC]")
    without = pd.Series(naive, index=values.index, dtype="datetime64[us]")
    return with_offset.where(with_offset.notna(), _localize(without, time_zone)), problems


def _read(value: object) -> datetime | str:
    """Return a time, or why there is none."""
    if value is None or value is pd.NaT or value != value or not str(value).strip():
        return NO_TIME
    if DATE_ONLY.fullmatch(str(value).strip()):
        return NO_CLOCK
    try:
        return read_time(value)
    except ValueError:
        return UNREADABLE


def _localize(times: pd.Series, time_zone: str | None) -> pd.Series:
    """Return times without an offset in UTC (R,), NaT where there is none."""
    known = times.notna()
    if not known.any():
        return times.dt.tz_localize("UTC")
    if time_zone is None:
        first = known.idxmax()
        raise Fault(
            "times with an offset from UTC, or the time zone of times without one",
            f"{times[first].isoformat(sep=' ')} without an offset",
            "pass --time-zone, such as --time-zone America/New_York or --time-zone UTC",
        )
    local = times.dt.tz_localize(time_zone, ambiguous="NaT", nonexistent="NaT").dt.tz_convert("UTC")
    zone = TimeFormat(zone=time_zone)
    for row in np.flatnonzero(known & local.isna()):  # where clocks change
        local.iloc[row] = zone.in_utc(times.iloc[row].to_pydatetime())
    return local


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
