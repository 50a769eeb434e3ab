"""The page of a signal: what it covers, whether it is related to later returns, and charts of both."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from moe.report.blocks import ReportTable, Section, format_cells, optional_figure
from moe.report.pages import render_page
from moe.signals.aggregate import SignalPanel
from moe.signals.charts import event_chart, ic_decay_chart, ic_over_time_chart, spread_chart, volume_chart
from moe.signals.evaluate import EvaluatedSource
from moe.signals.results import CoverageResult, SignalReport
from moe.signals.settings import SignalSettings

SHOWN_TICKERS = 25


def render_signal_page(
    report: SignalReport,
    sources: Sequence[EvaluatedSource],
    panel: SignalPanel,
    dates: pd.DatetimeIndex,
    coverage: pd.DataFrame,
    settings: SignalSettings,
) -> str:
    """Return the page as HTML with its charts inside.

    Args:
        report: the summary.
        sources: evaluation of the answers, then of the lexicon if there is one.
        panel: signals of the answers.
        dates: of the sessions (T,).
        coverage: rows by ticker, see `moe.signals.command.ticker_coverage`.
        settings: of the signal.
    """
    sections = [
        _ic_section(sources, dates, settings),
        _spread_section(sources, dates, settings),
        _event_section(sources[0], settings),
        _coverage_section(report.coverage, report.names, panel, dates, coverage),
    ]
    closes = "adjusted" if report.adjusted else "not declared as adjusted"
    return render_page(
        "signal.html",
        title=f"Signal of {report.coverage.used:,} answers",
        subtitle=f"{report.answers}; prices {report.prices} (closes {closes}); sessions of {report.calendar} from "
        f"{report.coverage.first} to {report.coverage.last}; half-life {settings.half_life:g} sessions.",
        verdict=report.verdict,
        notes=report.notes,
        sections=sections,
    )


def _ic_section(sources: Sequence[EvaluatedSource], dates: pd.DatetimeIndex, settings: SignalSettings) -> Section:
    rows = [
        [
            source.result.source,
            str(row.horizon),
            f"{row.sessions:,}",
            *format_cells((row.mean, "+.4f"), (row.t, ".2f"), (row.p, ".3f")),
            f"{row.null[0]:+.4f} to {row.null[1]:+.4f}" if row.null else "–",
            *format_cells((row.null_p, ".3f")),
        ]
        for source in sources
        for row in source.result.ic
    ]
    header = ["source", "horizon", "sessions", "mean", "t (Newey–West)", "p", "shifted in time, 95 %", "p (shifted)"]
    first = settings.horizons[0]
    decay = ic_decay_chart([source.result for source in sources])
    over_time = ic_over_time_chart(dates, {source.result.source: source.ic[first] for source in sources})
    return Section(
        "Information coefficient",
        "Spearman correlation over the tickers of a session between the signal at its close and the return from "
        f"{'that close' if not settings.delay else f'the close {settings.delay} sessions later'} over the horizon. No "
        "return up to the close at which the signal is known enters. Horizons overlap, which the errors allow for. "
        "The null has the same signals at other sessions.",
        tables=[ReportTable("Mean by horizon", header, rows)],
        figures=[
            *optional_figure("ic", decay, "Mean by horizon; grey: 95 % of signals shifted in time.", "Line chart."),
            *optional_figure("time", over_time, f"Cumulative sum at the horizon {first}.", "Line chart over time."),
        ],
        missing=[] if decay else ["no session has enough tickers"],
    )


def _spread_section(sources: Sequence[EvaluatedSource], dates: pd.DatetimeIndex, settings: SignalSettings) -> Section:
    rows = [
        [
            source.result.source,
            f"{source.result.spread.sessions:,}",
            *format_cells(
                (source.result.spread.gross, "+.2f"),
                (source.result.spread.net, "+.2f"),
                (source.result.spread.net_t, ".2f"),
                (source.result.spread.turnover, ".2f"),
            ),
        ]
        for source in sources
    ]
    chart = spread_chart(dates, sources[0].spread, sources[0].result.spread.quantiles)
    return Section(
        "Quantile spread",
        f"Long the highest of {settings.quantiles} quantiles, short the lowest, equal weights, new at every close. A "
        f"trade costs {settings.cost_bp:g} basis points of its value; borrowing, market impact and limits of size are "
        "not included. Turnover is the value traded per session in units of one side's capital.",
        tables=[
            ReportTable(
                "Basis points per session",
                ["source", "sessions", "before costs", "after costs", "t after costs", "turnover"],
                rows,
            )
        ],
        figures=optional_figure("spread", chart, "Answers: mean by quantile, and the spread over time.", "Two charts."),
        missing=[] if chart else ["no session has a highest and a lowest quantile"],
    )


def _event_section(source: EvaluatedSource, settings: SignalSettings) -> Section:
    chart = event_chart(source.result.events)
    return Section(
        "Surprises",
        f"Sessions whose polarity is at least {settings.surprise:g} standard deviations from the ticker's last "
        f"{settings.surprise_history} sessions with texts. Returns are relative to the mean of all tickers, if there "
        f"are at least {settings.min_tickers}. What lies before 0 was known before: texts often follow prices.",
        figures=optional_figure(
            "events",
            chart,
            "Mean cumulative return from the surprise's close, with 95 % bootstrap bands.",
            "Line chart.",
        ),
        missing=[] if chart else ["there are too few surprises with returns around them"],
    )


def _coverage_section(
    coverage: CoverageResult,
    names: str | None,
    panel: SignalPanel,
    dates: pd.DatetimeIndex,
    tickers: pd.DataFrame,
) -> Section:
    shown = tickers.head(SHOWN_TICKERS)
    title = "By ticker" if len(tickers) <= SHOWN_TICKERS else f"The {SHOWN_TICKERS} tickers with most texts"
    rows = [
        [row.ticker, f"{row.texts:,}", f"{row.novel:,}", f"{row.sessions:,}", f"{row.share:.0%}", f"{row.priced:,}"]
        for row in shown.itertuples()
    ]
    reasons = [
        [reason, f"{count:,}", f"{coverage.first_rejected[reason]:,}"] for reason, count in coverage.rejected.items()
    ]
    tables = [
        ReportTable("Answers", ["what", "number"], [[name, f"{value:,}"] for name, value in _totals(coverage)]),
        ReportTable("Rows without effect", ["reason", "rows", "first line"], reasons),
        ReportTable(
            f"Names without a ticker in {Path(names).name}, the most frequent" if names else "",
            ["name", "rows"],
            [[name, f"{count:,}"] for name, count in coverage.unmapped.items()],
        ),
        ReportTable(title, ["ticker", "texts", "novel", "sessions with texts", "share", "sessions with prices"], rows),
    ]
    chart = volume_chart(dates, np.asarray(panel.count.sum(1)), np.asarray(panel.novel.sum(1)))
    return Section(
        "Coverage",
        "A text after the close counts for the next session. A near-duplicate of an earlier text about the ticker does "
        "not count.",
        tables=tables,
        figures=optional_figure("volume", chart, "Texts by the session for which they count.", "Line chart over time."),
    )


def _totals(coverage: CoverageResult) -> Iterator[tuple[str, int]]:
    yield "rows read", coverage.rows
    yield "used", coverage.used
    yield "of these near-duplicates", coverage.repeated
    yield "tickers", coverage.tickers
    yield "of these with prices", coverage.priced
    yield "sessions", coverage.sessions
