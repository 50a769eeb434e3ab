"""`moe data next`: which unlabelled rows of a file to label next.

A file that also has labelled rows is one that is being labelled: a classifier fitted on them, on the same frozen
features, then says what is uncertain, and their texts are not proposed again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.console import Group, RenderableType
from rich.markup import escape

from experts.domain import Labels
from experts.errors import Fault
from moe.data.splitting.splits import number_texts
from moe.inference.load import LoadOptions, load_torch
from moe.inference.text_io import OutputTarget, TextSource
from moe.inference.torch_predictor import TorchPredictor
from moe.labels.classifier import ClassifierInputs, fit_classifier, word_vectors
from moe.labels.features import FeatureChoice, choose_features, compute_features, expert_probabilities
from moe.labels.review import ReviewRow, review_table
from moe.labels.review_file import check_review_file, write_review_file
from moe.labels.rows import LabelColumn, check_label_task, label_set, read_label_column
from moe.labels.selection import DEFAULT, Strategy, select
from moe.runs.model_ref import ModelRef

MOST = 200
_DIGITS = 6
_MIN_ROWS = 2
"""Labelled rows of each of two labels from which a classifier is fitted."""


@dataclass(frozen=True)
class ProposalReport:
    """Rows of a file to label next.

    Args:
        file: the file.
        model: the model's folder.
        by: how they were chosen.
        probabilities: whether they are the model's own, or of a classifier fitted on the labelled rows of the file.
        unlabelled: rows without a label.
        labelled: rows with one.
        repeated: unlabelled rows whose text is labelled, or stands before; they are not proposed.
        rejected: rows that cannot be read, by reason.
        proposals: rows to label, most useful first; their score is the uncertainty, or the disagreement.
    """

    file: str
    model: str
    by: Strategy
    probabilities: Literal["model", "labelled rows"]
    unlabelled: int
    labelled: int
    repeated: int
    rejected: Mapping[str, int]
    proposals: Sequence[ReviewRow]


def propose_rows(
    source: TextSource,
    ref: ModelRef,
    target: OutputTarget = OutputTarget(),
    *,
    most: int = MOST,
    by: Strategy = DEFAULT,
    label_column: str = "label",
    task: str | None = None,
    features: FeatureChoice = "auto",
    seed: int = 13,
    options: LoadOptions = LoadOptions(),
    quiet: bool = True,
) -> ProposalReport:
    """Choose the unlabelled rows of a file to label next; the file itself is never changed.

    Args:
        source: the file.
        ref: the model.
        target: where the rows are written; without a path they are only returned.
        most: most rows to choose.
        by: see `moe.labels.selection.select`.
        label_column: of the file, if it has one; rows in which it is empty are unlabelled.
        task: the task that is labelled; by default that of each text's most probable domain, or the first task with the
            labels of the labelled rows.
        features: see `moe.labels.features.choose_features`; for a file without labelled rows it is the mixture.
        seed: of the strategies that draw.
        options: how the model is loaded.
        quiet: show no progress bar.

    Raises:
        Fault: if the file or the model cannot be read, all rows have a label, a label is unknown, `by` needs several
            experts, or the output exists.
    """
    source.check(required=True)
    check_review_file(target, [source.required_file, ref.folder])
    column = read_label_column(source, label_column)
    with target.lock():
        fresh = _unlabelled_texts(column)  # (N,)
        predictor = load_torch(ref, options)
        predictor.check(task, None, source.has_target)
        check_label_task(predictor.spec, task, routed=True)
        column = column.for_model(predictor.spec, task)
        rows, known = column.select(fresh), column.select(column.labelled)
        labels, scored = _score_rows(predictor, ref, rows, known, task, features, quiet)
        experts = (
            expert_probabilities(predictor, rows.texts, rows.targets, task=task, quiet=quiet)
            if by == "disagreement"
            else None
        )
        order, scores = select(
            by,
            most,
            states=scored.states,
            probabilities=scored.probabilities,
            expert_probabilities=experts,
            seed=seed,
        )
        proposals = [
            ReviewRow(
                rank=rank,
                line=rows.lines[i],
                id=rows.ids[i],
                text=rows.texts[i],
                target=rows.targets[i],
                label=None,
                suggested=scored.answers[i],
                probability=round(float(scored.probabilities[i].max()), _DIGITS),
                score=round(float(scores[i]), _DIGITS),
            )
            for rank, i in enumerate(order.tolist(), 1)
        ]
        write_review_file(target, proposals, labels, ref.folder.name)
    unlabelled = int((~column.labelled).sum())
    return ProposalReport(
        file=str(source.file),
        model=str(ref.folder),
        by=by,
        probabilities="labelled rows" if scored.fitted else "model",
        unlabelled=unlabelled,
        labelled=len(known),
        repeated=unlabelled - len(rows),
        rejected=column.rejected,
        proposals=proposals,
    )


@dataclass(frozen=True)
class _ScoredTexts:
    """Pooled states (N, D), probabilities (N, K) and answers of N texts, and whether a fitted classifier gave them."""

    states: np.ndarray
    probabilities: np.ndarray
    answers: Sequence[str]
    fitted: bool


def _unlabelled_texts(column: LabelColumn) -> np.ndarray:
    """Which rows are the first of an unlabelled text (N,): one label of a text is enough.

    Raises:
        Fault: if all texts have a label.
    """
    targets = ["" if target is None else f"\n{target}" for target in column.targets]
    numbers = number_texts(text + target for text, target in zip(column.texts, targets, strict=True))  # (N,)
    first = np.zeros(len(column), dtype=bool)
    first[np.unique(numbers, return_index=True)[1]] = True
    fresh: np.ndarray = first & ~np.isin(numbers, numbers[column.labelled])
    if not fresh.any():
        labelled = int(column.labelled.sum())
        raise Fault(
            f"texts without a label in {column.file}",
            f"a label in all {len(column)} rows" if labelled == len(column) else "only texts that also have one",
            "leave the label of rows to choose from empty, or name another column with --label-column",
        )
    return fresh


def _score_rows(
    predictor: TorchPredictor,
    ref: ModelRef,
    rows: LabelColumn,
    known: LabelColumn,
    task: str | None,
    features: FeatureChoice,
    quiet: bool,
) -> tuple[Labels, _ScoredTexts]:
    """The labels that a person may choose, and the probabilities of the rows: by the labelled rows if they suffice."""
    labels = label_set(predictor.spec, task, known.labels)
    codes = known.codes(labels)  # (n,)
    used = np.unique(codes)
    enough = len(used) >= 2 and np.bincount(codes)[used].min() >= _MIN_ROWS
    source = choose_features(features, ref, known.texts)[0] if enough else "mixture"
    texts, targets = [*rows.texts, *known.texts], [*rows.targets, *known.targets]
    if not enough:
        computed = compute_features(predictor, rows.texts, rows.targets, task=task, quiet=quiet)
        assert computed.probabilities is not None
        if task is None and not known.labels:
            labels = predictor.spec.labels
        return labels, _ScoredTexts(computed.states, computed.probabilities, computed.answers, fitted=False)
    computed = compute_features(predictor, texts, targets, source=source, quiet=quiet)
    inputs = ClassifierInputs(computed.inputs, word_vectors(texts, targets))
    unlabelled, labelled = np.split(np.arange(len(texts)), [len(rows)])
    classifier = fit_classifier(inputs.select(labelled), codes)
    probabilities = classifier.predict(inputs.select(unlabelled))
    answers = [labels[code] for code in classifier.classes[probabilities.argmax(1)]]
    return labels, _ScoredTexts(computed.states[unlabelled], probabilities, answers, fitted=True)


def proposals_view(report: ProposalReport) -> RenderableType:
    """Table of the first rows to label, as `moe data next` prints it."""
    title = f"{report.file}: {len(report.proposals):,} of {report.unlabelled:,} unlabelled rows, by {report.by}"
    source = "the model" if report.probabilities == "model" else f"the {report.labelled:,} labelled rows"
    lines = [f"probabilities by {source}"]
    if report.repeated:
        lines.append(f"{report.repeated:,} rows repeat a text that is labelled or stands before")
    if report.rejected:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in report.rejected.items())
        lines.append(f"rows skipped because they cannot be read: {reasons}")
    return Group(review_table(escape(title), report.proposals), *map(escape, lines))
