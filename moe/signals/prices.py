"""Closing prices as a matrix of sessions and tickers, and returns between closes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experts.errors import Fault
from moe.signals.sessions import Sessions, parse_dates
from moe.signals.settings import SignalSettings
from moe.signals.tables import ERROR, LINE, ColumnRequest, read_columns

Matrix = NDArray[np.float64]
"""Values by session and ticker (T, N); NaN where there is none."""
MAX_OTHER_DATES = 0.05
"""Share of dates that are no sessions above which the calendar is taken to be the wrong one."""
LARGE_RETURN = 0.4


@dataclass(frozen=True)
class Prices:
    """Rows of a file of prices, checked.

    Args:
        frame: ticker, date (midnight, without a zone) and close, one row a ticker and date.
        missing: rows that were left out because they have no ticker, date or positive close.
        repeated: rows that were left out because they repeat another row exactly.
    """

    frame: pd.DataFrame
    missing: int
    repeated: int

    def on_sessions(self, sessions: Sessions) -> tuple["pd.DataFrame", int]:
        """Return the closes by session (T) and ticker (M), and the number of rows on other dates.

        Raises:
            Fault: if too many dates are no sessions of the calendar.
        """
        dates = pd.DatetimeIndex(self.frame["date"].unique())
        others = dates.difference(sessions.dates)
        if len(others) > MAX_OTHER_DATES * len(dates):
            raise Fault(
                f"dates that are sessions of {sessions.calendar}",
                f"{len(others):,} of {len(dates):,} that are none, such as {others[0]:%Y-%m-%d (%A)}",
                "choose the exchange's calendar with --calendar",
            )
        inside = ~self.frame["date"].isin(others)
        closes = self.frame[inside].pivot(index="date", columns="ticker", values="close")
        return closes.reindex(sessions.dates), int((~inside).sum())


def read_prices(path: Path, settings: SignalSettings) -> Prices:
    """Read prices.

    Raises:
        Fault: if the file cannot be read, lacks a column, has two closes for a ticker and date, or none that is valid.
    """
    frame = read_columns(path, ColumnRequest(settings.prices.model_dump(), setting="prices"))
    tickers = frame["ticker"].where(frame["ticker"].isna(), frame["ticker"].astype(str).str.strip())
    dates = parse_dates(frame["date"])
    closes = pd.to_numeric(frame["close"], errors="coerce").astype(float)
    valid = frame[ERROR].isna() & tickers.notna() & (tickers != "") & dates.notna()
    valid &= np.isfinite(closes) & (closes > 0)
    if not valid.any():
        raise Fault(
            f"rows with a ticker, a date in ISO 8601 and a close above 0 in {path}",
            f"{len(frame):,} rows, none of them complete",
            "correct the file, or name other columns with --set prices.NAME=COLUMN",
        )
    prices = pd.DataFrame({"ticker": tickers, "date": dates, "close": closes, LINE: frame[LINE]})[valid]
    unique = prices.drop_duplicates(["ticker", "date", "close"])
    clashes = unique[unique.duplicated(["ticker", "date"], keep="first")]
    if len(clashes):
        line, ticker, day = clashes.iloc[0][[LINE, "ticker", "date"]]
        raise Fault(
            f"one close for each ticker and date in {path.name}",
            f"another close of {ticker} on {day:%Y-%m-%d} in line {line}, and {len(clashes) - 1:,} more such rows",
            "remove the wrong rows",
        )
    return Prices(unique.drop(columns=LINE), int((~valid).sum()), len(prices) - len(unique))


def closes_of(closes: pd.DataFrame, tickers: Sequence[str]) -> Matrix:
    """Return the closes of these tickers (T, N), NaN for tickers without prices."""
    return np.asarray(closes.reindex(columns=list(tickers)).to_numpy(float))


def forward_returns(closes: Matrix, horizon: int, delay: int = 0) -> Matrix:
    """Return what a position earns that is opened `delay` sessions after each session's close, for `horizon` sessions.

    Returns:
        returns (T, N): row t is close[t + delay + horizon] / close[t + delay] − 1, so that no price up to the close of
        session t other than that close itself enters; NaN where a close is missing.
    """
    returns = np.full_like(closes, np.nan)
    end = delay + horizon
    if end < len(closes):
        returns[: len(closes) - end] = closes[end:] / closes[delay : len(closes) - horizon] - 1
    return returns


def session_returns(closes: Matrix) -> Matrix:
    """Return the return of each session from the close before (T, N); the first row is NaN."""
    returns = np.full_like(closes, np.nan)
    returns[1:] = closes[1:] / closes[:-1] - 1
    return returns


def adjustment_note(closes: pd.DataFrame) -> str:
    """Return the warning for closes that may not be adjusted for splits and dividends."""
    note = "closes are not declared as adjusted (--adjusted): splits and dividends then appear as returns"
    returns = session_returns(closes.to_numpy(float))
    large = np.argwhere(np.abs(np.nan_to_num(returns)) > LARGE_RETURN)
    if not len(large):
        return note
    row, column = large[0]
    example = f"{returns[row, column]:+.0%} of {closes.columns[column]} on {closes.index[row]:%Y-%m-%d}"
    return f"{note}; {len(large):,} returns of a session exceed {LARGE_RETURN:.0%}, such as {example}"
