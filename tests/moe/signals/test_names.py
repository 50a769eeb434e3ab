"""Claims about names: which spellings are one firm, and that names without a ticker are rejected and counted."""

import json
from pathlib import Path

import pandas as pd
import pytest
from command_line import CommandLine, moe, workdir
from signal_files import TICKERS, write_files

from experts.errors import Fault
from moe.signals.answers import NO_NAME, NO_TICKER, read_answers
from moe.signals.command import SignalPaths, run_signal
from moe.signals.names import NameMap, name_key, read_names
from moe.signals.settings import NameColumns, SignalSettings

__all__ = ["moe", "workdir"]
SETTINGS = SignalSettings()


def write_names(folder: Path, *rows: tuple[object, object]) -> Path:
    """Write a file of names and tickers."""
    pd.DataFrame(rows, columns=["name", "ticker"]).to_csv(folder / "names.csv", index=False)
    return folder / "names.csv"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Apple Inc.", "apple"),
        ("  APPLE,  Inc", "apple"),
        ("Apple", "apple"),
        ("L'Oréal S.A.", "loréal"),
        ("Toyota Motor Co., Ltd.", "toyota motor"),
        ("Ｓｏｎｙ Corp", "sony"),
        ("Inc.", "inc"),
        ("Incyte", "incyte"),
        ("AT&T", "at&t"),
    ],
)
def test_name_key_ignores_letter_case_dots_and_legal_forms_only(name: str, key: str) -> None:
    assert name_key(name) == key


def test_names_come_before_tickers_and_a_dollar_sign_means_a_ticker(tmp_path: Path) -> None:
    path = write_names(tmp_path, ("Ford Motor", "F"), ("Gap", "GPS"), ("Apple Inc.", "$AAPL"))
    names = read_names(path, SETTINGS).with_tickers(["GAP", "MSFT"])
    expected = {"Gap": "GPS", "$gap": "GAP", "aapl": "AAPL", "$AAPL": "AAPL", "apple": "AAPL", "msft": "MSFT"}
    assert {entity: names.ticker_of(entity) for entity in expected} == expected
    assert names.ticker_of("$Apple") is names.ticker_of("Ford") is None


def test_answers_get_tickers_and_the_rest_is_rejected_and_counted(tmp_path: Path) -> None:
    row = {"time": "2024-03-06T10:00:00Z", "polarity": 0.5, "confidence": 0.8}
    entities = ["Apple Inc.", "$aapl", "Nokia", "Nokia", "Siemens", None, " "]
    pd.DataFrame([row | {"ticker": entity} for entity in entities]).to_parquet(tmp_path / "a.parquet")
    answers = read_answers(tmp_path / "a.parquet", SETTINGS, names=NameMap({"apple": "AAPL"}, {"aapl": "AAPL"}))
    assert answers.frame["ticker"].tolist() == ["AAPL", "AAPL"]
    assert answers.rejected["reason"].tolist() == [NO_NAME, NO_NAME, NO_NAME, NO_TICKER, NO_TICKER]
    assert answers.rejected["line"].tolist() == [3, 4, 5, 6, 7]
    assert answers.unmapped == {"Nokia": 2, "Siemens": 1}
    with pytest.raises(Fault, match=r"a name without a ticker \(5, .*\. Add the names to the file of --names"):
        read_answers(tmp_path / "a.parquet", SETTINGS, names=NameMap({}, {}))


def test_files_that_are_ambiguous_or_incomplete_are_refused_with_the_line(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"MSFT for 'APPLE' in line 3, and AAPL before"):
        read_names(write_names(tmp_path, ("Apple Inc.", "AAPL"), ("APPLE", "MSFT")), SETTINGS)
    with pytest.raises(Fault, match=r"line 2 without"):
        read_names(write_names(tmp_path, (None, "AAPL")), SETTINGS)
    with pytest.raises(Fault, match=r"--set names\.name=COLUMN"):
        read_names(write_names(tmp_path, ("a", "A")), SignalSettings(names=NameColumns(name="firm")))


def test_signal_of_names_is_that_of_their_tickers(moe: CommandLine, tmp_path: Path) -> None:
    answers, prices = write_files(tmp_path)
    names = write_names(tmp_path, *((f"Firm {ticker} Corp.", ticker) for ticker in TICKERS))
    small = SignalSettings(shifts=20, resamples=100)
    run_signal(SignalPaths(answers, prices, tmp_path / "plain"), small)
    frame = pd.read_parquet(answers)
    frame["entity"] = "firm " + frame.pop("ticker")
    unknown = frame.head(3).assign(entity="Nobody")
    pd.concat([frame, unknown]).to_parquet(answers, index=False)
    words = ("--prices", str(prices), "--names", str(names), "--ticker-column", "entity", "--set", "shifts=20")
    words += ("--set", "resamples=100", "--json")
    code, out, err = moe("signal", str(answers), *words, "--out-dir", str(tmp_path / "named"))
    assert code == 0, err
    assert json.loads(out)["coverage"]["unmapped"] == {"Nobody": 3}
    tables = [pd.read_parquet(tmp_path / folder / "signal.parquet") for folder in ("plain", "named")]
    pd.testing.assert_frame_equal(*tables, check_categorical=False)
    page = (tmp_path / "named" / "index.html").read_text(encoding="utf-8")
    assert "Names without a ticker in names.csv" in page
    assert "Names without a ticker" not in (tmp_path / "plain" / "index.html").read_text(encoding="utf-8")
    refused = moe.refused("signal", str(answers), *words[:2], "--ticker-column", "entity", "--out-dir", "x")
    assert "--names" in refused
