"""Warnings about the rows of a task, one line each: few validation rows, few rows of a class, texts in two splits."""

import math
from collections.abc import Mapping, Sequence

from datasets import Dataset

from moe.data.schema import TaskSettings
from moe.data.splitting.settings import SPLITS
from moe.data.splitting.splits import text_digest
from moe.data.task_reports import NO_ANSWER, TaskReport

MIN_VALIDATION_ROWS, MIN_CLASS_ROWS = 100, 5
_MAX_CLASSES = 4
_TYPICAL_F1 = 0.7
"""F1 of a class that the uncertainty of a macro-F1 is estimated for; .5 gives 9 % more, .85 gives 22 % less."""
_MAX_VALIDATION_SHARE = 30
"""Largest validation split to recommend, in percent."""
_SMALL_FILE_SPLIT = (60, 20, 20)
"""Split to recommend for a file of so few rows that no split has `MIN_VALIDATION_ROWS`."""


def count_warnings(report: TaskReport, task: TaskSettings) -> list[str]:
    """Return lines about splits or classes with few rows; empty if all have enough.

    Args:
        report: of the prepared task.
        task: its settings.
    """
    if not task.labels:
        return []
    counts = {split: {label: report.splits[split].labels.get(label, 0) for label in task.labels} for split in SPLITS}
    sizes = {str(split): report.splits[split] for split in SPLITS}
    labelled = {split: size.rows - size.labels.get(NO_ANSWER, 0) for split, size in sizes.items()}
    if not sum(labelled.values()):
        return []  # only scores
    lines = []
    if labelled["validation"] < MIN_VALIDATION_ROWS:
        lines.append(_validation_line(report, task, counts["validation"], labelled))
    # Where no class can have enough validation rows, the first line says so.
    checked = SPLITS if labelled["validation"] >= MIN_CLASS_ROWS * len(task.labels) else SPLITS[:1]
    rare = {
        label: few
        for label in task.labels
        if (few := [f"{counts[s][label]} {s}" for s in checked if labelled[s] and counts[s][label] < MIN_CLASS_ROWS])
    }
    if rare:
        lines.append(_rare_classes_line(report.task, rare))
    return lines


def macro_f1_uncertainty(counts: Sequence[int]) -> float:
    """Return about half the width of the 95 % interval of a macro-F1, before any model is trained.

    The error of a class's F1 is taken to be that of a proportion of `_TYPICAL_F1` among the rows of the class.

    Args:
        counts: rows of each class (K,), at least one of them above 0; classes without rows are left out.
    """
    present = [count for count in counts if count]
    variance = _TYPICAL_F1 * (1 - _TYPICAL_F1) * sum(1 / count for count in present) / len(present) ** 2
    return 1.96 * math.sqrt(variance)


def shared_text_warning(splits: Mapping[str, Dataset], name: str) -> str | None:
    """Return a line if test texts of a task are also training texts, whatever their letter case and white space.

    Without `data.near_duplicates` nothing has removed them.
    """
    train = {text_digest(text) for text in splits["train"]["text"]}
    test = [text_digest(text) for text in splits["test"]["text"]]
    shared = sum(digest in train for digest in test)
    if not shared:
        return None
    return (
        f"{name}: {shared} of {len(test)} test texts are also training texts, so test metrics are too high: set "
        "data.near_duplicates (0.85 is the default) to remove them from training"
    )


def removed_overlap_warning(report: TaskReport) -> str | None:
    """Return a line if the file's own split has near duplicates in two splits, which a run removes."""
    removed = {pair: count for pair, count in report.near_duplicates.items() if count}
    if not report.own_split or not removed:
        return None
    pairs = ", ".join(f"{pair} {count}" for pair, count in removed.items())
    return (
        f"{report.task}: the file's splits overlap; rows near a text of another split: {pairs}. A run leaves them "
        "out of the first split of each pair: do the same for models that you compare with"
    )


def _validation_line(
    report: TaskReport, task: TaskSettings, counts: Mapping[str, int], labelled: Mapping[str, int]
) -> str:
    rows, remedy = labelled["validation"], _validation_remedy(report, task, labelled)
    if not rows:
        return f"{report.task}: no labelled validation rows, so the best weights cannot be selected: {remedy}"
    size = f"{rows} validation row{'s' if rows > 1 else ''}"
    if task.split.folds is None and not report.own_split:
        size += f" (split {'/'.join(f'{part:g}' for part in task.split.ratios)})"
    around = f"± {macro_f1_uncertainty(list(counts.values())):.2f}".replace("0.", ".", 1)
    return f"{report.task}: macro-F1 of {size} is uncertain by about {around}: {remedy}"


def _validation_remedy(report: TaskReport, task: TaskSettings, labelled: Mapping[str, int]) -> str:
    """How to get enough validation rows: a larger share of the rows, if that is enough, or more rows."""
    if task.max_validation_rows is not None and task.max_validation_rows < MIN_VALIDATION_ROWS:
        return f"raise max_validation_rows ({task.max_validation_rows})"
    total = sum(labelled.values()) + report.over_cap
    share = 5 * math.ceil(20 * MIN_VALIDATION_ROWS / total)  # percent, in steps of 5
    test = max(5, 5 * round(20 * labelled["test"] / total))
    if share > _MAX_VALIDATION_SHARE or share + test > 60:
        remedy = "label more rows, and take smaller differences between settings or stages for noise"
        if report.own_split or task.split.folds is not None or labelled["validation"] > 0.08 * total:
            return remedy
        return f"hold out more (split: {{ratios: {list(_SMALL_FILE_SPLIT)}}}), {remedy}"
    ratios = f"ratios: [{100 - share - test}, {share}, {test}]"
    if task.split.folds is not None:
        return f"split by ratios instead of folds (split: {{{ratios}}})"
    if report.own_split:
        return f"move rows to the file's validation split, or split at random (split: {{own: false, {ratios}}})"
    return f"hold out more (split: {{{ratios}}})"


def _rare_classes_line(name: str, rare: Mapping[str, Sequence[str]]) -> str:
    shown = [f"{label} ({', '.join(few)})" for label, few in list(rare.items())[:_MAX_CLASSES]]
    more = f" and {len(rare) - _MAX_CLASSES} more" if len(rare) > _MAX_CLASSES else ""
    return (
        f"{name}: fewer than {MIN_CLASS_ROWS} rows of {', '.join(shown)}{more}; macro-F1 counts every class alike: "
        "label more rows of these classes, or merge them with others (label_map)"
    )
