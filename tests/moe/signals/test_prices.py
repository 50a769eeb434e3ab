"""Claims about prices: what is refused, left out, and warned of."""

from pathlib import Path

import pandas as pd
import pytest
from signal_files import sessions_of

from experts.errors import Fault
from moe.signals.prices import adjustment_note, read_prices
from moe.signals.settings import SignalSettings

ROWS = [("A", "2024-01-02", 10.0), ("A", "2024-01-03", 11.0), ("B", "2024-01-02", 5.0)]


def file_of(folder: Path, rows: list[tuple[object, object, object]]) -> Path:
    """Prices as a parquet file."""
    path = folder / "prices.parquet"
    pd.DataFrame(rows, columns=["Ticker", "Date", "Close"]).astype({"Close": float}).to_parquet(path, index=False)
    return path


def test_prices_are_read_whatever_the_letter_case_of_their_columns(tmp_path: Path) -> None:
    closes, others = read_prices(file_of(tmp_path, ROWS), SignalSettings()).on_sessions(sessions_of())
    assert others == 0
    assert closes.loc["2024-01-03", "A"] == 11
    assert closes["B"].count() == 1


def test_prices_without_a_close_above_zero_are_left_out(tmp_path: Path) -> None:
    rows = [*ROWS, ("A", "2024-01-04", None), ("A", "2024-01-05", 0.0), ("A", "soon", 3.0), (None, "2024-01-05", 3.0)]
    prices = read_prices(file_of(tmp_path, rows), SignalSettings())
    assert (len(prices.frame), prices.missing) == (3, 4)


def test_equal_rows_count_once_and_different_closes_of_a_session_are_refused(tmp_path: Path) -> None:
    assert read_prices(file_of(tmp_path, [*ROWS, ROWS[0]]), SignalSettings()).repeated == 1
    with pytest.raises(Fault, match="another close of A on 2024-01-02 in line 4"):
        read_prices(file_of(tmp_path, [*ROWS, ("A", "2024-01-02", 12.0)]), SignalSettings())


def test_prices_without_any_complete_row_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="none of them complete"):
        read_prices(file_of(tmp_path, [("A", "02.01.2024", 1.0)]), SignalSettings())


def test_few_dates_that_are_no_sessions_are_left_out_and_many_are_refused(tmp_path: Path) -> None:
    days = [("A", f"{day:%Y-%m-%d}", 1.0) for day in sessions_of().dates[:40]]
    closes, others = read_prices(file_of(tmp_path, [*days, ("A", "2024-01-06", 1.0)]), SignalSettings()).on_sessions(
        sessions_of()
    )
    assert (closes["A"].count(), others) == (40, 1)
    weekend = [("A", "2024-01-06", 1.0), ("A", "2024-01-08", 1.0)]
    with pytest.raises(Fault, match=r"2024-01-06 \(Saturday\).*--calendar"):
        read_prices(file_of(tmp_path, weekend), SignalSettings()).on_sessions(sessions_of())


def test_note_on_unadjusted_closes_names_a_return_that_looks_like_a_split() -> None:
    dates = sessions_of().dates[:3]
    assert "exceed" not in adjustment_note(pd.DataFrame({"A": [10.0, 11.0, 10.0]}, index=dates))
    assert "-50% of A on 2024-01-04" in adjustment_note(pd.DataFrame({"A": [10.0, 10.0, 5.0]}, index=dates))


def test_missing_columns_are_named_with_the_setting_that_names_them(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    path.write_text("ticker,date,adj_close\nA,2024-01-02,10\n", encoding="utf-8")
    with pytest.raises(Fault, match=r"a column 'close' in prices.csv.*adj_close.*--set prices.close=COLUMN"):
        read_prices(path, SignalSettings())
