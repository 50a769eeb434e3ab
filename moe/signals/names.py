"""Names of firms to tickers, from a file of the user, so that answers about `Apple Inc.` and `$aapl` are about AAPL."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from experts.errors import Fault
from moe.signals.settings import SignalSettings
from moe.signals.tables import ERROR, LINE, ColumnRequest, read_columns

LEGAL_FORMS = (
    "inc incorporated corp corporation co company ltd limited plc llc llp lp ag se sa nv bv spa ab asa oyj kgaa gmbh"
)
"""Words at the end of a name that do not distinguish firms."""
_LEGAL_FORM = re.compile(rf"(?<=\S)[\s,]+(?:{LEGAL_FORMS.replace(' ', '|')})$")


def name_key(name: str) -> str:
    """Return the spelling by which names are compared: without letter case, dots, apostrophes and legal forms.

    Examples:
        >>> name_key(" Apple Inc. "), name_key("JPMORGAN CHASE & CO"), name_key("Inc.")
        ('apple', 'jpmorgan chase &', 'inc')
    """
    plain = unicodedata.normalize("NFKC", name).casefold()
    plain = " ".join(re.sub(r"[.'’]", "", plain).split())
    while (shorter := _LEGAL_FORM.sub("", plain)) != plain:
        plain = shorter
    return plain


@dataclass(frozen=True)
class NameMap:
    """Tickers of names.

    Args:
        by_name: ticker by the key of a name.
        by_ticker: ticker by itself in small letters.
    """

    by_name: Mapping[str, str]
    by_ticker: Mapping[str, str]

    def ticker_of(self, entity: str) -> str | None:
        """Return the ticker of a name, or of a ticker in any letter case; with a `$` before it, of a ticker only."""
        if entity.startswith("$"):
            return self.by_ticker.get(entity[1:].strip().casefold())
        return self.by_name.get(name_key(entity), self.by_ticker.get(entity.casefold()))

    def with_tickers(self, tickers: Iterable[str]) -> "NameMap":
        """Return the map with further tickers, such as those of the prices."""
        return replace(self, by_ticker={ticker.casefold(): ticker for ticker in tickers} | dict(self.by_ticker))


def read_names(path: Path, settings: SignalSettings) -> NameMap:
    """Read the tickers of names.

    Args:
        path: parquet, csv or jsonl file with a name and a ticker in every row.
        settings: name the columns.

    Raises:
        Fault: if the file cannot be read, lacks a column, has a row without a name or a ticker, or gives one name
            several tickers.
    """
    frame = read_columns(path, ColumnRequest(settings.names.model_dump(), setting="names"))
    by_name: dict[str, str] = {}
    tickers: list[str] = []
    for name, ticker, error, line in frame[["name", "ticker", ERROR, LINE]].itertuples(index=False, name=None):
        name, ticker = ("" if value is None or value != value else str(value).strip() for value in (name, ticker))
        ticker = ticker.removeprefix("$")
        if error or not name or not ticker:
            raise Fault(f"a name and a ticker in every row of {path.name}", f"line {line} without", "correct the line")
        if (other := by_name.setdefault(name_key(name), ticker)) != ticker:
            raise Fault(
                f"one ticker for each name in {path.name}",
                f"{ticker} for {name!r} in line {line}, and {other} before",
                "remove one of the rows; names that differ in letter case or legal form are the same",
            )
        tickers.append(ticker)
    return NameMap(by_name, {ticker.casefold(): ticker for ticker in tickers})
