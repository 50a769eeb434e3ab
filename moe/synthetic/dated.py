"""Times of the sample's texts, what they are about, and made-up closing prices, to try splits by time and signals.

Prices are random walks that no text has to do with: a signal that is found in them is found by chance.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from random import Random

from moe.synthetic import forum, news
from moe.synthetic.grammar import DrawnText

START, END = date(2023, 1, 2), date(2024, 12, 31)
"""First and last day of the texts; prices begin half a year earlier, and end two months later."""
PRICES_FROM, PRICES_TO = date(2022, 7, 1), date(2025, 2, 28)
DAILY_SD = 0.02
SLOTS = {"forum": (forum.GRAMMAR, "t"), "news": (news.GRAMMAR, "name")}
"""Slot of a domain's templates that names what a text is about."""
_CLOSED = (
    "2022-07-04 2022-09-05 2022-11-24 2022-12-26 "
    "2023-01-02 2023-01-16 2023-02-20 2023-04-07 2023-05-29 2023-06-19 2023-07-04 2023-09-04 2023-11-23 2023-12-25 "
    "2024-01-01 2024-01-15 2024-02-19 2024-03-29 2024-05-27 2024-06-19 2024-07-04 2024-09-02 2024-11-28 2024-12-25 "
    "2025-01-01 2025-01-09 2025-01-20 2025-02-17"
)
HOLIDAYS = frozenset(map(date.fromisoformat, _CLOSED.split(" ")))
"""Days from Monday to Friday on which the New York Stock Exchange was closed in these years."""


def draw_times(domain: str, rows: int, seed: int) -> list[str]:
    """Return a time for each row, in ISO 8601 and UTC: increasing, and spread evenly over two years.

    Test rows come last in a file, so that the words of the last fifth of the time are others than those before.
    """
    random = Random(f"times of {domain} {seed}")
    start = datetime.combine(START, datetime.min.time(), UTC)
    seconds = ((END - START).days + 1) * 24 * 3600
    return [(start + timedelta(seconds=int((i + random.random()) * seconds / rows))).isoformat() for i in range(rows)]


@cache
def _names(domain: str) -> tuple[str, ...]:
    """Everything that texts of a domain are about, in the order of its words."""
    if domain not in SLOTS:
        return ()
    grammar, slot = SLOTS[domain]
    return tuple(filler for side in (grammar.train, grammar.test) for _, filler in side.fillers(slot))


def entity_of(domain: str, draw: DrawnText) -> str:
    """Return what a text is about, as it writes it: `$QZRT` on the forum, `Halden` in news; empty if it names none."""
    return next((filler for filler in draw.fillers if filler in _names(domain)), "")


def tickers() -> dict[str, str]:
    """Return the ticker of every name: that of the forum itself, and for news the first four letters."""
    listed = {name: name.removeprefix("$") for name in _names("forum")}
    return listed | {f"{name} Inc.": name[:4].upper() for name in _names("news")}


def name_rows() -> Iterator[Sequence[str]]:
    """Yield a header and the rows of `names.csv`: firms and their tickers."""
    yield "name", "ticker"
    yield from ((name, ticker) for name, ticker in tickers().items() if not name.startswith("$"))


def price_rows(seed: int) -> Iterator[Sequence[str]]:
    """Yield a header and the rows of `prices.csv`: a close for every ticker and session of the exchange."""
    yield "ticker", "date", "close"
    days = [PRICES_FROM + timedelta(days=day) for day in range((PRICES_TO - PRICES_FROM).days + 1)]
    sessions = [day for day in days if day.weekday() < 5 and day not in HOLIDAYS]
    for ticker in dict.fromkeys(tickers().values()):
        random, close = Random(f"prices of {ticker} {seed}"), 50.0
        for session in sessions:
            close *= 1 + random.gauss(0, DAILY_SD)
            yield ticker, session.isoformat(), f"{close:.4f}"
