"""The `moe signal` command: answers and prices to a folder with signals, their evaluation and a page."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from experts.atomic_io import atomic_folder, write_json, write_text
from experts.errors import Fault, suggest
from experts.locks import output_lock
from experts.outputs import check_output_folder
from moe.extras import check_extra
from moe.signals.aggregate import PlacedAnswers, SignalPanel, aggregate, signal_table
from moe.signals.answers import Answers, read_answers
from moe.signals.evaluate import (
    ANSWERS,
    LEXICON,
    EvaluatedSource,
    compare_sources,
    evaluate_source,
    evaluation_notes,
    write_verdict,
)
from moe.signals.lexicon import lexicon_polarity
from moe.signals.names import read_names
from moe.signals.novelty import find_novel
from moe.signals.page import render_signal_page
from moe.signals.prices import Matrix, Prices, adjustment_note, closes_of, read_prices
from moe.signals.results import CoverageResult, SignalReport
from moe.signals.sessions import Sessions, open_sessions
from moe.signals.settings import SignalSettings

PAGE, SUMMARY = "index.html", "signal.json"
BEFORE_PRICES = "a time before the first price"


@dataclass(frozen=True)
class SignalPaths:
    """Files of one call.

    Args:
        answers: predictions with a ticker and a time.
        prices: closes by ticker and date.
        out: folder to write.
        names: tickers of names; None takes the answers' column as tickers.
        adjusted: whether the user declares the closes as adjusted for splits and dividends.
        overwrite: replace the folder if an earlier call wrote it.
    """

    answers: Path
    prices: Path
    out: Path
    names: Path | None = None
    adjusted: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class _Inputs:
    """Answers and closes on the same sessions and tickers."""

    frame: pd.DataFrame
    texts: pa.Array | None
    placed: PlacedAnswers
    sessions: Sessions
    tickers: pd.Index
    closes: Matrix
    rejected: pd.DataFrame
    off_session: int
    note: str | None
    priced: pd.Index


def run_signal(paths: SignalPaths, settings: SignalSettings) -> SignalReport:
    """Build signals from answers, evaluate them on prices, and write the folder, as a whole.

    It holds `signal.parquet`, `ic.parquet`, `spread.parquet`, `events.parquet`, `coverage.parquet`, `rejected.parquet`,
    `signal.json` and `index.html`.

    Raises:
        Fault: if a package is missing, a file cannot be read or is invalid, no ticker has prices, or the folder exists.
    """
    check_extra("signals")
    read = [path for path in (paths.answers, paths.prices, paths.names) if path is not None]
    check_output_folder(paths.out, read, paths.overwrite)
    with output_lock(paths.out):
        prices = read_prices(paths.prices, settings)
        names = None if paths.names is None else read_names(paths.names, settings)
        if names is not None:
            names = names.with_tickers(prices.frame["ticker"].unique())
        answers = read_answers(paths.answers, settings, names=names)
        inputs = _combine(answers, prices, settings)
        confidence = inputs.frame["confidence"].to_numpy(float)
        panel = aggregate(inputs.placed, inputs.frame["polarity"].to_numpy(float), confidence, settings)
        sources = [evaluate_source(ANSWERS, panel, inputs.closes, settings)]
        if inputs.texts is not None:
            polarity = lexicon_polarity(inputs.texts)
            if polarity.any():
                other = aggregate(inputs.placed, polarity, np.ones(len(polarity)), settings)
                sources.append(evaluate_source(LEXICON, other, inputs.closes, settings))
        by_ticker = ticker_coverage(panel, inputs.closes, inputs.tickers)
        report = _report(paths, settings, answers, prices, inputs, sources, by_ticker)
        page = render_signal_page(report, sources, panel, inputs.sessions.dates, by_ticker, settings)
        with atomic_folder(paths.out, paths.overwrite) as folder:
            for name, table in _tables(inputs, panel, sources, by_ticker).items():
                table.to_parquet(folder / f"{name}.parquet", index=False)
            write_json(folder / SUMMARY, report)
            write_text(folder / PAGE, page)
    return report


def _combine(answers: Answers, prices: Prices, settings: SignalSettings) -> _Inputs:
    days = prices.frame["date"]
    times = answers.frame["time"]
    end = max(days.max(), times.iloc[-1].tz_localize(None))
    sessions = open_sessions(settings.calendar, days.min().date(), end.date())
    index = sessions.assign(times, settings.cutoff_minutes)
    early = (times < days.min().tz_localize(sessions.zone)).to_numpy()
    lines = answers.frame["line"][early]
    rejected = pd.concat([answers.rejected, pd.DataFrame({"line": lines, "reason": BEFORE_PRICES})]).sort_values("line")
    if early.all():
        raise Fault(
            f"answers after the first price ({days.min():%Y-%m-%d})",
            f"none, the last is of {times.iloc[-1]:%Y-%m-%d %H:%M} UTC",
            "use prices of the time of the answers",
        )
    frame, index = answers.frame[~early].reset_index(drop=True), index[~early]
    closes, off_session = prices.on_sessions(sessions)
    used = frame["ticker"].cat.remove_unused_categories()
    tickers = pd.Index(used.cat.categories, name="ticker")
    priced = tickers.intersection(closes.columns)
    if priced.empty:
        raise Fault(
            f"tickers of the answers in the prices ({', '.join(map(str, closes.columns[:5]))}, …)",
            f"none of {', '.join(map(repr, tickers[:5]))}",
            suggest(str(tickers[0]), map(str, closes.columns))
            + " Name the column with --ticker-column, or give the tickers of names with --names",
        )
    first = max(0, int(index.min()) - settings.event_sessions - 1)
    last = min(len(sessions), int(index.max()) + settings.horizons[-1] + settings.delay + settings.event_sessions + 1)
    part = slice(first, last)
    sessions = Sessions(sessions.calendar, sessions.dates[part], sessions.closes[part], sessions.zone)
    codes = used.cat.codes.to_numpy().astype(np.int64)
    texts = _one_array(frame.pop("text")) if answers.has_text else None
    novel = (
        find_novel(texts, codes, index, settings.near_duplicates, settings.duplicate_sessions)
        if texts is not None
        else np.ones(len(frame), bool)
    )
    placed = PlacedAnswers(index - first, codes, novel, (len(sessions), len(tickers)))
    closes = closes.iloc[part]
    return _Inputs(
        frame,
        texts,
        placed,
        sessions,
        tickers,
        closes_of(closes, list(tickers)),
        rejected,
        off_session,
        adjustment_note(closes[priced]),
        priced,
    )


def _one_array(texts: pd.Series) -> pa.Array:
    """Return texts as Arrow's strings in one piece, whose offsets allow more than 2 GiB."""
    array = pa.array(texts, pa.large_string())
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def ticker_coverage(panel: SignalPanel, closes: Matrix, tickers: pd.Index) -> pd.DataFrame:
    """Return by ticker its texts, novel texts, sessions with texts, their share, and sessions with prices."""
    has_text = panel.count > 0
    active = np.flatnonzero(has_text.any(1))
    period = int(active[-1] - active[0] + 1) if len(active) else 1
    table = pd.DataFrame(
        {
            "ticker": tickers,
            "texts": panel.count.sum(0).astype(np.int64),
            "novel": panel.novel.sum(0).astype(np.int64),
            "sessions": has_text.sum(0),
            "share": has_text.sum(0) / period,
            "priced": np.isfinite(closes).sum(0),
        }
    )
    return table.sort_values(["texts", "ticker"], ascending=[False, True], ignore_index=True)


