"""What a run shows, in words: its best mixture against other models, and the classes that are never predicted."""

from collections.abc import Iterator, Mapping

from moe.report.blocks import ReportTable
from moe.results.metrics import LabelMetrics
from moe.results.run import Difference, FiguresByModel, ModelDifference, RunSummary

TFIDF, OWN_EXPERT, POOLED = "tfidf", "own expert", "pooled LoRA"
REFERENCES = {TFIDF: "TF-IDF", OWN_EXPERT: "its own experts", POOLED: "one pooled LoRA"}
"""Models that the best mixture is compared with, as in a run's figures, and their names in a sentence."""


def draw_conclusions(summary: RunSummary, best: str | None) -> list[str]:
    """Return a sentence on the best mixture against each reference.

    Args:
        summary: of `moe run`; older ones have no `conclusions`, so that the sentences compare means without
            intervals.
        best: folder name of the best mixture.
    """
    if summary.conclusions:
        return summary.conclusions
    model = summary.best or best
    sentences = (_sentence_on_means(summary.figures, str(model), name) for name in REFERENCES)
    return [sentence for sentence in sentences if sentence]


def _sentence_on_means(figures: FiguresByModel, model: str, reference: str) -> str:
    """Compare means over the tasks of both; empty if they have none in common."""
    ours, theirs = figures.get(model, {}), figures.get(reference, {})
    pairs = [
        (its.macro_f1, theirs[task].macro_f1)
        for task, its in ours.items()
        if its.macro_f1 is not None and task in theirs
    ]
    known = [(first, second) for first, second in pairs if second is not None]
    if not known:
        return ""
    mean, other = (sum(values) / len(known) for values in zip(*known, strict=True))
    return (
        f"The best mixture, {model}, has a mean macro-F1 of {mean:.3f} on test rows, {REFERENCES[reference]} "
        f"{other:.3f} ({_points(mean - other)} points, without an interval)"
    )


def _points(share: float) -> str:
    """Format a difference in points, with its sign; −0.0 becomes 0.0."""
    return f"{round(100 * share, 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}")


def differences_tables(summary: RunSummary) -> Iterator[ReportTable]:
    """Yield tables of the best mixture's macro-F1, and of its CCC, minus those of each reference."""
    for metric, differences in (("Macro-F1", summary.differences), ("CCC", summary.score_differences)):
        if differences:
            title = f"{metric} of {summary.best} minus that of other models on the same test rows, in points"
            yield _differences_table(title, differences)


def _differences_table(title: str, differences: Mapping[str, ModelDifference]) -> ReportTable:
    tasks = dict.fromkeys(task for difference in differences.values() for task in difference.tasks)
    rows = [[task, *(_difference_cell(its.tasks.get(task)) for its in differences.values())] for task in tasks]
    if rows:
        rows.append(["mean", *(_difference_cell(its.mean) for its in differences.values())])
    header = ["task", *(f"− {REFERENCES.get(name, name)}" for name in differences)]
    return ReportTable(title, header, rows)


def _difference_cell(difference: Difference | None) -> str:
    if difference is None:
        return "–"
    low, high = difference.interval
    return f"{_points(difference.difference)}\n{_points(low)} to {_points(high)}"


def classes_never_predicted(tasks: Mapping[str, LabelMetrics]) -> dict[str, list[str]]:
    """Return the labels by task that have rows, but that no row is classified as; none of multi-label tasks."""
    names_by_task: dict[str, list[str]] = {}
    for task, metrics in tasks.items():
        if metrics.confusion is None:
            continue
        labels, rows = metrics.confusion.labels, metrics.confusion.rows
        never = [label for i, label in enumerate(labels) if sum(rows[i]) and not any(row[i] for row in rows)]
        names_by_task |= {task: never} if never else {}
    return names_by_task


def describe_never_predicted(tasks: Mapping[str, LabelMetrics]) -> str:
    """Name the classes that are never predicted, with their tasks; empty if there are none."""
    classes = [f"{', '.join(labels)} ({task})" for task, labels in classes_never_predicted(tasks).items()]
    return f"never predicted: {'; '.join(classes)}" if classes else ""


def describe_sets(report: LabelMetrics) -> str:
    """State the metrics that only a multi-label task has, with their intervals."""
    titles = {"accuracy": "exact sets", "micro_f1": "micro-F1", "lrap": "label ranking average precision"}
    parts = []
    for name, title in titles.items():
        if (value := report.value(name)) is not None:
            bounds = report.interval(name)
            parts.append(f"{title} {value:.3f}" + (f" ({bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else ""))
    return ", ".join(parts)
