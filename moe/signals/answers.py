"""The answers: predictions with a ticker and a time, as `moe infer --keep` writes them, checked row by row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pandas as pd

from experts.errors import Fault
from moe.data.column_names import find_column
from moe.data.formats.readers import read_column_names
from moe.data.splitting.times import TimeFormat
from moe.data.text_checks import is_blank
from moe.inference.text_io import PREFIX
from moe.signals.names import NameMap
from moe.signals.sessions import NO_CLOCK, parse_times
from moe.signals.settings import SignalSettings
from moe.signals.tables import ERROR, LINE, ColumnRequest, read_columns

NO_TICKER, NOT_PREDICTED, LATER = "no ticker", "no prediction", "a time later than now"
BEFORE_SINCE = "a time before since"
NO_NAME = "a name without a ticker"
PROBABILITIES = "probabilities"
NO_POLARITY, NO_CONFIDENCE = "no polarity from -1 to 1", "no confidence from 0 to 1"


@dataclass(frozen=True)
class Answers:
    """Valid answers, and the lines of the others.

    Args:
        frame: ticker (category), time (UTC), polarity, confidence, text if the file has texts, and line, by time;
            equal times in the order of the file.
        rejected: line and reason of every other row, by line.
        rows: number of rows that were read.
        has_confidence: whether the file has a confidence; else all weigh 1.
        unmapped: names without a ticker and their numbers of rows, the most frequent first; empty without a map.
    """

    frame: pd.DataFrame
    rejected: pd.DataFrame
    rows: int
    has_confidence: bool
    unmapped: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_text(self) -> bool:
        """Whether the file has texts."""
        return "text" in self.frame


def read_answers(
    path: Path, settings: SignalSettings, now: datetime | None = None, names: NameMap | None = None
) -> Answers:
    """Read answers and reject rows without a ticker, a readable time, a polarity or a confidence.

    Args:
        path: parquet, csv or jsonl file.
        settings: name the columns and the time zone.
        now: times after it are rejected; the current time by default.
        names: tickers of names; None takes the column as tickers.

    Raises:
        Fault: if the file cannot be read or lacks a column, a time has no time zone, or no row is valid.
    """
    frame = read_columns(path, _request(path, settings))
    reasons = pd.Series(None, index=frame.index, dtype=object)

    def reject(mask: pd.Series, reason: str) -> None:
        reasons[mask & reasons.isna()] = reason

    reject(frame[ERROR].notna(), NOT_PREDICTED)
    tickers = frame["ticker"].where(frame["ticker"].isna(), frame["ticker"].astype(str).str.strip())
    reject(tickers.isna() | (tickers == ""), NO_TICKER)
    entities, unmapped = tickers, {}
    if names is not None:
        known = {entity: names.ticker_of(entity) for entity in entities[reasons.isna()].unique()}
        tickers = entities.map(known)
        reject(tickers.isna(), NO_NAME)
        unmapped = entities[reasons == NO_NAME].value_counts().to_dict()
    times, problems = parse_times(frame["time"], settings.time_zone)
    reasons = reasons.where(reasons.notna(), problems)
    reject(times > pd.Timestamp(now or datetime.now(UTC)), LATER)
    if settings.since is not None:
        reject(times < TimeFormat(zone=settings.time_zone or "UTC").in_utc(settings.since), BEFORE_SINCE)
    polarity = _numbers(frame["polarity"]) if settings.polarities is None else _expected_polarity(frame, settings, path)
    reject(~polarity.between(-1, 1), NO_POLARITY)
    has_confidence = "confidence" in frame
    confidence = pd.Series(1.0, index=frame.index)
    if has_confidence:  # a score alone, which is a polarity without labels, has none and weighs 1
        confidence = _numbers(frame["confidence"]).where(~frame["confidence"].map(is_blank), 1.0)
    reject(~confidence.between(0, 1), NO_CONFIDENCE)
    valid = reasons.isna()
    rejected = pd.DataFrame({LINE: frame[LINE][~valid], "reason": reasons[~valid].astype(str)})
    if not valid.any():
        raise _no_valid_row(path, rejected)
    columns = {
        "ticker": tickers[valid].astype("category"),
        "time": times[valid],
        "polarity": polarity[valid],
        "confidence": confidence[valid],
        LINE: frame[LINE][valid],
    }
    if "text" in frame:
        columns["text"] = frame["text"][valid].fillna("").astype(str)
    ordered = pd.DataFrame(columns).sort_values("time", kind="stable", ignore_index=True)
    return Answers(ordered, rejected.reset_index(drop=True), len(frame), has_confidence, unmapped)


def _request(path: Path, settings: SignalSettings) -> ColumnRequest:
    """The columns; `moe infer` writes `predicted_polarity` if its input had a column `polarity` itself."""
    known, names = read_column_names(path), settings.answers.model_dump()
    for name in ("polarity", "confidence", "probabilities"):
        if names[name] == name and (renamed := find_column(PREFIX + name, known)) is not None:
            names[name] = renamed
    probabilities = names.pop("probabilities")
    if settings.polarities is not None:
        del names["polarity"]
        by_label = {_column_of(label): f"{probabilities}.{label}" for label in settings.polarities}
        in_csv = find_column(probabilities, known) is None and any(find_column(x, known) for x in by_label.values())
        names |= by_label if in_csv else {PROBABILITIES: probabilities}
    return ColumnRequest(names, frozenset({"text", "confidence"}), "answers")


def _column_of(label: str) -> str:
    return f"{PROBABILITIES}.{label}"


def _expected_polarity(frame: pd.DataFrame, settings: SignalSettings, path: Path) -> pd.Series:
    """Mean of the labels' polarities, weighted by the probabilities of an answer; NaN without one of these."""
    assert settings.polarities is not None
    total = pd.Series(0.0, index=frame.index)
    for label, polarity in settings.polarities.items():
        values = (
            frame[PROBABILITIES].map(partial(_entry, label)) if PROBABILITIES in frame else frame[_column_of(label)]
        )
        if (numbers := _numbers(values)).isna().all():
            labels = sorted({name for own in frame.get(PROBABILITIES, []) if isinstance(own, Mapping) for name in own})
            raise Fault(
                f"probabilities of the label {label!r} of polarities in {path}",
                f"those of {', '.join(labels)}" if labels else "none",
                "name the labels of the answers, as moe infer writes them",
            )
        total += polarity * numbers
    return total


def _entry(label: str, probabilities: object) -> object:
    return probabilities.get(label) if isinstance(probabilities, Mapping) else None


def _numbers(values: pd.Series) -> pd.Series:
    return pd.to_numeric(values, errors="coerce").astype(float)


def _no_valid_row(path: Path, rejected: pd.DataFrame) -> Fault:
    counts = rejected["reason"].value_counts()
    first = rejected.groupby("reason")[LINE].min()
    remedy = "correct the file, or name other columns with --set answers.NAME=COLUMN"
    if counts.index[0] == NO_NAME:
        remedy = "add the names to the file of --names, or name the column of the names with --ticker-column"
    if counts.index[0] == NO_CLOCK:
        remedy = "add the time of day: a date alone does not show whether a text came before the close"
    if counts.index[0] == NO_POLARITY:
        remedy = (
            "if the labels are not negative and positive, give their polarities: --set 'polarities={rise: 1, fall: -1}'"
        )
    reasons = "; ".join(f"{reason} ({count:,}, the first in line {first[reason]})" for reason, count in counts.items())
    return Fault(
        f"answers with a ticker, a time, a polarity and a confidence in {path}",
        f"{len(rejected):,} rows without one: {reasons}",
        remedy,
    )
