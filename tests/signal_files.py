"""Small answers and prices for tests of `moe signal`, on sessions of the New York Stock Exchange."""

from pathlib import Path

import numpy as np
import pandas as pd

from moe.signals.sessions import Sessions, open_sessions

TICKERS = tuple(f"T{number}" for number in range(8))


def sessions_of(start: str = "2024-01-02", end: str = "2024-06-28") -> Sessions:
    """Sessions of half a year, and a month more."""
    return open_sessions("XNYS", pd.Timestamp(start).date(), pd.Timestamp(end).date())


def write_files(folder: Path, *, planted: float = 0.0, seed: int = 0) -> tuple[Path, Path]:
    """Write `answers.parquet` and `prices.parquet`: one text a ticker and session, two hours before the close.

    Args:
        folder: where.
        planted: how strongly the next session's return follows the polarity; 0 leaves them unrelated.
        seed: of the random numbers.
    """
    sessions, rng = sessions_of(), np.random.default_rng(seed)
    count = int((sessions.dates <= "2024-06-28").sum())
    polarity = rng.uniform(-1, 1, (count, len(TICKERS)))
    returns = rng.normal(0, 0.02, (count, len(TICKERS)))
    returns[1:] += planted * polarity[:-1]
    closes = 100 * np.cumprod(1 + returns, axis=0)
    prices = pd.DataFrame(closes, index=sessions.dates[:count], columns=list(TICKERS)).rename_axis("date")
    prices = prices.reset_index().melt("date", var_name="ticker", value_name="close")
    rows = [
        (ticker, sessions.closes[session] - pd.Timedelta(hours=2), f"{ticker} news {session} of the day", value, 0.9)
        for session in range(count)
        for ticker, value in zip(TICKERS, polarity[session], strict=True)
    ]
    answers = pd.DataFrame(rows, columns=["ticker", "time", "text", "polarity", "confidence"])
    answers.to_parquet(folder / "answers.parquet", index=False)
    prices.to_parquet(folder / "prices.parquet", index=False)
    return folder / "answers.parquet", folder / "prices.parquet"
