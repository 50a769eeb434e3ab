"""Claims about `moe signal`: its files, its page, and what it refuses without leaving anything behind."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import CommandLine, moe, workdir
from signal_files import TICKERS, write_files

from moe.signals.command import SignalPaths, run_signal
from moe.signals.settings import SignalSettings, read_signal_settings

__all__ = ["moe", "workdir"]
FILES = ("signal", "ic", "spread", "events", "coverage", "rejected")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Answers and prices whose next return follows the polarity."""
    return write_files(tmp_path_factory.mktemp("signal"), planted=0.02)


def words_of(files: tuple[Path, Path], out: Path, *more: str) -> tuple[str, ...]:
    """Words of a call."""
    return ("signal", str(files[0]), "--prices", str(files[1]), "--out-dir", str(out), *more)


def test_signal_of_related_prices_is_found_and_all_files_are_written(
    moe: CommandLine, files: tuple[Path, Path], tmp_path: Path
) -> None:
    code, out, err = moe(*words_of(files, tmp_path / "signal", "--adjusted", "--json"))
    assert code == 0, err
    report = json.loads(out)
    assert report["verdict"][0].startswith("The signal is positively related")
    assert report["coverage"]["tickers"] == len(TICKERS)
    assert json.loads((tmp_path / "signal" / "signal.json").read_text(encoding="utf-8")) == report
    tables = {name: pd.read_parquet(tmp_path / "signal" / f"{name}.parquet") for name in FILES}
    assert tables["signal"]["texts"].sum() == report["coverage"]["used"]
    assert tables["ic"]["ic_1"].mean() == pytest.approx(report["sources"][0]["ic"][0]["mean"])
    assert (tables["signal"]["signal"].abs() <= 1).all()
    page = (tmp_path / "signal" / "index.html").read_text(encoding="utf-8")
    assert "positively related" in page
    assert "no advice" in page
    assert page.count("data:image/png") >= 4
    assert "http" not in page.replace("http-equiv", "")
    assert report["notes"] == [
        "No text has a word of the lexicon (English and Chinese); there is nothing to compare with."
    ]


def test_signal_of_unrelated_prices_is_a_null_result(
    moe: CommandLine, files: tuple[Path, Path], tmp_path: Path
) -> None:
    unrelated = write_files(tmp_path, planted=0.0)
    code, out, _ = moe(*words_of(unrelated, tmp_path / "signal", "--json"))
    report = json.loads(out)
    assert code == 0
    assert report["verdict"][0].startswith("No evidence")
    assert report["notes"][0].startswith("Closes are not declared as adjusted")


def test_planted_return_of_the_same_session_is_not_found(tmp_path: Path) -> None:
    answers, prices = write_files(tmp_path, planted=0.05)
    frame = pd.read_parquet(answers)
    frame["time"] += pd.Timedelta(days=1)  # the return that followed is now that of the text's own session
    frame[frame["time"].dt.day_of_week < 5].to_parquet(answers, index=False)
    report = run_signal(SignalPaths(answers, prices, tmp_path / "signal", adjusted=True), SignalSettings(max_age=0))
    assert report.verdict[0].startswith("No evidence")


