"""Headlines whose entities disagree: a model's task with a target against one label for the whole text, and TF-IDF.

Run: `python benchmarks/targets.py FOLDER [--model MODEL] [--json]`. Rows are the held-out rows of the config's tasks
with a target, of texts with several labels; the model must not have been trained on them. Intervals (95 %) are from
resampled texts, since the entities of a text are not independent.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from rich.console import Console
from rich.table import Table

from experts.errors import Fault
from moe.config.run import load_run
from moe.data.splitting.splits import number_texts
from moe.evaluation.baselines import target_window, tfidf
from moe.inference.load import load
from moe.inference.predictor import Predictor
from moe.inference.stream import predict_texts
from moe.runs.model_ref import resolve
from moe.runs.workspace import Workspace

CONFIG = Path(__file__).parent.parent / "configs" / "real" / "targets.yaml"
DRAWS, SEED = 10_000, 13
TARGET, TEXT, WINDOW, TFIDF_TEXT = "model, target", "model, text", "TF-IDF, window", "TF-IDF, text"


@dataclass(frozen=True)
class EntityRows:
    """Rows about entities.

    Args:
        texts: (N,).
        targets: (N,), an entity of each text.
        labels: (N,), names.
    """

    texts: list[str]
    targets: list[str]
    labels: list[str]

    @classmethod
    def of(cls, rows: Dataset, names: Mapping[str, Sequence[str]]) -> "EntityRows":
        """Take the labelled rows with a target; `names` are the labels of each task."""
        columns = zip(rows["text"], rows["target"], rows["label"], rows["task"], strict=True)
        labelled = [
            (text, target, names[task][label]) for text, target, label, task in columns if target and label >= 0
        ]
        texts, targets, labels = (list(column) for column in zip(*labelled, strict=True)) if labelled else ([], [], [])
        return cls(texts, targets, labels)

    def disagreeing(self) -> "EntityRows":
        """Rows of texts that have more than one label."""
        labels_of = defaultdict(set)
        for text, label in zip(self.texts, self.labels, strict=True):
            labels_of[text].add(label)
        rows = [i for i, text in enumerate(self.texts) if len(labels_of[text]) > 1]
        texts, targets, labels = ([column[i] for i in rows] for column in (self.texts, self.targets, self.labels))
        return EntityRows(texts, targets, labels)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with the data files of the config")
    parser.add_argument("--model", default="ready", help="folder of a mixture, expert or run, or `ready`")
    parser.add_argument("--config", type=Path, default=CONFIG, help="config with the tasks and their splits")
    parser.add_argument("--tasks", nargs="*", default=(), help="only these tasks; default: all with a target")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-targets"), help="folder of prepared rows")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="override a setting, as KEY=VALUE")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    work = Workspace(load_run(args.config, [f"data.folder={args.folder}", *args.sets]), args.out)
    predictor = load(resolve(args.model))
    report = {"model": str(args.model)} | measure(work, predictor, args.tasks)
    if args.json:
        print(json.dumps(report))
    else:
        Console().print(to_table(report))


def measure(work: Workspace, predictor: Predictor, tasks: Sequence[str] = ()) -> dict[str, Any]:
    """Predict the held-out rows of texts with several labels, by the model and by TF-IDF.

    Args:
        tasks: use the rows of these tasks only; all tasks with a target by default.

    Returns:
        number of `rows` and `texts`, and by method `accuracy` and `macro_f1` with `…_interval` [low, high]; and
        `gain`, the difference of macro-F1 between the model's two methods, with its interval.

    Raises:
        Fault: if the config has no task with a target, or no such text is held out.
    """
    space = work.run.label_space()
    if not space.target_tasks:
        raise Fault("a config with a task that has a target", "none", "set columns.target of a task")
    names = [task for task in space.tasks if task in (tasks or space.target_tasks)]
    train, test = (EntityRows.of(_rows(work, names, split), space.tasks) for split in ("train", "test"))
    rows = test.disagreeing()
    if not rows.texts:
        raise Fault("held-out texts whose entities have several labels", "none", "use other data or another split")
    predicted = predict_by_model(predictor, rows) | predict_by_tfidf(train, rows)
    labels, texts = sorted(set(rows.labels)), number_texts(rows.texts)
    counts = {method: confusions(rows.labels, names, texts, labels) for method, names in predicted.items()}
    count = int(texts.max()) + 1
    draws = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), DRAWS)  # (D, U)
    values, resampled = (
        [metrics(weights @ _flat(counts[method]), len(labels))["macro_f1"] for method in (TARGET, TEXT)]
        for weights in (np.ones(count), draws)
    )
    return {
        "rows": len(rows.texts),
        "texts": count,
        "labels": labels,
        "methods": {method: with_intervals(count, draws, len(labels)) for method, count in counts.items()},
        "gain": float(values[0] - values[1]),
        "gain_interval": np.percentile(resampled[0] - resampled[1], (2.5, 97.5)).tolist(),
    }


def _rows(work: Workspace, tasks: Sequence[str], split: str) -> Dataset:
    prepared = {name: task for domain in work.run.domains for name, task in work.prepared(domain).items()}
    return concatenate_datasets([prepared[name].splits[split] for name in tasks])


def _flat(counts: np.ndarray) -> np.ndarray:
    return counts.reshape(len(counts), -1)


def predict_by_model(predictor: Predictor, rows: EntityRows) -> dict[str, list[str]]:
    """Labels (N,) of the model for each entity, and of its answer for the text alone."""
    predictor.check(None, None, target=True)
    by_target = predict_texts(rows.texts, predictor, targets=rows.targets)
    by_text = predict_texts(rows.texts, predictor)
    return {TARGET: [row.label for row in by_target], TEXT: [row.label for row in by_text]}


def predict_by_tfidf(train: EntityRows, rows: EntityRows) -> dict[str, list[str]]:
    """Labels (N,) of logistic regression on TF-IDF: of the words around the entity, and of the whole text."""

    def windows(side: EntityRows) -> list[str]:
        return [target_window(text, target) for text, target in zip(side.texts, side.targets, strict=True)]

    inputs = {WINDOW: (windows(train), windows(rows)), TFIDF_TEXT: (train.texts, rows.texts)}
    return {
        method: [str(label) for label in tfidf().fit(known, train.labels).predict(unknown)]
        for method, (known, unknown) in inputs.items()
    }


def confusions(true: Sequence[str], predicted: Sequence[str], texts: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Confusion matrix of each text (U, K, K + 1): true label by predicted one; the last column is any other label."""
    index = {label: k for k, label in enumerate(labels)}
    counts = np.zeros((texts.max() + 1, len(labels), len(labels) + 1))  # (U, K, K + 1)
    for text, label, guess in zip(texts, true, predicted, strict=True):
        counts[text, index[label], index.get(guess, len(labels))] += 1
    return counts


