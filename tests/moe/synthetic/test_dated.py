"""The dated sample: the same texts with increasing times, what they are about, and prices on sessions only."""

import csv
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from moe.config.run import load_run
from moe.runs.workspace import Workspace
from moe.signals.sessions import open_sessions
from moe.synthetic import COLUMNS, DATED_COLUMNS, DOMAINS, write_market, write_sample
from moe.synthetic.dated import HOLIDAYS, PRICES_FROM, PRICES_TO, draw_times, tickers

CONFIG = Path(__file__).parents[3] / "configs" / "walk_forward.yaml"


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small dated sample."""
    folder = tmp_path_factory.mktemp("dated")
    write_sample(folder, rows=120, dated=True)
    write_market(folder)
    return folder


def test_dated_rows_are_those_of_the_sample_with_two_columns_more(dated: Path, tmp_path: Path) -> None:
    plain = write_sample(tmp_path, rows=120)
    for path, domain in zip(plain, DOMAINS, strict=True):
        rows = read_rows(dated / f"{domain}.csv")
        assert tuple(rows[0]) == DATED_COLUMNS
        assert [{name: row[name] for name in COLUMNS} for row in rows] == read_rows(path)


def test_times_increase_and_spread_over_two_years() -> None:
    times = draw_times("forum", 240, 13)
    assert times == sorted(times) == draw_times("forum", 240, 13)
    months = {time[:7] for time in times}
    assert len(months) == 24
    assert times != draw_times("news", 240, 13)


def test_every_post_names_its_ticker_and_most_headlines_a_firm(dated: Path) -> None:
    assert all(row["entity"] in row["text"] and row["entity"][0] == "$" for row in read_rows(dated / "forum.csv"))
    news = read_rows(dated / "news.csv")
    assert all(row["entity"] in row["text"] for row in news)
    assert sum(row["entity"] != "" for row in news) > 60


def test_prices_have_every_ticker_on_every_session_and_no_other_day(dated: Path) -> None:
    prices = pd.read_csv(dated / "prices.csv")
    sessions = open_sessions("XNYS", PRICES_FROM, PRICES_TO).dates
    expected = set(sessions[sessions <= pd.Timestamp(PRICES_TO)].strftime("%Y-%m-%d"))
    assert prices.groupby("ticker")["date"].agg(set).map(expected.__eq__).all()
    assert len(set(tickers().values())) == len(tickers()) == prices["ticker"].nunique()
    assert (prices["close"] > 0).all()
    assert all(day.weekday() < 5 for day in HOLIDAYS)
    assert max(HOLIDAYS) < date(2025, 3, 1)


def test_shipped_config_walks_forward_over_the_sample(tmp_path: Path) -> None:
    for fold, (first, last) in enumerate((("2024-01", "2024-03"), ("2024-04", "2024-06"), ("2024-07", "2024-09"))):
        run = load_run(CONFIG, [f"domains.forum.split.fold={fold}", "sample.rows=480"])
        report = Workspace(run, tmp_path / str(fold)).prepared("forum")["forum"].report
        assert report.periods is not None
        assert (report.periods["test"][0][:7], report.periods["test"][1][:7]) == (first, last)
        assert report.periods["train"][0][:7] == f"2023-{3 * fold + 1:02d}"
        assert report.splits["train"].rows > 150
