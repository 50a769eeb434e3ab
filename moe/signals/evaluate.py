"""Evaluation of signals on later returns, beside signals shifted in time and a lexicon's, and the verdict in words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moe.signals.aggregate import SignalPanel
from moe.signals.correlation import MIN_PERIODS, MIN_SESSIONS, RankedRows, Series, ic_row, newey_west, time_shifts
from moe.signals.events import event_curves
from moe.signals.prices import Matrix, forward_returns
from moe.signals.results import DifferenceResult, IcRow, SourceEvaluation, SpreadResult
from moe.signals.settings import SignalSettings
from moe.signals.spread import SpreadSeries, spread_result, spread_series

ANSWERS, LEXICON = "answers", "lexicon"
LEVEL = 0.05
"""Significance level of the verdict."""


@dataclass(frozen=True)
class EvaluatedSource:
    """Evaluation of one source with its series by session.

    Args:
        result: the summary.
        ic: information coefficient of each session (T,) by horizon.
        spread: quantile spread of each session.
    """

    result: SourceEvaluation
    ic: dict[int, Series]
    spread: SpreadSeries


def evaluate_source(name: str, panel: SignalPanel, closes: Matrix, settings: SignalSettings) -> EvaluatedSource:
    """Evaluate the signals of a source of polarities.

    Args:
        name: of the source.
        panel: its signals (T, N).
        closes: of the same sessions and tickers (T, N).
        settings: horizons, quantiles, costs and the rest.
    """
    shifts, signal = time_shifts(len(closes), settings), RankedRows.of(panel.signal)
    returns = {horizon: forward_returns(closes, horizon, settings.delay) for horizon in settings.horizons}
    rows = {
        horizon: ic_row(signal, RankedRows.of(values), horizon, shifts, settings) for horizon, values in returns.items()
    }
    spread = spread_series(panel.signal, closes, settings)
    result = SourceEvaluation(
        source=name,
        ic=[row for row, _ in rows.values()],
        spread=spread_result(spread, settings),
        events=event_curves(panel, closes, settings),
    )
    return EvaluatedSource(result, {horizon: series for horizon, (_, series) in rows.items()}, spread)


def compare_sources(answers: EvaluatedSource, lexicon: EvaluatedSource) -> DifferenceResult:
    """Compare the information coefficients of two sources session by session, at the first horizon."""
    horizon = next(iter(answers.ic))
    test = newey_west(answers.ic[horizon] - lexicon.ic[horizon], horizon)
    return DifferenceResult(sessions=test.count, mean=test.mean, t=test.t, p=test.p)


def write_verdict(result: SourceEvaluation, difference: DifferenceResult | None) -> Iterator[str]:
    """Yield what the evaluation shows, in sentences; a null result is stated as one."""
    yield _ic_sentence(result.ic[0])
    yield from _spread_sentences(result.spread)
    if difference is not None and difference.mean is not None and difference.p is not None:
        evidence = "a significant difference" if difference.p < LEVEL else "no evidence of a difference"
        comparison = "above" if difference.mean > 0 else "below"
        yield (
            f"Against the lexicon: {evidence}; the mean information coefficient of the answers is "
            f"{abs(difference.mean):.4f} {comparison} the lexicon's (t {difference.t:.1f})."
        )


def _ic_sentence(row: IcRow) -> str:
    sessions = f"the next {row.horizon} sessions" if row.horizon > 1 else "the next session"
    if row.mean is None or row.p is None:
        return (
            f"No verdict on whether the signal is related to the returns of {sessions}: {row.sessions:,} sessions have "
            f"enough tickers with a signal and a return, and it takes {max(MIN_SESSIONS, MIN_PERIODS * row.horizon)} "
            "that differ."
        )
    figures = f"mean information coefficient {row.mean:+.4f}, t {row.t:.1f}, {row.sessions:,} sessions"
    null = f"; shifted in time, 95 % lie from {row.null[0]:+.4f} to {row.null[1]:+.4f}" if row.null else ""
    beyond_null = row.null_p is None or row.null_p < LEVEL
    if row.p < LEVEL and beyond_null:
        sign = "positively" if row.mean > 0 else "negatively"
        return f"The signal is {sign} related to the returns of {sessions} ({figures}{null})."
    return f"No evidence that the signal is related to the returns of {sessions} ({figures}{null})."


def _spread_sentences(spread: SpreadResult) -> Iterator[str]:
    if spread.net is None or spread.gross is None:
        return
    figures = f"{spread.gross:+.1f} basis points a session before and {spread.net:+.1f} after costs"
    t = "" if spread.net_t is None else f", t after costs {spread.net_t:.1f}"
    if spread.net_t is not None and spread.net_t > 1.96:
        yield f"The spread of the quantiles earned more than its costs: {figures} of {spread.cost_bp:g}{t}."
    else:
        yield f"No evidence that the spread of the quantiles earns more than costs: {figures} of {spread.cost_bp:g}{t}."


def evaluation_notes(source: EvaluatedSource, tickers: int, settings: SignalSettings) -> Sequence[str]:
    """Return what could not be evaluated, and why."""
    notes = []
    if tickers < settings.min_tickers:
        notes.append(
            f"Information coefficients and quantiles compare tickers and need {settings.min_tickers} (min_tickers): "
            f"the answers have {tickers} with prices."
        )
    if all(row.null is None for row in source.result.ic):
        notes.append("There are too few sessions to shift the signals in time; the null is left out.")
    if not source.result.events:
        notes.append(
            f"Fewer than 10 sessions have surprises of {settings.surprise:g} standard deviations in one direction and "
            "returns around them; the event study is left out."
        )
    return notes
