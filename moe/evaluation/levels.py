"""Levels to compare validation metrics with: the majority class and TF-IDF on a run's validation rows."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from pydantic import ValidationError

from experts.atomic_io import read_json, write_json
from experts.domain import LabelSpace
from experts.errors import Fault
from experts.json_io import json_object
from moe import distributed
from moe.bootstrap import wilson_interval
from moe.data.splitting.splits import stratified_draw
from moe.evaluation.baselines import baseline_reports
from moe.kinds.registry import task_kind
from moe.results.evaluation import Levels, MajorityLevel, TaskLevels, TfidfLevel
from moe.runs.layout import LEVELS
from moe.runs.workspace import Workspace

MAX_TRAIN_ROWS = 4000
"""Most training rows of a task that TF-IDF is fitted on here, a stratified sample; the final comparison takes all."""
MIN_CHANCE_ROWS = 50
"""With fewer validation rows, TF-IDF's level is too uncertain to call it chance."""
_FORMAT = 1
_STANDARD_ERRORS = 2 * 1.96
"""Width of an interval of 95 % in standard errors."""


def validation_levels(work: Workspace, domains: Iterable[str] | None = None) -> Levels:
    """Return the levels of the run's tasks, and write them to `levels.json` of its folder.

    Levels in the file are used while the rows are the same. TF-IDF is fitted on at most `MAX_TRAIN_ROWS` training rows
    of a task. Called by all processes of a distributed run; rank 0 computes the levels.

    Args:
        domains: only the tasks of these domains; all by default.

    Returns:
        levels by task. Tasks without labelled training and validation rows are left out. Empty for a language model.

    Raises:
        Fault: if a file of rows is missing or has too many invalid rows, or the folder cannot be written.
    """
    if work.run.language is not None:
        return {}
    names = list(work.run.domains) if domains is None else list(domains)
    rows = {task: prepared.splits for name in names for task, prepared in work.prepared(name).items()}
    levels = distributed.broadcast_from_main(
        lambda: {task: json_object(level) for task, level in _cached_levels(work, rows).items()}
    )
    return {task: TaskLevels.model_validate(level) for task, level in levels.items()}


def macro_f1_error(level: TfidfLevel) -> float:
    """Return the standard error of a level's macro-F1: from its interval, and at least that of its accuracy.

    The error of the accuracy is from Wilson's interval, which is not empty if all rows are right.
    """
    low, high = level.macro_f1_interval
    accuracy = wilson_interval(round(level.accuracy * level.rows), level.rows)
    return (max(high - low, accuracy.high - accuracy.low)) / _STANDARD_ERRORS


def is_chance(levels: TaskLevels) -> bool:
    """Whether a task's labels cannot be recognized from its texts: TF-IDF is not better than chance.

    That is, the interval of its accuracy does not exclude that of the best constant prediction, and its macro-F1 is not
    above that of its own predictions in random order by more than a standard error.
    """
    tfidf = levels.tfidf
    if tfidf.rows < MIN_CHANCE_ROWS:
        return False
    constant = tfidf.accuracy_interval[0] <= tfidf.constant_accuracy
    return constant and tfidf.macro_f1 - macro_f1_error(tfidf) <= tfidf.chance_macro_f1


def chance_warnings(levels: Levels) -> list[str]:
    """Return one line for each task whose labels TF-IDF cannot recognize from its texts."""
    return [
        f"{task}: TF-IDF cannot recognize the labels from the texts (macro-F1 {level.tfidf.macro_f1:.3f} on "
        f"{level.tfidf.rows} validation rows, {level.tfidf.chance_macro_f1:.3f} by chance): check the text "
        "and label columns, and whether the label depends on the text at all"
        for task, level in levels.items()
        if is_chance(level)
    ]