def test_second_call_writes_the_same_tables(files: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        run_signal(SignalPaths(*files, tmp_path / name, adjusted=True), SignalSettings())
    for name in FILES:
        assert (tmp_path / "a" / f"{name}.parquet").read_bytes() == (tmp_path / "b" / f"{name}.parquet").read_bytes()


def test_text_of_one_second_after_the_close_changes_only_later_sessions(tmp_path: Path) -> None:
    answers, prices = write_files(tmp_path)
    frame = pd.read_parquet(answers)
    moved = frame.index[frame["ticker"] == "T0"][40]
    signals = []
    for seconds in (0, 1):
        frame.loc[moved, "time"] = frame["time"][moved].floor("D") + pd.Timedelta(hours=21, seconds=seconds)
        frame.to_parquet(answers, index=False, row_group_size=100)  # as a large file has them
        run_signal(SignalPaths(answers, prices, tmp_path / f"signal{seconds}"), SignalSettings())
        table = pd.read_parquet(tmp_path / f"signal{seconds}" / "signal.parquet")
        signals.append(table.pivot(index="session", columns="ticker", values="texts")["T0"])
    day = pd.Timestamp(frame["time"][moved].date())
    changed = signals[0].index[signals[0] != signals[1]]
    assert changed[0] == day
    assert (signals[0][day], signals[1][day]) == (1, 0)
    assert len(changed) == 2


def test_invalid_inputs_are_refused_and_leave_nothing(
    moe: CommandLine, files: tuple[Path, Path], tmp_path: Path
) -> None:
    answers, prices = (pd.read_parquet(path) for path in files)

    def refused(name: str, frame: pd.DataFrame, *more: str) -> str:
        frame.to_parquet(tmp_path / "changed.parquet", index=False)
        pair = (
            (tmp_path / "changed.parquet", files[1]) if name == "answers" else (files[0], tmp_path / "changed.parquet")
        )
        message = moe.refused(*words_of(pair, tmp_path / "signal", *more))
        assert not (tmp_path / "signal").exists()
        return message

    naive = answers.assign(time=answers["time"].dt.tz_localize(None))
    assert "--time-zone" in refused("answers", naive)
    assert "'Mars/Base'" in refused("answers", naive, "--time-zone", "Mars/Base")
    assert "a column 'ticker'" in refused("answers", answers.drop(columns="ticker"))
    assert "a column 'when'" in refused("answers", answers, "--time-column", "when")
    assert "tickers of the answers in the prices" in refused("answers", answers.assign(ticker="ZZZ"))
    assert "after the first price" in refused("answers", answers.assign(time=pd.Timestamp("2020-01-02", tz="UTC")))
    assert "rows in" in refused("answers", answers.head(0))
    assert "rows in" in refused("prices", prices.head(0))
    assert "another close" in refused("prices", pd.concat([prices, prices.head(1).assign(close=1.0)]))
    assert "none of them complete" in refused("prices", prices.assign(close=np.nan))
    assert "XNYS" in refused("answers", answers, "--calendar", "XNYX")
    assert "half_life" in refused("answers", answers, "--set", "half_life=-1")
    assert "quantile:" in refused("answers", answers, "--set", "quantile=3")


def test_one_ticker_and_answers_after_the_last_price_are_notes(files: tuple[Path, Path], tmp_path: Path) -> None:
    answers, prices = (pd.read_parquet(path) for path in files)
    answers[answers["ticker"] == "T1"].drop(columns=["text", "confidence"]).to_parquet(tmp_path / "a.parquet")
    prices[prices["date"] < "2024-05-01"].to_parquet(tmp_path / "p.parquet")
    paths = SignalPaths(tmp_path / "a.parquet", tmp_path / "p.parquet", tmp_path / "signal", adjusted=True)
    report = run_signal(paths, SignalSettings())
    assert report.verdict[0].startswith("No verdict")
    notes = " ".join(report.notes)
    for part in (
        "no confidence",
        "no text",
        "later than the last price (2024-04-30)",
        "min_tickers",
        "too few sessions",
    ):
        assert part in notes


def test_existing_folder_is_replaced_with_overwrite_only(
    moe: CommandLine, files: tuple[Path, Path], tmp_path: Path
) -> None:
    words = words_of(files, tmp_path / "signal", "--set", "shifts=20", "--set", "resamples=100")
    assert moe(*words)[0] == 0
    assert "--overwrite" in moe.refused(*words)
    assert moe(*words, "--overwrite")[0] == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine", encoding="utf-8")
    assert "other files" in moe.refused(*words_of(files, tmp_path / "other", "--overwrite"))


def test_settings_come_from_the_file_then_overrides_then_flags(tmp_path: Path) -> None:
    (tmp_path / "signal.yaml").write_text("half_life: 7\ncalendar: XLON\nprices: {close: adj}\n", encoding="utf-8")
    settings = read_signal_settings(
        tmp_path / "signal.yaml",
        ["half_life=5"],
        columns={"answers.time": "when", "answers.ticker": None},
        calendar=None,
    )
    assert (settings.half_life, settings.calendar, settings.prices.close) == (5, "XLON", "adj")
    assert (settings.answers.time, settings.answers.ticker) == ("when", "ticker")
    assert read_signal_settings(None, calendar="XPAR").calendar == "XPAR"
