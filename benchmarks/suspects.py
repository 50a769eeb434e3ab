"""Precision of `moe data suspects`: labels of a clean file are flipped at random, and searched for.

Run: `python benchmarks/suspects.py FOLDER`, with fpb.csv in FOLDER. 5 and 10 % of the labels are replaced by another
label at random. All rows are ranked by the out-of-fold probability of their label, and the precision at the flipped
count is the share of flipped rows among as many first rows as were flipped; by chance it is the flipped share. Rows
that were mislabelled before count as wrong finds. `flagged` are the rows that cleanlab reports without a count.
Compared: the classifiers of `moe data suspects` on the ready mixture's features and on its backbone's, the part of them
that reads words, and the mixture itself without any fit. The ready mixture has not trained on Financial PhraseBank.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from labelling import LabelledTexts, frozen_texts
from predictions import append_line, read_lines
from rich.console import Console
from rich.table import Table

from moe.inference.load import LoadOptions, load_torch
from moe.labels.classifier import ClassifierInputs
from moe.labels.features import compute_features
from moe.labels.out_of_fold import FOLDS, out_of_fold_probabilities
from moe.labels.suspects import rank_suspects
from moe.runs.model_ref import resolve

SEEDS = (13, 42, 87)
SHARES = (0.05, 0.10)
METHODS = ("mixture", "backbone", "words", "mixture, no fit")


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with the file")
    parser.add_argument("--file", default="fpb", help="name of the file, without .csv")
    parser.add_argument("--out", type=Path, default=Path("runs/suspects"))
    parser.add_argument("--model", default="ready")
    parser.add_argument("--rows", type=int, help="rows of the file, drawn at random; default: all")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--shares", type=float, nargs="*", default=SHARES, help="shares of flipped labels")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument("--folds", type=int, default=FOLDS)
    parser.add_argument("--set", dest="sets", action="append", default=[], help="backbone.KEY=VALUE of the model")
    args = parser.parse_args()
    results = args.out / "suspects.jsonl"
    done = {(line["method"], line["share"], line["seed"]) for line in read_lines(results)}
    texts = frozen_texts(args, args.file, experts=False)
    for method in args.methods:
        inputs = None if method == "mixture, no fit" else features(args, method, texts)
        for share in args.shares:
            for seed in args.seeds:
                if (method, share, seed) not in done:
                    append_line(results, {"method": method, **measure(texts, inputs, share, seed, args.folds)})
    print_results(read_lines(results))


def features(args: argparse.Namespace, method: str, texts: LabelledTexts) -> ClassifierInputs:
    """Return what the classifiers of a method read."""
    if method == "mixture":
        return texts.inputs
    if method == "words":
        return replace(texts.inputs, features=np.zeros((len(texts.texts), 1)))
    path = args.out / f"backbone-{args.file}-{len(texts.texts)}.npz"
    if not path.is_file():
        predictor = load_torch(resolve(args.model), LoadOptions(sets=tuple(args.sets)))
        none = [None] * len(texts.texts)
        computed = compute_features(predictor, list(texts.texts), none, source="backbone", quiet=False)
        np.savez(path, inputs=computed.inputs)
    return replace(texts.inputs, features=np.load(path)["inputs"])


def flip_labels(labels: np.ndarray, classes: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N,) of which a share is replaced by another one at random, and which ones (N,) bool."""
    generator = np.random.default_rng(seed)
    flipped = np.zeros(len(labels), dtype=bool)
    flipped[generator.choice(len(labels), round(share * len(labels)), replace=False)] = True
    shifted = (labels + generator.integers(1, classes, len(labels))) % classes
    return np.where(flipped, shifted, labels), flipped


def measure(
    texts: LabelledTexts, inputs: ClassifierInputs | None, share: float, seed: int, folds: int
) -> dict[str, float]:
    """Flip labels and return how well they are found; without inputs by the model's own probabilities."""
    labels, flipped = flip_labels(texts.labels, len(texts.names), share, seed)
    start = time.process_time()
    if inputs is None:
        probabilities = texts.probabilities[:, : len(texts.names)]
    else:
        probabilities = out_of_fold_probabilities(inputs, labels, texts.texts, folds=folds)
    suspects, scores = rank_suspects(labels, probabilities)
    first = np.argsort(scores, kind="stable")[: flipped.sum()]
    return {
        "share": share,
        "seed": seed,
        "precision_at_flipped": round(float(flipped[first].mean()), 4),
        "flagged": len(suspects),
        "flagged_precision": round(float(flipped[suspects].mean()) if len(suspects) else 0.0, 4),
        "flagged_recall": round(float(flipped[suspects].sum() / flipped.sum()), 4),
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def print_results(lines: Sequence[dict[str, object]]) -> None:
    """Print the mean and the range over seeds by method and share."""
    table = Table(title="flipped labels that are found", title_justify="left")
    for name in (
        "features",
        "flipped",
        "seeds",
        "precision at flipped count",
        "flagged",
        "precision",
        "recall",
        "CPU s",
    ):
        table.add_column(name)
    for method, share in dict.fromkeys((line["method"], line["share"]) for line in lines):
        group = [line for line in lines if (line["method"], line["share"]) == (method, share)]

        def values(key: str, group: Sequence[dict[str, object]] = group) -> np.ndarray:
            return np.array([line[key] for line in group], dtype=float)

        at_count = values("precision_at_flipped")
        means = [f"{values(key).mean():.3f}" for key in ("flagged_precision", "flagged_recall")]
        table.add_row(
            str(method),
            f"{float(str(share)):.0%}",
            str(len(group)),
            f"{at_count.mean():.3f} ({at_count.min():.3f} to {at_count.max():.3f})",
            f"{values('flagged').mean():.0f}",
            *means,
            f"{values('cpu_seconds').mean():.1f}",
        )
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
