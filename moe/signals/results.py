"""Results of `moe signal`: what its JSON, its page and its terminal table show."""

from moe.results.base import Bounds, Result


class IcRow(Result):
    """Information coefficient at one horizon: Spearman correlation over tickers of signals and later returns.

    Args:
        horizon: sessions of the return.
        sessions: number of sessions with enough tickers.
        mean: mean over these sessions; None without any.
        t: Newey–West t of the mean; None for fewer than 10 sessions, or 5 horizons, or without variance.
        p: two-sided p-value of `t`.
        null: bounds of the middle 95 % of the mean for signals that are shifted in time; None if there are too few
            sessions to shift.
        null_p: share of shifted signals whose mean is at least as far from the mean of all of them.
    """

    horizon: int
    sessions: int
    mean: float | None
    t: float | None
    p: float | None
    null: Bounds | None = None
    null_p: float | None = None


class SpreadResult(Result):
    """Long the highest quantile of signals and short the lowest, equally weighted, for one session at a time.

    Args:
        sessions: number of sessions with a position.
        gross: mean return of a session in basis points, before costs; None without a position.
        net: the same after costs.
        net_t: Newey–West t of `net`; None for fewer than 10 sessions or without variance.
        turnover: mean value traded per session, in units of one side's capital; a full exchange of both sides is 4.
        cost_bp: cost of a trade in basis points of its value.
        quantiles: mean return of a session in basis points by quantile, from the lowest signals to the highest; None
            for a quantile that is always empty.
    """

    sessions: int
    gross: float | None
    net: float | None
    net_t: float | None
    turnover: float | None
    cost_bp: float
    quantiles: list[float | None]


class EventCurve(Result):
    """Mean cumulative abnormal return around surprise sessions, in basis points.

    Args:
        direction: positive or negative.
        events: number of surprises.
        offsets: sessions from the surprise; the curve is 0 at the surprise's own close.
        mean: mean at each offset.
        low: lower bound of the 95 % bootstrap band at each offset.
        high: upper bound.
    """

    direction: str
    events: int
    offsets: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


class SourceEvaluation(Result):
    """Evaluation of the signals of one source of polarities.

    Args:
        source: the answers, or the lexicon.
        ic: by horizon.
        spread: of the quantiles.
        events: of surprises.
    """

    source: str
    ic: list[IcRow]
    spread: SpreadResult
    events: list[EventCurve]


class CoverageResult(Result):
    """What the signal covers.

    Args:
        rows: rows of the answers' file.
        used: answers that count for a session.
        repeated: of these, near-duplicates of an earlier text.
        rejected: rows without effect by reason.
        first_rejected: line of the first rejected row by reason.
        tickers: tickers with answers.
        priced: of these, tickers with prices.
        unmapped: names without a ticker in the file of names, the ten most frequent with their rows.
        without_prices: the tickers without prices that have most answers, ten at most.
        sessions: sessions from the first to the last answer.
        first: date of the first of these sessions.
        last: date of the last.
        price_rows_left_out: rows of the prices without a ticker, a date or a positive close.
        price_rows_repeated: rows of the prices that repeat another.
        price_rows_off_session: rows of the prices on dates that are no sessions.
    """

    rows: int
    used: int
    repeated: int
    rejected: dict[str, int]
    first_rejected: dict[str, int]
    tickers: int
    priced: int
    unmapped: dict[str, int]
    without_prices: list[str]
    sessions: int
    first: str
    last: str
    price_rows_left_out: int
    price_rows_repeated: int
    price_rows_off_session: int


class DifferenceResult(Result):
    """Mean difference per session of the answers' information coefficient and the lexicon's, at the first horizon."""

    sessions: int
    mean: float | None
    t: float | None
    p: float | None


class SignalReport(Result):
    """Summary of `moe signal`.

    Args:
        answers: file of the answers.
        prices: file of the prices.
        names: file of the tickers of names; None without one.
        calendar: exchange whose sessions count.
        adjusted: whether the user declared the closes as adjusted.
        verdict: sentences on whether the signal is related to later returns; a null result is stated as one.
        notes: warnings about the input, and what could not be evaluated.
        coverage: what was used.
        sources: evaluation of the answers, and of the lexicon if there are texts.
        difference: answers against the lexicon; None without a lexicon.
        out: folder of the files.
    """

    answers: str
    prices: str
    names: str | None
    calendar: str
    adjusted: bool
    verdict: list[str]
    notes: list[str]
    coverage: CoverageResult
    sources: list[SourceEvaluation]
    difference: DifferenceResult | None
    out: str
