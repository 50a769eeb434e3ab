"""Time and memory of `moe signal` on synthetic answers, beside a pandas groupby that aggregates ticker by session.

python benchmarks/signals.py --answers 100000
python benchmarks/signals.py --answers 1000000
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from moe.signals.aggregate import PlacedAnswers, aggregate
from moe.signals.sessions import open_sessions
from moe.signals.settings import SignalSettings

TICKERS, DAYS = 500, 750
WORDS = 4000
NAIVE_ROWS = 20_000
"""Most answers that the naive aggregation is timed on."""


def make_answers(count: int, rng: np.random.Generator) -> pd.DataFrame:
    """Answers about 500 tickers over three years; one in ten repeats the text of another one of the ticker."""
    sessions = open_sessions("XNYS", pd.Timestamp("2022-01-03").date(), pd.Timestamp("2024-12-20").date())
    span = int((sessions.closes[DAYS - 1] - sessions.closes[0]).total_seconds())
    times = sessions.closes[0] + pd.to_timedelta(np.sort(rng.integers(0, span, count)), unit="s")
    texts = np.array([" ".join(f"word{word}" for word in row) for row in islice(_words(count, rng), count)], object)
    tickers = rng.integers(0, TICKERS, count)
    repeats = rng.random(count) < 0.1
    order = np.lexsort((np.arange(count), tickers))
    before = np.empty(count, np.int64)
    before[order[1:]] = order[:-1]
    before[order[0]] = order[0]
    texts[repeats] = texts[before[repeats]]
    return pd.DataFrame(
        {
            "ticker": np.array([f"T{number:03d}" for number in range(TICKERS)])[tickers],
            "time": times,
            "text": texts,
            "polarity": rng.uniform(-1, 1, count).round(6),
            "confidence": rng.uniform(0.4, 1, count).round(6),
        }
    )


def _words(count: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Yield the words of each text; few are frequent, as in language."""
    for _ in range(0, count, 10_000):
        yield from ((rng.zipf(1.3, (10_000, 14)) - 1) % WORDS).tolist()


def make_prices(rng: np.random.Generator) -> pd.DataFrame:
    """Random walks of the closes of all tickers."""
    sessions = open_sessions("XNYS", pd.Timestamp("2022-01-03").date(), pd.Timestamp("2024-12-20").date())
    closes = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, (len(sessions), TICKERS)), axis=0))
    names = [f"T{number:03d}" for number in range(TICKERS)]
    frame = pd.DataFrame(closes, index=sessions.dates, columns=names).rename_axis("date")
    return frame.reset_index().melt("date", var_name="ticker", value_name="close")


def naive_seconds(frame: pd.DataFrame) -> float:
    """Seconds of the same aggregation by `groupby.apply`, a group at a time."""

    def summarize(group: pd.DataFrame) -> pd.Series:
        novel = group[group["novel"]]
        weights = novel["confidence"]
        mean = np.average(novel["polarity"], weights=weights) if len(novel) else np.nan
        spread = np.sqrt(np.average((novel["polarity"] - mean) ** 2, weights=weights)) if len(novel) else np.nan
        return pd.Series({"count": len(group), "novel": len(novel), "mean": mean, "dispersion": spread})

    start = time.perf_counter()
    frame.groupby(["session", "ticker"])[["polarity", "confidence", "novel"]].apply(summarize)
    return time.perf_counter() - start


def compare_aggregation(count: int, rng: np.random.Generator) -> None:
    """Print the seconds of both aggregations, and their ratio."""
    frame = pd.DataFrame(
        {
            "session": np.sort(rng.integers(0, DAYS, count)),
            "ticker": rng.integers(0, TICKERS, count),
            "polarity": rng.uniform(-1, 1, count),
            "confidence": rng.uniform(0.4, 1, count),
            "novel": rng.random(count) < 0.9,
        }
    )
    placed = PlacedAnswers(
        frame["session"].to_numpy(), frame["ticker"].to_numpy(), frame["novel"].to_numpy(), (DAYS, TICKERS)
    )
    start = time.perf_counter()
    aggregate(placed, frame["polarity"].to_numpy(), frame["confidence"].to_numpy(), SignalSettings())
    ours, naive = time.perf_counter() - start, naive_seconds(frame)
    print(f"aggregation of {count:,}: {ours:.2f} s, groupby {naive:.1f} s, ratio {naive / ours:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=100_000, help="number of answers")
    parser.add_argument("--make", type=Path, help="only write the synthetic files into this folder")
    options = parser.parse_args()
    count, rng = options.answers, np.random.default_rng(0)
    if options.make:
        make_answers(count, rng).to_parquet(options.make / "answers.parquet", index=False)
        make_prices(rng).to_parquet(options.make / "prices.parquet", index=False)
        return
    with tempfile.TemporaryDirectory() as folder:
        # in a process of their own, since a child's peak memory begins with its parent's
        subprocess.run([sys.executable, __file__, "--answers", str(count), "--make", folder], check=True)
        start = time.perf_counter()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "moe", "signal", f"{folder}/answers.parquet", "--json"),
                *("--prices", f"{folder}/prices.parquet", "--adjusted", "--out-dir", f"{folder}/signal"),
            ],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    assert status == 0, "moe signal failed"
    report = json.loads(printed)
    cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    print(f"{count:,} answers: {seconds:.1f} s ({cpu:.1f} s of CPU), peak {peak:,.0f} MiB")
    print(f"{report['coverage']['repeated']:,} near-duplicates")
    print(report["verdict"][0])
    compare_aggregation(min(count, NAIVE_ROWS), rng)


if __name__ == "__main__":
    main()
