"""Explanations on the terminal: the text with highlighted words, their weights as bars, the routing, and each expert.

Readable without colours as well: signs, bold and underline carry the same information.
"""

from collections.abc import Sequence

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.text import Text

from moe.console import Table
from moe.explain.explain import Attribution, Explanation, WordWeight
from moe.plots.style import ORANGE, SKY

SUPPORTS, OPPOSES = f"bold {SKY}", f"underline {ORANGE}"
SHOWN_WORDS, BAR_LENGTH = 12, 12
STRONG = 0.2
"""Share of the largest weight from which a word is highlighted."""
MAX_DELTA = 0.05
"""Completeness error, in log-odds or as a share of the explained difference, above which more steps are advised."""

LOG_ODDS = "log-odds"
NO_LABEL = "no label"
"""Shown for the empty set of labels of a multi-label task."""


def explanation_view(explanation: Explanation) -> RenderableType:
    """Everything that `moe explain` prints for one text."""
    unit = "score" if explanation.answer["confidence"] is None else LOG_ODDS
    tables = [_attribution_table(explanation.why, f"words for {explanation.why.of}", unit)]
    if explanation.router:
        tables.append(_attribution_table(explanation.router, f"words for expert {explanation.router.of}"))
    parts: list[RenderableType] = [
        _headline(explanation),
        highlight_words(explanation.text, explanation.why),
        Columns(tables, padding=(0, 2)),
    ]
    parts += [_expert_table(explanation)] if explanation.alone else []
    return Group(*parts, *(Text(line, style="dim") for line in _remarks(explanation)))


def _headline(explanation: Explanation) -> Text:
    answer = explanation.answer
    target = "" if explanation.target is None else f", for {explanation.target}"
    if answer["confidence"] is None:
        return Text(f"score {answer['polarity']:+.2f}", style="bold").append(f", task {answer['task']}{target}")
    label = f"abstained (best guess {explanation.why.of})" if answer["label"] is None else answer["label"] or NO_LABEL
    polarity = "" if answer["polarity"] is None else f", polarity {answer['polarity']:+.2f}"
    return Text(f"{label}", style="bold").append(
        f" {answer['confidence']:.3f}{polarity}, task {answer['task']}{target}"
    )


def highlight_words(text: str, attribution: Attribution) -> Text:
    """Highlight the strong words of a text: supporting ones bold, opposing ones underlined."""
    shown = Text(text)
    for word in attribution.words:
        if _is_strong(word, attribution.words):
            shown.stylize(SUPPORTS if word.weight > 0 else OPPOSES, word.start, word.end)
    return shown


def _is_strong(word: WordWeight, words: Sequence[WordWeight]) -> bool:
    return abs(word.weight) >= STRONG * max(abs(other.weight) for other in words)


def _attribution_table(attribution: Attribution, title: str, unit: str = LOG_ODDS) -> Table:
    """The words with the largest weights, in the order of the text, each with a bar."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, padding=(0, 1, 0, 0))
    table.add_column("word", overflow="fold")
    table.add_column(unit, justify="right")
    table.add_column("")
    shown = sorted(attribution.words, key=lambda word: -abs(word.weight))[:SHOWN_WORDS]
    for word in sorted(shown, key=lambda word: word.start):
        style = SUPPORTS if word.weight > 0 else OPPOSES
        length = round(BAR_LENGTH * abs(word.weight) / (abs(shown[0].weight) or 1.0))
        bar = ("+" if word.weight > 0 else "−") * length
        table.add_row(Text(word.word, style=style), f"{word.weight:+.2f}", Text(bar, style=style.split()[-1]))
    if rest := [word for word in attribution.words if word not in shown]:
        table.add_row(Text(f"{len(rest)} others", style="dim"), f"{sum(word.weight for word in rest):+.2f}", "")
    table.add_row(Text("blank text", style="dim"), f"{attribution.blank:+.2f}", "")
    table.add_row(Text("total", style="dim"), f"{attribution.value:+.2f}", "")
    return table


def _expert_table(explanation: Explanation) -> Table:
    table = Table(title="each expert alone", title_justify="left", header_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("expert", "routing weight", "prediction", "probability"):
        table.add_column(name, justify="right" if name in ("routing weight", "probability") else "left")
    predicted = explanation.answer["label"] if "labels" in explanation.answer else explanation.why.of
    for name, alone in sorted(explanation.alone.items(), key=lambda item: -item[1].share):
        if alone.score is not None:
            table.add_row(name, f"{alone.share:.1%}", f"{alone.score:+.2f}", "–")
            continue
        differs = alone.label != predicted
        label = Text((alone.label or NO_LABEL) + (" ≠" if differs else ""), style="bold" if differs else "")
        table.add_row(
            name, f"{alone.share:.1%}", label, "–" if alone.probability is None else f"{alone.probability:.3f}"
        )
    return table


def _is_inaccurate(attribution: Attribution) -> bool:
    return abs(attribution.delta) > max(MAX_DELTA * abs(attribution.value - attribution.blank), MAX_DELTA)


def _meaning(explanation: Explanation) -> str:
    """What the marks of words mean."""
    if explanation.answer["confidence"] is None:
        return "Bold words raise the score, underlined ones lower it."
    return f"Bold words support {explanation.why.of}, underlined ones oppose it."


def _remarks(explanation: Explanation) -> list[str]:
    attributions = [attribution for attribution in (explanation.why, explanation.router) if attribution]
    deltas = ", ".join(f"{attribution.of} {attribution.delta:+.3f}" for attribution in attributions)
    lines = [f"{_meaning(explanation)} In the blank text every word is {explanation.blank}."]
    lines += [f"Completeness error after {explanation.steps} steps: {deltas}."]
    lines += ["The error is large: raise --steps."] if any(map(_is_inaccurate, attributions)) else []
    lines += [f"No words for the routing: {explanation.unrouted}."] if explanation.unrouted else []
    answer = explanation.answer
    lines += [f"The text does not contain {explanation.target!r}."] if answer.get("target_missing") else []
    lines += ["The target was too long and was cut."] if answer.get("target_truncated") else []
    return lines + (["The text was truncated: words after the cut were not used."] if answer["truncated"] else [])