def metrics(counts: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Accuracy and macro-F1 of flat confusion matrices (…, K · (K + 1))."""
    matrix = counts.reshape(*counts.shape[:-1], classes, classes + 1)  # (…, K, K + 1)
    right = np.diagonal(matrix, axis1=-2, axis2=-1)  # (…, K)
    total = matrix.sum(-1) + matrix[..., :classes].sum(-2)  # (…, K), true plus predicted
    f1 = 2 * right / np.maximum(total, 1)  # (…, K)
    return {"accuracy": right.sum(-1) / np.maximum(matrix.sum((-2, -1)), 1), "macro_f1": f1.mean(-1)}


def with_intervals(counts: np.ndarray, draws: np.ndarray, classes: int) -> dict[str, Any]:
    """Metrics of all texts, each with the 2.5 % and 97.5 % percentiles over resampled texts (D, U)."""
    values, resampled = metrics(_flat(counts).sum(0), classes), metrics(draws @ _flat(counts), classes)
    bounds = {f"{name}_interval": np.percentile(resampled[name], (2.5, 97.5)).tolist() for name in values}
    return {name: float(value) for name, value in values.items()} | bounds


def to_table(report: Mapping[str, Any]) -> Table:
    """Table of all methods."""
    title = f"{report['model']}: {report['rows']} entities of {report['texts']} texts whose entities disagree"
    table = Table(title=title, title_justify="left")
    for name in ("method", "accuracy", "95 %", "macro-F1", "95 %"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for method, values in report["methods"].items():
        cells = [
            cell
            for name in ("accuracy", "macro_f1")
            for cell in (f"{values[name]:.3f}", "{:.3f} to {:.3f}".format(*values[f"{name}_interval"]))
        ]
        table.add_row(method, *cells)
    low, high = report["gain_interval"]
    table.caption = f"macro-F1 by target minus by text: {report['gain']:+.3f} ({low:+.3f} to {high:+.3f})"
    return table


if __name__ == "__main__":
    main()
