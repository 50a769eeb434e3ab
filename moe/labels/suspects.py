"""`moe data suspects`: rows that are probably mislabelled, by cleanlab on out-of-fold probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.markup import escape

from experts.domain import Labels
from moe.extras import require
from moe.inference.load import LoadOptions, load_torch
from moe.inference.text_io import OutputTarget, TextSource
from moe.labels.classifier import ClassifierInputs, word_vectors
from moe.labels.features import FeatureChoice, FeatureSource, choose_features, compute_features
from moe.labels.out_of_fold import FOLDS, check_folds, out_of_fold_probabilities
from moe.labels.review import ReviewRow, review_table
from moe.labels.review_file import check_review_file, write_review_file
from moe.labels.rows import LabelColumn, check_label_task, label_set, read_label_column
from moe.runs.model_ref import ModelRef

_DIGITS = 6


@dataclass(frozen=True)
class SuspectReport:
    """Rows of a file that are probably mislabelled.

    Args:
        file: the file.
        model: the model's folder.
        features: that the out-of-fold classifiers read.
        trained_on: rows whose text trained the model; None if that is unknown.
        folds: number of folds.
        rows: labelled rows.
        unlabelled: rows without a label, which are skipped.
        rejected: rows that cannot be read, by reason.
        suspects: by ascending score, the probability of the given label.
    """

    file: str
    model: str
    features: FeatureSource
    trained_on: int | None
    folds: int
    rows: int
    unlabelled: int
    rejected: Mapping[str, int]
    suspects: Sequence[ReviewRow]


def find_suspects(
    source: TextSource,
    ref: ModelRef,
    target: OutputTarget = OutputTarget(),
    *,
    label_column: str = "label",
    task: str | None = None,
    features: FeatureChoice = "auto",
    folds: int = FOLDS,
    most: int | None = None,
    options: LoadOptions = LoadOptions(),
    quiet: bool = True,
) -> SuspectReport:
    """Find the rows of a labelled file that are probably mislabelled; the file itself is never changed.

    Args:
        source: the file.
        ref: the model, whose frozen features the classifiers read.
        target: where the rows are written; without a path they are only returned.
        label_column: of the file.
        task: whose labels the file has; by default the first task of the model with these labels.
        features: of the mixture or of its backbone; `auto` is the mixture, unless the file's rows trained it.
        folds: number of folds.
        most: return at most so many rows; None returns all suspects.
        options: how the model is loaded.
        quiet: show no progress bar.

    Raises:
        Fault: if cleanlab is missing, the file or the model cannot be read, the file has no labels, unknown ones or too
            few of one, or the output exists.
    """
    _load_cleanlab()
    source.check(required=True)
    check_review_file(target, [source.required_file, ref.folder])
    column = read_label_column(source, label_column, needs_label=True)
    with target.lock():
        predictor = load_torch(ref, options)
        predictor.check(task, None, source.has_target)
        check_label_task(predictor.spec, task, routed=False)
        rows = column.select(column.labelled).for_model(predictor.spec, task)
        labels = label_set(predictor.spec, task, rows.labels)
        codes = rows.codes(labels)  # (N,)
        check_folds(codes, rows.texts, labels, folds)
        feature_source, trained_on = choose_features(features, ref, rows.texts)
        computed = compute_features(predictor, rows.texts, rows.targets, source=feature_source, quiet=quiet)
        inputs = ClassifierInputs(computed.inputs, word_vectors(rows.texts, rows.targets))
        used, codes = np.unique(codes, return_inverse=True)  # (K,), (N,)
        names = tuple(labels[code] for code in used)
        probabilities = out_of_fold_probabilities(inputs, codes, rows.texts, folds=folds, quiet=quiet)
        suspects = _suspects(rows, names, codes, probabilities)[:most]
        write_review_file(target, suspects, names, ref.folder.name)
    return SuspectReport(
        file=str(source.file),
        model=str(ref.folder),
        features=feature_source,
        trained_on=trained_on,
        folds=folds,
        rows=len(rows),
        unlabelled=len(column) - len(rows),
        rejected=column.rejected,
        suspects=suspects,
    )


def _suspects(rows: LabelColumn, names: Labels, codes: np.ndarray, probabilities: np.ndarray) -> list[ReviewRow]:
    """The rows that are flagged, each with the most probable other label."""
    order, scores = rank_suspects(codes, probabilities)
    others = probabilities.copy()
    others[np.arange(len(codes)), codes] = -1.0
    suggested = others.argmax(1)  # (N,)
    return [
        ReviewRow(
            rank=rank,
            line=rows.lines[i],
            id=rows.ids[i],
            text=rows.texts[i],
            target=rows.targets[i],
            label=names[codes[i]],
            suggested=names[suggested[i]],
            probability=round(float(probabilities[i, suggested[i]]), _DIGITS),
            score=round(float(scores[i]), _DIGITS),
        )
        for rank, i in enumerate(order.tolist(), 1)
    ]


def rank_suspects(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that cleanlab flags, most suspicious first, and the score of every row (N,).

    Args:
        labels: index of each row's label (N,).
        probabilities: out of fold (N, K).

    Returns:
        indices (S,) by ascending score; the score is the probability of the given label, 0 to 1.

    Raises:
        Fault: if cleanlab is missing.
    """
    cleanlab_filter, cleanlab_rank = _load_cleanlab()
    scores: np.ndarray = cleanlab_rank.get_label_quality_scores(labels, probabilities, method="self_confidence")
    flagged = cleanlab_filter.find_label_issues(labels, probabilities, filter_by="prune_by_noise_rate", n_jobs=1)
    suspects = np.flatnonzero(flagged)
    return suspects[np.argsort(scores[suspects], kind="stable")], scores


def _load_cleanlab() -> tuple[Any, Any]:
    return require("cleanlab.filter", "labels"), require("cleanlab.rank", "labels")


def suspects_view(report: SuspectReport) -> RenderableType:
    """Table of the most suspicious rows, as `moe data suspects` prints it."""
    share = len(report.suspects) / report.rows
    title = f"{report.file}: {len(report.suspects):,} of {report.rows:,} labelled rows are suspects ({share:.1%})"
    lines = [f"features of the {report.features}, {report.folds} folds"]
    if report.unlabelled:
        lines.append(f"{report.unlabelled:,} rows without a label were skipped")
    if report.rejected:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in report.rejected.items())
        lines.append(f"rows skipped because they cannot be read: {reasons}")
    return Group(review_table(escape(title), report.suspects), *map(escape, lines))
