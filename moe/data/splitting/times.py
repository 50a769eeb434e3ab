"""Times: their format in a file, the zone of those without one, and periods such as 3 months.

Splits, drift by month and signals read times here, so that all of them read the same ones. Kept free of heavy
imports, since the configuration imports it.
"""

import calendar
import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from experts.errors import suggest

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNIX = {"unix": 1_000_000, "unix_ms": 1_000}
"""Formats of times that are numbers, with the microseconds of their unit."""
_PERIOD = re.compile(r"(\d{1,5})([hdwmy])")
_HOURS = {"h": 1, "d": 24, "w": 7 * 24}
_BEFORE_OFFSET = re.compile(r"(?<=\d) (?=[+-]\d{2}:?\d{2}$)")


def _check_zone(zone: str) -> str:
    if zone not in (zones := available_timezones()):
        raise ValueError(f"expected a time zone such as UTC or America/New_York, not {zone!r}; {suggest(zone, zones)}")
    return zone


TimeZone = Annotated[str, AfterValidator(_check_zone)]
"""IANA name of a time zone."""


def read_time(value: object, pattern: str | None = None) -> datetime:
    """Return the time that a value of a file is; without a zone if it names none.

    Args:
        value: a time, a date (its first moment), or a text of one.
        pattern: of the text, as for `strptime`; None is ISO 8601.

    Raises:
        ValueError: if it is no time.
    """
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, time())
    if isinstance(value, bool | int | float):
        raise ValueError("a number")
    text = str(value).strip()
    return datetime.strptime(text, pattern) if pattern else datetime.fromisoformat(_BEFORE_OFFSET.sub("", text))


class TimeFormat(BaseModel):
    """How a file writes the times of its rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    zone: TimeZone = Field(
        "UTC",
        description="IANA name of the zone of times that name none, such as America/New_York; a local time that occurs "
        "twice or never, where clocks change, counts as the later one",
    )
    format: str | None = Field(
        None,
        description="pattern of `strptime`, such as %d/%m/%Y, or `unix` (seconds) or `unix_ms`; null is ISO 8601",
    )

    @field_validator("format")
    @classmethod
    def _check_format(cls, pattern: str | None) -> str | None:
        if pattern is not None and pattern not in UNIX and "%Y" not in pattern and "%y" not in pattern:
            raise ValueError("expected a pattern with the year, such as %Y-%m-%d %H:%M, or unix, or unix_ms")
        return pattern

    def parse(self, value: object) -> int:
        """Return a time in microseconds since 1970 in UTC.

        Args:
            value: as read from a file. A date without a time of day is its first moment.

        Raises:
            ValueError: if it is no time in this format.
        """
        if self.format in UNIX:
            return round(float(str(value)) * UNIX[str(self.format)])
        return microseconds(self.in_utc(read_time(value, self.format)))

    def date_of(self, value: int) -> date:
        """Return the date in `zone` of a time in microseconds since 1970 in UTC."""
        return from_microseconds(value).astimezone(ZoneInfo(self.zone)).date()

    def in_utc(self, moment: datetime) -> datetime:
        """Return a time in UTC; one without a zone is in `zone`."""
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
        zone = ZoneInfo(self.zone)
        return max(moment.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))


def microseconds(moment: datetime) -> int:
    """Return a time with a zone in microseconds since 1970 in UTC."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def from_microseconds(value: int) -> datetime:
    """Return a time in UTC."""
    return EPOCH + timedelta(microseconds=value)


def _as_period(value: object) -> object:
    """Write the number 0 as a period, since YAML reads it as a number."""
    return "0d" if value == 0 and not isinstance(value, bool | str) else value


def _check_period(period: str) -> str:
    if not _PERIOD.fullmatch(period):
        raise ValueError("expected a number and h, d, w, m or y: 12h, 1d, 2w, 3m (months) or 1y")
    return period


Period = Annotated[str, BeforeValidator(_as_period), AfterValidator(_check_period)]
"""A length of time: a number, then h (hours), d (days), w (weeks), m (calendar months) or y (years)."""


def shift(moment: datetime, period: str, count: int = 1) -> datetime:
    """Return the time that is some periods later, or earlier if `count` is negative.

    A month later is the same day of the next month, or its last day if it has no such day.
    """
    number, unit = int(period[:-1]) * count, period[-1]
    if unit in _HOURS:
        return moment + timedelta(hours=number * _HOURS[unit])
    months = moment.year * 12 + moment.month - 1 + number * (12 if unit == "y" else 1)
    year, month = divmod(months, 12)
    return moment.replace(year=year, month=month + 1, day=min(moment.day, calendar.monthrange(year, month + 1)[1]))
