"""Profile of a data file on the terminal, as `moe data inspect` prints it."""

from collections.abc import Mapping
from itertools import pairwise

from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text

from moe.console import Table
from moe.data.profile import FileProfile, RejectedRows
from moe.data.schema import ORIGINAL

_SHOWN_LABELS, _WIDTH = 20, 40


def inspection_view(profile: FileProfile) -> Group:
    """Profile of a file for the terminal: totals, a bar chart for each kind of count, and its warnings."""
    same, near, rejected = profile.duplicates, profile.near_duplicates, profile.rejected
    parts: list[RenderableType] = [
        f"[bold]{escape(profile.file)}[/bold] ({profile.format}): {profile.records} records: "
        f"{profile.rows} rows, {rejected.rows} rejected, {same.id_and_content} duplicates of id and content",
        f"of the {profile.rows} rows, {same.text} repeat a text; {near.rows} of the first "
        f"{near.among_first} are near duplicates (Jaccard ≥ {near.jaccard})",
        *map(escape, profile.max_length or ()),
    ]
    if (targets := profile.targets).rows:
        parts.append(
            f"targets: {targets.rows} rows about {targets.texts} texts, "
            f"{targets.not_in_text} targets that their text does not contain"
        )
        parts += _bars("most common targets", targets.most_common)
    counted = {
        f"labels in the {profile.records} records": profile.labels,
        "classes": profile.classes,
        "splits": profile.splits,
        "languages": profile.languages,
    }
    if profile.origins.keys() - {ORIGINAL}:
        counted[f"origins in the {profile.records} records"] = profile.origins
    for title, names in counted.items():
        parts += _bars(title, dict(list(names.items())[:_SHOWN_LABELS]))
    if profile.scores.rows:
        bins = [f"{low:+.1f} … {high:+.1f}" for low, high in pairwise(profile.scores.edges)]
        parts += _bars("scores", dict(zip(bins, profile.scores.counts, strict=True)))
    for unit, lengths in (("tokens", profile.tokens), ("words", profile.words), ("characters", profile.characters)):
        if lengths is not None:
            quantiles = ", ".join(f"{share} {value}" for share, value in lengths.quantiles.items())
            bins = [f"≥ {edge}" for edge in lengths.edges]
            parts += _bars(f"length in {unit}: {quantiles}", dict(zip(bins, lengths.counts, strict=True)))
    warnings = [Text(f"warning: {line}") for line in profile.warnings]
    return Group(*parts, *_reject_lines(rejected), *warnings)


def _bars(title: str, counts: Mapping[str, int]) -> list[RenderableType]:
    if not counts:
        return []
    table = Table(box=None, show_header=False)
    longest = max(1, *counts.values())
    for name, count in counts.items():
        table.add_row(escape(name), f"{count}", Bar(longest, 0, count, width=_WIDTH))
    return [f"[bold]{title}[/bold]", table]


def _reject_lines(rejected: RejectedRows) -> list[RenderableType]:
    lines = []
    for reject in rejected.first:
        value = f" ({reject.found})" if reject.found else ""
        lines.append(Text(f"  line {reject.line}: {reject.reason}{value}: {reject.text[:_WIDTH]}"))
    return [*_bars("rejected", rejected.reasons), *lines]
