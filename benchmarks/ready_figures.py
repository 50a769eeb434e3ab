"""Figures of the ready mixture: on held-out rows of its own data sets, on data that it never saw, and per entity."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from moe.bootstrap import Interval, TaskPredictions, bootstrap_intervals
from moe.data.dedup import NearDuplicateIndex
from moe.data.formats.readers import read_records
from moe.evaluation.metrics import calibration_metrics
from moe.inference.predictor import Prediction, Predictor
from moe.runs.workspace import Workspace

LABELS = ("negative", "neutral", "positive")
SIGNED = ("negative", "positive")
OWN = {
    "headlines": "SEntFiN, headlines",
    "tweets": "twitter_fin_news, validation split",
    "headline_entities": "SEntFiN, entities",
    "report_entities": "FinEntity, entities",
}
"""Tasks with held-out rows of a data set, and what the card calls them; statements of our program are left out."""
DISAGREE = "SEntFiN, entities of headlines whose entities disagree"
UNSEEN = ("fpb.csv", "stockemotions.csv", "fiqa_sa.csv")
NEAR = 0.85
"""Jaccard similarity from which a text counts as seen in training."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """One row of the card's tables; metrics are in [0, 1], with 95 % bootstrap intervals over rows.

    Args:
        data: the data set.
        rows: number of rows.
        accuracy: with its interval.
        macro_f1: with its interval.
        ece: expected calibration error of the calibrated probabilities.
        note: how the figure was computed, if that is not obvious.
    """

    data: str
    rows: int
    accuracy: Interval
    macro_f1: Interval
    ece: float
    note: str = ""


def own_figures(predictor: Predictor, work: Workspace) -> Iterator[Figure]:
    """Yield the figures on the run's test rows, task by task, and on entities of headlines whose entities disagree."""
    test = work.rows("test").to_list()
    for task, title in OWN.items():
        rows = [row for row in test if row["task"] == task]
        true = [LABELS[row["label"]] for row in rows]
        predictions = predict(predictor, rows, task)
        yield measure(title, true, predictions)
        if task == "headline_entities":
            mixed = disagreeing(rows)
            without = predict(predictor, [{"text": rows[i]["text"]} for i in mixed])
            yield measure(DISAGREE, [true[i] for i in mixed], [predictions[i] for i in mixed])
            yield measure(f"{DISAGREE}: the text's label", [true[i] for i in mixed], without)


def disagreeing(rows: Sequence[Row]) -> list[int]:
    """Return the indices of rows whose text has entities of different labels."""
    labels: dict[str, set[int]] = {}
    for row in rows:
        labels.setdefault(row["text"], set()).add(row["label"])
    return [i for i, row in enumerate(rows) if len(labels[row["text"]]) > 1]


def unseen_figures(predictor: Predictor, folder: Path) -> Iterator[Figure]:
    """Yield the figures on data sets that the model never saw."""
    rows, true = read_rows(folder / "fpb.csv")
    predictions = predict(predictor, rows)
    yield measure("Financial PhraseBank, all rows", true, predictions)
    agreed = [i for i, row in enumerate(rows) if str(row["id"]).endswith("agree100")]
    title = "Financial PhraseBank, rows on which all annotators agree"
    yield measure(title, [true[i] for i in agreed], [predictions[i] for i in agreed])
    rows, true = read_rows(folder / "stockemotions.csv")
    test = [i for i, row in enumerate(rows) if row["split"] == "test"]
    predictions = [_signed(prediction) for prediction in predict(predictor, [rows[i] for i in test])]
    yield replace(
        measure("StockEmotions, test split", [true[i] for i in test], predictions, SIGNED),
        note="it has no neutral label: the more probable of negative and positive",
    )
    rows, true = read_rows(folder / "fiqa_sa.csv")
    predictions = predict(predictor, rows)
    rank = spearmanr([float(row["score"]) for row in rows], [prediction.polarity for prediction in predictions])
    yield replace(
        measure("FiQA, all rows", true, predictions),
        note=f"labels are its scores cut at ±.1; rank correlation of its scores with our polarity {rank.statistic:.2f}",
    )


def read_rows(path: Path) -> tuple[list[Row], list[str]]:
    """Read a labelled file: its rows, and their labels."""
    rows: list[Row] = [record.values for record in read_records(path, others=None)]
    return rows, [str(row["label"]) for row in rows]


def predict(predictor: Predictor, rows: Sequence[Row], task: str | None = None) -> list[Prediction]:
    """Predict rows with `text` and, for a task with targets, `target`; without a task the router chooses it."""
    predictions = []
    for start in range(0, len(rows), predictor.chunk_size):
        chunk = rows[start : start + predictor.chunk_size]
        targets = [row.get("target") for row in chunk] if task else None
        scores = predictor.score([row["text"] for row in chunk], targets=targets)
        tasks = [task] * len(chunk) if task else predictor.routed_tasks(scores)
        predictions += predictor.to_predictions(scores, tasks)
    return predictions


def _signed(prediction: Prediction) -> Prediction:
    """Return the prediction with only its negative and positive label."""
    signed = prediction.probabilities[[prediction.labels.index(label) for label in SIGNED]]
    return replace(prediction, labels=SIGNED, probabilities=signed / signed.sum())


def measure(
    title: str, true: Sequence[str], predictions: Sequence[Prediction], labels: Sequence[str] = LABELS
) -> Figure:
    """Compute the figures of predictions against labels."""
    probabilities = np.stack([prediction.probabilities for prediction in predictions])  # (N, K)
    intervals = bootstrap_intervals(
        [TaskPredictions.from_labels(true, [prediction.label for prediction in predictions], labels)]
    )
    index = np.array([labels.index(label) for label in true])  # (N,)
    ece = calibration_metrics(probabilities, index).ece
    return Figure(title, len(true), intervals["accuracy"], intervals["macro_f1"], ece)


def count_seen(work: Workspace, folder: Path) -> dict[str, int]:
    """Count the texts of each unseen data set that are near a training text of the run."""
    index = NearDuplicateIndex[int](NEAR, work.run.data.seed)
    index.add(enumerate(dict.fromkeys(work.rows("train")["text"])))
    counts = {}
    for name in UNSEEN:
        texts = [str(row["text"]) for row in read_rows(folder / name)[0]]
        counts[name] = sum(bool(matches) for _, matches in index.query(enumerate(texts)))
    return counts
