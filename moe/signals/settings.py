"""Settings of `moe signal`: columns of its two files, aggregation by session, and evaluation."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from experts.errors import Fault
from experts.yaml_io import read_document
from moe.config.messages import validate_settings
from moe.config.overrides import apply_override
from moe.data.splitting.times import TimeZone


def _increasing(values: tuple[int, ...]) -> tuple[int, ...]:
    if list(values) != sorted(set(values)):
        raise ValueError("list the horizons in increasing order, each once")
    return values


Horizon = Annotated[int, Field(ge=1, le=250)]


class AnswerColumns(BaseModel):
    """Names of the columns of the answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ticker: str = Field("ticker", description="column with the ticker or entity of an answer, as the prices spell it")
    time: str = Field("time", description="column with the time of publication, in ISO 8601")
    text: str = Field("text", description="column with the text; without it no near-duplicate is detected")
    polarity: str = Field("polarity", description="column with the polarity, −1 to 1")
    probabilities: str = Field(
        "probabilities",
        description="column with the probabilities by label, which `polarities` reads; in csv the start of a column "
        "per label, such as `probabilities.rise`",
    )
    confidence: str = Field("confidence", description="column with the confidence, 0 to 1; without it all weigh 1")


class PriceColumns(BaseModel):
    """Names of the columns of the prices."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ticker: str = Field("ticker", description="column with the ticker of a price")
    date: str = Field("date", description="column with the session's date, in ISO 8601")
    close: str = Field("close", description="column with the closing price")


class NameColumns(BaseModel):
    """Names of the columns of the file of names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("name", description="column with the name of a firm")
    ticker: str = Field("ticker", description="column with its ticker, as the prices spell it")


class SignalSettings(BaseModel):
    """Settings of one signal and its evaluation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calendar: str = Field("XNYS", description="exchange whose sessions count, by its name in exchange_calendars")
    time_zone: TimeZone | None = Field(
        None, description="time zone of times without an offset, such as `America/New_York`; null refuses such times"
    )
    since: datetime | None = Field(
        None,
        description="time before which answers do not count, such as the end of the texts that trained the model; "
        "without an offset in `time_zone`, or UTC; null counts all",
    )
    cutoff_minutes: float = Field(
        0,
        ge=0,
        le=720,
        description="minutes before the close from which a text counts for the next session; more leaves more time "
        "to predict and to order",
    )
    half_life: float = Field(
        3, gt=0, le=1000, description="sessions after which a text weighs half; more is smoother and slower"
    )
    prior_weight: float = Field(
        1,
        ge=0,
        le=1000,
        description="weight of a neutral prior text; more pulls signals of few or old texts towards 0",
    )
    max_age: int = Field(
        10, ge=0, le=1000, description="sessions without a text after which a ticker has no signal; 0 needs a text"
    )
    near_duplicates: float | None = Field(
        0.85,
        gt=0,
        le=1,
        description="Jaccard similarity from which a text repeats an earlier one of its ticker and does not count; "
        "null counts all",
    )
    duplicate_sessions: int = Field(
        5, ge=0, le=250, description="sessions back in which an earlier text is searched; 0 is the same session"
    )
    polarities: dict[str, Annotated[float, Field(ge=-1, le=1)]] | None = Field(
        None,
        min_length=1,
        description="polarity of each label, such as `{rise: 1, fall: -1}`, other labels having 0; the polarity of an "
        "answer is then the mean of these, weighted by its probabilities; null reads the column of the polarity",
    )
    horizons: Annotated[tuple[Horizon, ...], Field(min_length=1), AfterValidator(_increasing)] = Field(
        (1, 2, 5, 10, 20), description="sessions of the returns; the first decides the verdict"
    )
    delay: int = Field(
        0,
        ge=0,
        le=20,
        description="sessions between the close at which a signal is known and the entry; 0 is that close",
    )
    quantiles: int = Field(5, ge=2, le=100, description="groups of tickers by signal; more are smaller and noisier")
    cost_bp: float = Field(5, ge=0, le=1000, description="cost of a trade in basis points of its value, one way")
    min_tickers: int = Field(
        5, ge=3, le=10_000, description="tickers with signal and return that a session needs to count in the evaluation"
    )
    surprise: float = Field(
        2,
        gt=0,
        le=10,
        description="standard deviations from a ticker's usual polarity that make a surprise; more are rarer",
    )
    surprise_history: int = Field(
        20, ge=5, le=1000, description="earlier sessions with texts that give a ticker's usual polarity"
    )
    event_sessions: int = Field(10, ge=1, le=60, description="sessions after a surprise that are shown; half before")
    resamples: int = Field(1000, ge=100, le=10_000, description="bootstrap resamples of the event study's bands")
    shifts: int = Field(
        50, ge=20, le=10_000, description="signals shifted in time that form the null; more are more exact and slower"
    )
    seed: int = Field(13, ge=0, lt=2**31, description="seed of the resamples and the shifts")
    answers: AnswerColumns = AnswerColumns()
    prices: PriceColumns = PriceColumns()
    names: NameColumns = NameColumns()


def read_signal_settings(
    config: Path | None, sets: Sequence[str] = (), *, columns: Mapping[str, str | None] = {}, **overrides: str | None
) -> SignalSettings:
    """Read settings from a YAML file and `key=value` overrides.

    Args:
        config: the file; None uses the defaults.
        sets: overrides, each as `half_life=5` or `prices.close=adj_close`.
        columns: names of columns by setting, such as `answers.time`, that take precedence if they are not None.
        overrides: other settings that take precedence if they are not None.

    Raises:
        Fault: if the file cannot be read; or naming every invalid setting.
    """
    document = read_document(config) if config else None
    raw: dict[str, Any] = dict(document.value) if document else {}
    positions = dict(document.positions) if document else {}
    for override in sets:
        apply_override(raw, override, positions)
    for name, value in {**columns, **overrides}.items():
        if value is not None:
            apply_override(raw, f"{name}={json.dumps(value, ensure_ascii=False)}", positions)
    settings, errors = validate_settings(SignalSettings, raw, positions)
    if settings is None:
        source = config or "the command line"
        raise Fault(f"valid signal settings in {source}", "; ".join(errors), "see docs/quant.md")
    return settings