def split_levels(train: Dataset, validation: Dataset, space: LabelSpace, task: str) -> TaskLevels | None:
    """Compute the levels of one task; None if a split has no labelled row of it, or its rows have sets of labels.

    Args:
        train: training rows of the task.
        validation: validation rows of the task.
        space: labels of the task, and whether it has a target.
    """
    if task_kind(space.kind(task)).is_set:
        return None
    labels, held_out = (np.asarray(rows["label"], dtype=np.int64) for rows in (train, validation))  # (N,) and (M,)
    if not (labels >= 0).any() or not (held_out >= 0).any():
        return None
    sample = _sampled_rows(train, labels)
    space = replace(space, tasks={task: space.tasks[task]})
    majority = baseline_reports(sample, validation, space, "majority")[task]
    tfidf = majority
    if len(set(sample["label"])) > 1:
        try:
            tfidf = baseline_reports(sample, validation, space, "tfidf")[task]
        except ValueError:  # no text has a word, so TF-IDF has no vocabulary
            tfidf = majority
    names, counts = space.tasks[task], np.bincount(labels[labels >= 0])
    assert tfidf.confusion is not None
    assert tfidf.accuracy_interval is not None
    assert tfidf.macro_f1_interval is not None
    return TaskLevels(
        majority=MajorityLevel(
            accuracy=majority.accuracy, macro_f1=majority.macro_f1, label=names[int(counts.argmax())]
        ),
        tfidf=TfidfLevel(
            accuracy=tfidf.accuracy,
            accuracy_interval=tfidf.accuracy_interval,
            macro_f1=tfidf.macro_f1,
            macro_f1_interval=tfidf.macro_f1_interval,
            constant_accuracy=float(np.bincount(held_out[held_out >= 0]).max() / (held_out >= 0).sum()),
            chance_macro_f1=_chance_macro_f1(tfidf.confusion.rows),
            rows=int((held_out >= 0).sum()),
            train_rows=len(sample),
        ),
    )


def _cached_levels(work: Workspace, rows: Mapping[str, Mapping[str, Dataset]]) -> Levels:
    space, path = work.run.label_space(), work.out / LEVELS
    stored = _read_levels(path)
    levels: Levels = {}
    for task, splits in rows.items():
        key = _key(splits["train"], splits["validation"], space.tasks[task])
        if task in stored and stored[task].tfidf.key == key:
            levels[task] = stored[task]
        elif level := split_levels(splits["train"], splits["validation"], space, task):
            levels[task] = level.model_copy(update={"tfidf": level.tfidf.model_copy(update={"key": key})})
    outdated = {task for task in rows if task not in levels}
    content = {task: level for task, level in stored.items() if task in space.tasks and task not in outdated} | levels
    if content != stored:
        write_json(path, {task: content[task] for task in space.tasks if task in content})
    return levels


def _read_levels(path: Path) -> Levels:
    """Levels in a file; none if it is missing or not a file of levels, since they can be computed again."""
    try:
        return {task: TaskLevels.model_validate(level) for task, level in read_json(path).items()}
    except (Fault, AttributeError, ValidationError):
        return {}


def _sampled_rows(train: Dataset, labels: np.ndarray) -> Dataset:
    """At most `MAX_TRAIN_ROWS` labelled rows, stratified by label; labels (N,)."""
    labelled = np.flatnonzero(labels >= 0)
    if len(labelled) > MAX_TRAIN_ROWS:
        labelled, _ = stratified_draw(labels, labelled, MAX_TRAIN_ROWS, 0)
    return train if len(labelled) == len(train) else train.select(labelled.tolist())


def _chance_macro_f1(confusion: Sequence[Sequence[int]]) -> float:
    """Macro-F1 to expect of the same predictions in random order, from a confusion matrix (K, K + 1)."""
    matrix = np.asarray(confusion, dtype=np.float64)
    support, predicted = matrix.sum(1), matrix.sum(0)[: len(matrix)]  # (K,) each
    return float(np.mean(2 * support * predicted / matrix.sum() / np.maximum(support + predicted, 1)))


def _key(train: Dataset, validation: Dataset, labels: Sequence[str]) -> str:
    """Hash of what the levels of a task depend on."""
    digest = hashlib.blake2b(repr((_FORMAT, MAX_TRAIN_ROWS, list(labels))).encode(), digest_size=16)
    for rows in (train, validation):
        for batch in rows.select_columns(["text", "target", "label"]).iter(1024):
            digest.update(repr(batch).encode())
    return digest.hexdigest()
