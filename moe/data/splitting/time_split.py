"""Splits by time: rows before a time train, later ones validate and test, and an embargo lies between them."""

from dataclasses import dataclass
from datetime import datetime, time, timedelta

import numpy as np
from numpy.typing import NDArray

from experts.errors import Fault
from moe.data.splitting.settings import SPLITS, SplitSettings
from moe.data.splitting.splits import SplitRows
from moe.data.splitting.times import TimeFormat, from_microseconds, microseconds, shift

Times = NDArray[np.int64]
VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class TimeWindows:
    """Times at which the sides of a split begin and end, in microseconds since 1970 in UTC.

    Args:
        start: first time of training rows; None for no limit.
        validation: first time of validation rows; None if it depends on the rows.
        test: first time of test rows.
        end: time before which test rows are; None for no limit.
        embargo: length of the time before validation and test rows that is left out.
    """

    start: int | None
    validation: int | None
    test: int
    end: int | None
    embargo: str


def time_windows(settings: SplitSettings, times: TimeFormat, last: int) -> TimeWindows:
    """Return the windows of a split by time.

    Args:
        settings: with `by` or `walk_forward`.
        times: format of the file's times, whose zone is that of dates in the settings.
        last: the last time of the file's rows, in microseconds.
    """
    if settings.walk_forward is None:
        assert settings.test_from is not None
        first = None if settings.validation_from is None else microseconds(times.in_utc(settings.validation_from))
        return TimeWindows(None, first, microseconds(times.in_utc(settings.test_from)), None, settings.embargo)
    forward = settings.walk_forward
    after = times.date_of(last) + timedelta(days=1)
    end = times.in_utc(datetime.combine(after, time()))  # the midnight after the last row
    test_start = shift(end, forward.test, settings.fold - forward.folds)
    test_end = shift(end, forward.test, settings.fold - forward.folds + 1)
    train_start = shift(test_start, forward.train, -1)
    return TimeWindows(
        microseconds(train_start), None, microseconds(test_start), microseconds(test_end), forward.embargo
    )


def split_by_time(rows: Times, own: NDArray[np.integer], windows: TimeWindows) -> SplitRows:
    """Split the rows of a file by their times; rows in an embargo, and outside the windows, are on no side.

    Without a first time of validation rows, the last tenth of the rows before the test rows validates. A row that the
    file holds out stays held out: one whose own split is later than its time's is on its own side.

    Args:
        rows: time of every row (N,), in microseconds.
        own: the file's split of every row as an index into `SPLITS`, -1 for none (N,).
        windows: times of the sides.

    Raises:
        Fault: if a side has no rows.
    """
    before_test = rows < _minus(windows.test, windows.embargo)
    if windows.start is not None:
        before_test &= rows >= windows.start
    is_test = rows >= windows.test
    if windows.end is not None:
        is_test &= rows < windows.end
    validation = windows.validation
    if validation is None:
        earlier = np.sort(rows[before_test])
        validation = int(earlier[-max(1, round(VALIDATION_SHARE * len(earlier)))]) if len(earlier) else windows.test
    side = np.full(len(rows), -1)
    side[before_test & (rows >= validation)] = SPLITS.index("validation")
    side[before_test & (rows < _minus(validation, windows.embargo))] = SPLITS.index("train")
    side[is_test] = SPLITS.index("test")
    side = np.where((side >= 0) & (own > side), own, side)
    sides = {name: np.flatnonzero(side == SPLITS.index(name)) for name in SPLITS}
    if empty := [name for name in SPLITS if not len(sides[name])]:
        raise Fault(
            f"{empty[0]} rows by time",
            f"none of {len(rows)} from {_format(int(rows.min()))} to {_format(int(rows.max()))}",
            "change validation_from, test_from or walk_forward, or shorten the embargo",
        )
    return sides


def _minus(moment: int, period: str) -> int:
    return microseconds(shift(from_microseconds(moment), period, -1))


def _format(moment: int) -> str:
    return f"{from_microseconds(moment):%Y-%m-%d %H:%M}"
