"""An explanation on a terminal: the text with its words marked, their weights as bars, the router's words, each expert.

The figures are `moe.explain.explain`'s. Without colours it reads as well: signs, bold and underline say the same.
"""

from collections.abc import Sequence

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.text import Text

from moe.console import Table
from moe.explain.explain import Attribution, Explanation, WordWeight
from moe.plots.style import ORANGE, SKY

FOR, AGAINST = f"bold {SKY}", f"underline {ORANGE}"
SHOWN, BAR, STRONG, MUCH = 12, 12, 0.2, 0.05


def explanation_view(found: Explanation) -> RenderableType:
    """All that `moe explain` prints of one text."""
    reasons = [_reason_table(found.why, f"words for {found.why.of}")]
    if found.router:
        reasons.append(_reason_table(found.router, f"words for expert {found.router.of}"))
    parts: list[RenderableType] = [
        _head(found),
        highlight_words(found.text, found.why),
        Columns(reasons, padding=(0, 2)),
    ]
    parts += [_expert_table(found)] if found.alone else []
    return Group(*parts, *(Text(line, style="dim") for line in _remarks(found)))


def _head(found: Explanation) -> Text:
    answer = found.answer
    label = answer["label"] or f"abstained (best guess {found.why.of})"
    polarity = "" if answer["polarity"] is None else f", polarity {answer['polarity']:+.2f}"
    return Text(f"{label}", style="bold").append(f" {answer['confidence']:.3f}{polarity}, task {answer['task']}")


def highlight_words(text: str, reason: Attribution) -> Text:
    """The text, its strong words marked: bold for, underlined against."""
    shown = Text(text)
    for one in reason.words:
        if _strong(one, reason.words):
            shown.stylize(FOR if one.weight > 0 else AGAINST, one.start, one.end)
    return shown


def _strong(one: WordWeight, words: Sequence[WordWeight]) -> bool:
    return abs(one.weight) >= STRONG * max(abs(other.weight) for other in words)


def _reason_table(reason: Attribution, title: str) -> Table:
    """The strongest words, in the text's order, with their weights and a bar each."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, padding=(0, 1, 0, 0))
    table.add_column("word", overflow="fold")
    table.add_column("log-odds", justify="right")
    table.add_column("")
    kept = sorted(reason.words, key=lambda one: -abs(one.weight))[:SHOWN]
    for one in sorted(kept, key=lambda one: one.start):
        style = FOR if one.weight > 0 else AGAINST
        length = round(BAR * abs(one.weight) / (abs(kept[0].weight) or 1.0))
        bar = ("+" if one.weight > 0 else "−") * length
        table.add_row(Text(one.word, style=style), f"{one.weight:+.2f}", Text(bar, style=style.split()[-1]))
    if rest := [one for one in reason.words if one not in kept]:
        table.add_row(Text(f"{len(rest)} others", style="dim"), f"{sum(one.weight for one in rest):+.2f}", "")
    table.add_row(Text("every word blank", style="dim"), f"{reason.blank:+.2f}", "")
    table.add_row(Text("together", style="dim"), f"{reason.value:+.2f}", "")
    return table


def _expert_table(found: Explanation) -> Table:
    table = Table(title="each expert alone", title_justify="left", header_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("expert", "share", "would have said", "probability"):
        table.add_column(name, justify="right" if name in ("share", "probability") else "left")
    for name, one in sorted(found.alone.items(), key=lambda item: -item[1]["share"]):
        other = one["label"] != found.why.of
        said = Text(one["label"] + (" ≠" if other else ""), style="bold" if other else "")
        table.add_row(name, f"{one['share']:.1%}", said, f"{one['probability']:.3f}")
    return table


def _rough(one: Attribution) -> bool:
    """Whether the sum is off by more than a twentieth of the way, and by what would be seen."""
    return abs(one.delta) > max(MUCH * abs(one.value - one.blank), MUCH)


def _remarks(found: Explanation) -> list[str]:
    reasons = [one for one in (found.why, found.router) if one]
    off = ", ".join(f"{one.of} {one.delta:+.3f}" for one in reasons)
    lines = [f"Bold speaks for {found.why.of}, underlined against. Blank words are {found.blank}."]
    lines += [f"{found.steps} steps, by which the words' sums are off: {off}."]
    lines += ["That is much: raise --steps."] if any(_rough(one) for one in reasons) else []
    lines += [f"No words for the router: {found.unrouted}."] if found.unrouted else []
    return lines + (["The text was cut: words after the cut were not read."] if found.answer["truncated"] else [])