def _report(
    paths: SignalPaths,
    settings: SignalSettings,
    answers: Answers,
    prices: Prices,
    inputs: _Inputs,
    sources: Sequence[EvaluatedSource],
    by_ticker: pd.DataFrame,
) -> SignalReport:
    difference = compare_sources(*sources) if len(sources) == 2 else None
    return SignalReport(
        answers=str(paths.answers),
        prices=str(paths.prices),
        names=None if paths.names is None else str(paths.names),
        calendar=settings.calendar,
        adjusted=paths.adjusted,
        verdict=list(write_verdict(sources[0].result, difference)),
        notes=[
            *_input_notes(answers, inputs, sources, adjusted=paths.adjusted),
            *evaluation_notes(sources[0], len(inputs.priced), settings),
        ],
        coverage=_coverage(answers, prices, inputs, by_ticker),
        sources=[source.result for source in sources],
        difference=difference,
        out=str(paths.out),
    )


def _input_notes(
    answers: Answers, inputs: _Inputs, sources: Sequence[EvaluatedSource], *, adjusted: bool
) -> Iterator[str]:
    if not adjusted and inputs.note:
        yield f"{inputs.note[:1].upper()}{inputs.note[1:]}."
    if not answers.has_confidence:
        yield "The answers have no confidence; all weigh the same."
    if not answers.has_text:
        yield "The answers have no text: near-duplicates count as new texts, and there is no lexicon to compare with."
    elif len(sources) == 1:
        yield "No text has a word of the lexicon (English and Chinese); there is nothing to compare with."
    known = np.flatnonzero(np.isfinite(inputs.closes).any(1))
    final = inputs.sessions.dates[known[-1]] if len(known) else None
    late = int((inputs.placed.sessions > known[-1]).sum()) if len(known) else len(inputs.frame)
    if final is not None and late:
        yield f"{late:,} answers are later than the last price ({final:%Y-%m-%d}): they have signals, and no returns."


