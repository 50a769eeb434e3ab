"""Claims about sessions: the close decides for which one a text counts, on half days and holidays too."""

import pandas as pd
import pytest
from signal_files import sessions_of

from experts.errors import Fault
from moe.data.splitting.times import TimeFormat
from moe.signals.sessions import (
    NO_CLOCK,
    NO_TIME,
    UNREADABLE,
    open_sessions,
    parse_dates,
    parse_times,
)
from moe.signals.settings import read_signal_settings

NEW_YORK = "America/New_York"
NEW_YORK_TIMES = TimeFormat(zone=NEW_YORK)


def session_of(time: str, cutoff_minutes: float = 0) -> str:
    """Date of the session for which a text of this time counts."""
    sessions = sessions_of("2024-01-02", "2024-12-31")
    times, _ = parse_times(pd.Series([time]), NEW_YORK)
    return f"{sessions.dates[sessions.assign(times, cutoff_minutes)[0]]:%Y-%m-%d}"


def test_session_of_a_text_moves_by_one_second_over_the_close() -> None:
    assert session_of("2024-03-06 16:00:00") == "2024-03-06"
    assert session_of("2024-03-06 16:00:01") == "2024-03-07"


def test_session_ends_earlier_on_a_half_day() -> None:
    assert session_of("2024-07-03 13:00:00") == "2024-07-03"
    assert session_of("2024-07-03 13:00:01") == "2024-07-05"  # the 4th is a holiday


def test_session_of_a_weekend_or_holiday_is_the_next_one() -> None:
    assert session_of("2024-03-09 10:00:00") == "2024-03-11"
    assert session_of("2024-03-28 16:00:01") == "2024-04-01"  # Good Friday
    assert session_of("2024-11-28 09:00:00") == "2024-11-29"  # Thanksgiving


def test_session_follows_the_change_of_the_clocks() -> None:
    assert session_of("2024-03-08T21:00:00Z") == "2024-03-08"
    assert session_of("2024-03-11T20:00:00Z") == "2024-03-11"
    assert session_of("2024-03-11T20:00:01Z") == "2024-03-12"


def test_session_ends_before_the_close_by_the_cutoff() -> None:
    assert session_of("2024-03-06 15:45:00", cutoff_minutes=15) == "2024-03-06"
    assert session_of("2024-03-06 15:45:01", cutoff_minutes=15) == "2024-03-07"


def test_times_without_an_offset_need_a_time_zone() -> None:
    for values in (pd.Series(["2024-03-06 16:00"]), pd.Series(pd.to_datetime(["2024-03-06 16:00"]))):
        with pytest.raises(Fault, match=r"--time-zone") as fault:
            parse_times(values, None)
        assert "2024-03-06 16:00:00 without an offset" in str(fault.value)
        times, _ = parse_times(values, NEW_YORK)
        assert times[0] == pd.Timestamp("2024-03-06 21:00", tz="UTC")


def test_times_with_an_offset_keep_it_whatever_the_time_zone() -> None:
    values = pd.Series(["2024-03-06T16:00:00+01:00", "2024-03-06T15:00:00Z", "2024-03-06 10:00:00.250-0500"])
    for zone in (None, NEW_YORK):
        times, problems = parse_times(values, zone)
        assert problems.isna().all()
        assert set(times.dt.floor("s")) == {pd.Timestamp("2024-03-06 15:00", tz="UTC")}


def test_times_that_cannot_be_used_have_a_reason() -> None:
    day = pd.Timestamp("2024-03-06").date()
    values = pd.Series(
        ["now", "06.03.2024 16:00", "", None, pd.NaT, float("nan"), "2024-03-06", "2024-03", day], dtype=object
    )
    times, problems = parse_times(values, NEW_YORK)
    assert times.isna().all()
    assert problems.tolist() == [UNREADABLE, UNREADABLE, *[NO_TIME] * 4, *[NO_CLOCK] * 3]


def test_local_times_that_occur_twice_or_never_are_the_later_one_as_in_splits() -> None:
    texts = ["2024-03-10 02:30", "2024-11-03 01:30", "2024-06-03 01:30"]
    expected = [NEW_YORK_TIMES.parse(text) for text in texts]
    for values in (pd.Series(texts), pd.Series(pd.to_datetime(texts))):
        times, problems = parse_times(values, NEW_YORK)
        assert problems.isna().all()
        assert times.dt.as_unit("us").astype("int64").tolist() == expected


def test_times_of_any_year_are_read() -> None:
    times, _ = parse_times(pd.Series(["0001-01-01T10:00Z", "2024-03-06T10:00Z", "9999-12-31T10:00Z"]), None)
    assert sessions_of().assign(times).tolist() == [0, 44, len(sessions_of())]


def test_numbers_are_refused_as_times() -> None:
    with pytest.raises(Fault, match="unit='s'"):
        parse_times(pd.Series([1709758800]), "UTC")


def test_unknown_time_zones_and_calendars_are_refused_with_a_suggestion() -> None:
    with pytest.raises(Fault, match="did you mean America/New_York"):
        read_signal_settings(None, time_zone="America/NewYork")
    with pytest.raises(Fault, match="XNYS"):
        open_sessions("XNYSE", pd.Timestamp("2024-01-02").date(), pd.Timestamp("2024-01-05").date())


def test_dates_are_read_as_texts_dates_numbers_and_timestamps() -> None:
    day = pd.Timestamp("2024-03-06")
    for values in (
        pd.Series(["2024-03-06"]),
        pd.Series(["2024-03-06 00:00:00-05:00"]),
        pd.Series([20240306]),
        pd.Series([day.date()]),
        pd.Series([day]),
        pd.Series([day.tz_localize(NEW_YORK)]),
    ):
        assert parse_dates(values).tolist() == [day]
    assert parse_dates(pd.Series(["06.03.2024", None])).isna().all()
