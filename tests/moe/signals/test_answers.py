"""Claims about reading answers: columns as `moe infer` writes them, and rows that are rejected with their line."""

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from experts.errors import Fault
from moe.signals.answers import (
    BEFORE_SINCE,
    LATER,
    NO_CONFIDENCE,
    NO_POLARITY,
    NO_TICKER,
    NOT_PREDICTED,
    read_answers,
)
from moe.signals.sessions import NO_CLOCK, UNREADABLE
from moe.signals.settings import AnswerColumns, SignalSettings, read_signal_settings

NOW = datetime(2024, 6, 1, tzinfo=UTC)
GOOD = {"ticker": "A", "time": "2024-03-06T10:00:00Z", "polarity": 0.5, "confidence": 0.8, "text": "profit rose"}


def file_of(folder: Path, *rows: dict[str, object], kind: str = "parquet") -> Path:
    """Answers as a file; each row overrides a good one."""
    path, frame = folder / f"answers.{kind}", pd.DataFrame([GOOD | row for row in rows])
    if kind == "parquet":
        frame.to_parquet(path, index=False)
    elif kind == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    return path


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_answers_are_ordered_by_time_in_every_format(tmp_path: Path, kind: str) -> None:
    path = file_of(tmp_path, {"time": "2024-03-07T10:00:00Z", "ticker": "B"}, {}, kind=kind)
    answers = read_answers(path, SignalSettings(), NOW)
    assert answers.frame["ticker"].tolist() == ["A", "B"]
    assert answers.frame["polarity"].tolist() == [0.5, 0.5]
    assert answers.frame["text"].tolist() == ["profit rose"] * 2
    assert (answers.rows, len(answers.rejected)) == (2, 0)


def test_answers_before_since_do_not_count(tmp_path: Path) -> None:
    times = ["2024-03-06T04:59:59Z", "2024-03-06T05:00:00Z", "2024-03-06 00:00:00"]
    settings = read_signal_settings(None, ['since="2024-03-06"'], time_zone="America/New_York")
    answers = read_answers(file_of(tmp_path, *({"time": time} for time in times)), settings, NOW)
    assert answers.frame["line"].tolist() == [2, 3]
    assert answers.rejected.to_dict("list") == {"line": [1], "reason": [BEFORE_SINCE]}


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_rows_are_rejected_with_line_and_reason(tmp_path: Path, kind: str) -> None:
    bad: list[tuple[dict[str, object], str]] = [
        ({"ticker": " "}, NO_TICKER),
        ({"time": "today"}, UNREADABLE),
        ({"time": "2024-03-06"}, NO_CLOCK),
        ({"time": "2025-03-06T10:00:00Z"}, LATER),
        ({"polarity": 1.5}, NO_POLARITY),
        ({"polarity": None}, NO_POLARITY),
        ({"confidence": 80}, NO_CONFIDENCE),
        ({"error": "no text"}, NOT_PREDICTED),
    ]
    path = file_of(tmp_path, {}, *(row for row, _ in bad), kind=kind)
    answers = read_answers(path, SignalSettings(), NOW)
    assert answers.rejected["reason"].tolist() == [reason for _, reason in bad]
    first = 3 if kind == "csv" else 2  # a csv file has a header
    assert answers.rejected["line"].tolist() == list(range(first, first + len(bad)))
    assert len(answers.frame) == 1


def test_polarity_of_the_prediction_comes_before_one_of_the_input(tmp_path: Path) -> None:
    path = file_of(tmp_path, {"predicted_polarity": -0.25, "predicted_confidence": 0.6})
    frame = read_answers(path, SignalSettings(), NOW).frame
    assert (frame["polarity"][0], frame["confidence"][0]) == (-0.25, 0.6)
    chosen = SignalSettings(answers=AnswerColumns(ticker="text"))
    assert read_answers(path, chosen, NOW).frame["ticker"][0] == "profit rose"


def test_confidence_and_text_are_optional_and_polarity_is_not(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("ticker,time,polarity\nA,2024-03-06T10:00:00Z,0.5\n", encoding="utf-8")
    answers = read_answers(path, SignalSettings(), NOW)
    assert answers.frame["confidence"].tolist() == [1.0]
    assert not answers.has_confidence
    assert not answers.has_text
    path.write_text("ticker,time,label\nA,2024-03-06T10:00:00Z,good\n", encoding="utf-8")
    with pytest.raises(Fault, match="a column 'polarity'"):
        read_answers(path, SignalSettings(), NOW)


def test_files_without_a_usable_row_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="the time of day"):
        read_answers(file_of(tmp_path, {"time": "2024-03-06"}), SignalSettings(), NOW)
    pd.DataFrame(columns=list(GOOD)).to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(Fault, match="rows in"):
        read_answers(tmp_path / "empty.parquet", SignalSettings(), NOW)
    with pytest.raises(Fault, match="--time-zone"):
        read_answers(file_of(tmp_path, {"time": "2024-03-06 10:00"}), SignalSettings(), NOW)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_score_alone_without_confidence_weighs_one(tmp_path: Path, kind: str) -> None:
    path = file_of(tmp_path, {}, {"confidence": None, "polarity": -0.25}, kind=kind)
    answers = read_answers(path, SignalSettings(), NOW)
    assert answers.frame["confidence"].tolist() == [0.8, 1.0]
    assert answers.frame["polarity"].tolist() == [0.5, -0.25]
    path = file_of(tmp_path, {"confidence": None}, kind=kind)
    assert read_answers(path, SignalSettings(), NOW).frame["confidence"].tolist() == [1.0]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_polarity_of_labels_without_a_sign_comes_from_their_probabilities(tmp_path: Path, kind: str) -> None:
    rows = [{"polarity": None, "probabilities": {"fall": 0.2, "rise": 0.7, "flat": 0.1}}, {"probabilities": None}]
    frame = pd.DataFrame([GOOD | row for row in rows])
    path = tmp_path / f"answers.{kind}"
    if kind == "parquet":
        frame.to_parquet(path, index=False)
    elif kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        by_label = pd.json_normalize(list(frame.pop("probabilities").map(lambda own: own or {})))
        pd.concat([frame, by_label.add_prefix("probabilities.")], axis=1).to_csv(path, index=False)
    settings = SignalSettings(polarities={"rise": 1, "fall": -1})
    answers = read_answers(path, settings, NOW)
    assert answers.frame["polarity"].tolist() == pytest.approx([0.5])
    assert answers.rejected["reason"].tolist() == [NO_POLARITY]
    with pytest.raises(Fault, match=r"probabilities of the label 'up'|a column 'probabilities"):
        read_answers(path, SignalSettings(polarities={"up": 1}), NOW)


def test_files_without_a_polarity_name_every_reason_and_the_setting(tmp_path: Path) -> None:
    path = file_of(tmp_path, {"time": "today"}, {"polarity": None}, {"polarity": None})
    message = (
        r"no polarity from -1 to 1 \(2, the first in line 2\); .* \(1, the first in line 1\)\. .*polarities=\{rise"
    )
    with pytest.raises(Fault, match=message):
        read_answers(path, SignalSettings(), NOW)