def _coverage(answers: Answers, prices: Prices, inputs: _Inputs, by_ticker: pd.DataFrame) -> CoverageResult:
    reasons = inputs.rejected.groupby("reason")["line"].agg(["size", "min"])
    unpriced = by_ticker[~by_ticker["ticker"].isin(inputs.priced)]["ticker"]
    used = inputs.placed.sessions
    return CoverageResult(
        rows=answers.rows,
        used=len(inputs.frame),
        repeated=int((~inputs.placed.novel).sum()),
        rejected={str(reason): int(count) for reason, count in reasons["size"].items()},
        first_rejected={str(reason): int(line) for reason, line in reasons["min"].items()},
        tickers=len(inputs.tickers),
        priced=len(inputs.priced),
        unmapped=dict(islice(answers.unmapped.items(), 10)),
        without_prices=[str(ticker) for ticker in unpriced.head(10)],
        sessions=int(used.max() - used.min() + 1),
        first=f"{inputs.sessions.dates[used.min()]:%Y-%m-%d}",
        last=f"{inputs.sessions.dates[used.max()]:%Y-%m-%d}",
        price_rows_left_out=prices.missing,
        price_rows_repeated=prices.repeated,
        price_rows_off_session=inputs.off_session,
    )


def _tables(
    inputs: _Inputs, panel: SignalPanel, sources: Sequence[EvaluatedSource], by_ticker: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    dates = inputs.sessions.dates

    def by_session(columns: Callable[[EvaluatedSource], dict[str, Matrix]]) -> pd.DataFrame:
        frames = [
            pd.DataFrame({"source": source.result.source, "session": dates, **columns(source)}) for source in sources
        ]
        return pd.concat(frames, ignore_index=True)

    ic = by_session(lambda source: {f"ic_{horizon}": values for horizon, values in source.ic.items()})
    spread = by_session(
        lambda source: {
            "gross": source.spread.gross,
            "net": source.spread.net,
            "turnover": source.spread.turnover,
        }
    )
    events = [
        pd.DataFrame(
            {
                "source": source.result.source,
                "direction": curve.direction,
                "offset": curve.offsets,
                "mean_bp": curve.mean,
                "low_bp": curve.low,
                "high_bp": curve.high,
                "events": curve.events,
            }
        )
        for source in sources
        for curve in source.result.events
    ]
    names = ["source", "direction", "offset", "mean_bp", "low_bp", "high_bp", "events"]
    return {
        "signal": signal_table(panel, inputs.sessions, inputs.tickers),
        "ic": ic.dropna(how="all", subset=[name for name in ic if str(name).startswith("ic_")]),
        "spread": spread.dropna(subset=["gross"]),
        "events": pd.concat(events, ignore_index=True) if events else pd.DataFrame(columns=names),
        "coverage": by_ticker,
        "rejected": inputs.rejected,
    }
