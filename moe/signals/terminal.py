"""What `moe signal` prints in a terminal."""

from rich.console import Group, RenderableType
from rich.text import Text

from moe.console import Table
from moe.report.blocks import format_cells
from moe.signals.results import SignalReport


def signal_view(report: SignalReport) -> RenderableType:
    """Return the verdict, the information coefficients by horizon, what was used, and the notes."""
    table = Table(title="Information coefficient", title_justify="left", header_style="bold")
    for name in ("source", "horizon", "sessions", "mean", "t", "shifted in time"):
        table.add_column(name, justify="left" if name == "source" else "right", no_wrap=True)
    for source in report.sources:
        for row in source.ic:
            null = f"{row.null[0]:+.4f} to {row.null[1]:+.4f}" if row.null else "–"
            figures = format_cells((row.mean, "+.4f"), (row.t, ".2f"))
            table.add_row(source.source, str(row.horizon), f"{row.sessions:,}", *figures, null)
    coverage = report.coverage
    used = (
        f"{coverage.used:,} of {coverage.rows:,} answers about {coverage.tickers:,} tickers ({coverage.priced:,} with "
        f"prices) in {coverage.sessions:,} sessions; {coverage.repeated:,} repeat an earlier one"
    )
    rejected = [
        f"rows without effect: {count:,} with {reason}, the first in line {coverage.first_rejected[reason]:,}"
        for reason, count in coverage.rejected.items()
    ]
    unmapped = [f"{name!r} {count:,}" for name, count in coverage.unmapped.items()]
    rejected += [f"names without a ticker: {', '.join(unmapped)}"] if unmapped else []
    lines = [used, *rejected, *report.notes, "No trading and no advice: see docs/quant.md.", f"written to {report.out}"]
    return Group(*[Text(sentence, style="bold") for sentence in report.verdict], table, *map(Text, lines))
