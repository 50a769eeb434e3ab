"""Tests of times: formats, zones, clock changes, and calendar periods."""

from datetime import UTC, date, datetime

import pytest
from pydantic import TypeAdapter, ValidationError

from moe.data.splitting.times import Period, TimeFormat, from_microseconds, microseconds, shift

NEW_YORK = TimeFormat(zone="America/New_York")


def parsed(value: object, time: TimeFormat = TimeFormat()) -> str:
    return from_microseconds(time.parse(value)).isoformat()


@pytest.mark.parametrize(
    ("value", "time", "expected"),
    [
        ("2024-01-31T21:30:00+01:00", NEW_YORK, "2024-01-31T20:30:00+00:00"),
        ("2024-01-31 21:30:00.000001", TimeFormat(), "2024-01-31T21:30:00.000001+00:00"),
        ("2024-01-31", NEW_YORK, "2024-01-31T05:00:00+00:00"),
        (date(2024, 7, 1), NEW_YORK, "2024-07-01T04:00:00+00:00"),
        (datetime(2024, 7, 1, 12, tzinfo=UTC), NEW_YORK, "2024-07-01T12:00:00+00:00"),
        ("31/01/2024 16:00", TimeFormat(zone="Europe/London", format="%d/%m/%Y %H:%M"), "2024-01-31T16:00:00+00:00"),
        (1706736600, TimeFormat(format="unix"), "2024-01-31T21:30:00+00:00"),
        ("1706736600500", TimeFormat(format="unix_ms"), "2024-01-31T21:30:00.500000+00:00"),
    ],
)
def test_time_is_read_in_its_format_and_zone(value: object, time: TimeFormat, expected: str) -> None:
    assert parsed(value, time) == expected


@pytest.mark.parametrize(
    ("local", "expected"),
    [("2024-11-03 01:30", "2024-11-03T06:30:00+00:00"), ("2024-03-10 02:30", "2024-03-10T07:30:00+00:00")],
    ids=["twice", "never"],
)
def test_local_time_that_occurs_twice_or_never_is_the_later_one(local: str, expected: str) -> None:
    assert parsed(local, NEW_YORK) == expected


@pytest.mark.parametrize("value", ["yesterday", "31/01/2024", 20240131, True, "2024-02-30", "", "nan"])
def test_value_that_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        TimeFormat().parse(value)


@pytest.mark.parametrize("value", ["nan", "soon", "1e400"])
def test_number_that_is_no_time_is_refused(value: str) -> None:
    with pytest.raises((ValueError, OverflowError)):
        TimeFormat(format="unix").parse(value)


@pytest.mark.parametrize("settings", [{"zone": "New York"}, {"zone": "EST5"}, {"format": "%d.%m."}, {"tz": "UTC"}])
def test_settings_refuse_unknown_zones_and_formats_without_a_year(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        TimeFormat.model_validate(settings)


@pytest.mark.parametrize(
    ("moment", "period", "count", "expected"),
    [
        ("2024-01-31", "1m", 1, "2024-02-29"),
        ("2024-03-31", "1m", -1, "2024-02-29"),
        ("2024-02-29", "1y", 1, "2025-02-28"),
        ("2024-01-15", "24m", -1, "2022-01-15"),
        ("2024-12-15", "3m", 4, "2025-12-15"),
        ("2024-03-01", "2w", -1, "2024-02-16"),
        ("2024-03-01", "12h", 2, "2024-03-02"),
        ("2024-03-01", "0d", 1, "2024-03-01"),
    ],
)
def test_period_is_added_by_the_calendar(moment: str, period: str, count: int, expected: str) -> None:
    assert shift(datetime.fromisoformat(moment), period, count) == datetime.fromisoformat(expected)


@pytest.mark.parametrize("period", ["1", "d", "1q", "-1d", "1.5d", True, None, 5])
def test_other_periods_are_refused(period: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Period).validate_python(period)


def test_zero_is_a_period() -> None:
    assert TypeAdapter(Period).validate_python(0) == "0d"


def test_microseconds_are_exact_in_distant_years() -> None:
    for moment in (datetime(1, 1, 2, tzinfo=UTC), datetime(9998, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)):
        assert from_microseconds(microseconds(moment)) == moment
