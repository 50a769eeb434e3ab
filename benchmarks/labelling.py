"""Learning curves of active learning: which texts to label next, beside labelling at random.

Run: `python benchmarks/labelling.py FOLDER`, with fpb.csv and stockemotions.csv in FOLDER. For each data set and
seed, 30 % of the texts are for testing. Each strategy of `moe data next` labels the other texts in rounds: the first
round chooses by the ready mixture, which has trained on neither file, and the later ones by a classifier of frozen
features and words that is fitted on all texts labelled so far, as the command does. Reported: macro-F1 of that
classifier on the test texts after every round, and its mean over the rounds less that of `random`, with the seeds'
standard deviation.

Features are computed once for each file and stored below `--out`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from predictions import append_line, read_lines
from rich.console import Console
from rich.table import Table
from sklearn.metrics import f1_score

from moe.data.formats.readers import read_records
from moe.inference.load import LoadOptions, load_torch
from moe.inference.torch_predictor import TorchPredictor
from moe.labels.classifier import ClassifierInputs, fit_classifier, word_vectors
from moe.labels.features import compute_features, expert_probabilities
from moe.labels.selection import Strategy, select
from moe.runs.model_ref import resolve

SEEDS = (13, 42, 87)
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
FILES = ("fpb", "stockemotions")
TEST_SHARE = 0.3


@dataclass(frozen=True)
class LabelledTexts:
    """Texts of a file with their labels and frozen features.

    Args:
        texts: (N).
        labels: index of each label in `names` (N,).
        names: labels (K), in alphabetic order.
        inputs: what a classifier reads (N).
        states: pooled states (N, D).
        probabilities: of the model itself (N, K').
        experts: probabilities of each expert on its own (E, N, K'); None if they were not computed.
    """

    texts: Sequence[str]
    labels: np.ndarray
    names: Sequence[str]
    inputs: ClassifierInputs
    states: np.ndarray
    probabilities: np.ndarray
    experts: np.ndarray | None


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with the files")
    parser.add_argument("--files", nargs="*", default=FILES, help="names of the files, without .csv")
    parser.add_argument("--out", type=Path, default=Path("runs/labelling"))
    parser.add_argument("--model", default="ready")
    parser.add_argument("--rows", type=int, help="texts of each file, drawn at random; default: all")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--by", nargs="*", choices=STRATEGIES, default=STRATEGIES, help="strategies")
    parser.add_argument("--batch", type=int, default=100, help="texts labelled in a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--set", dest="sets", action="append", default=[], help="backbone.KEY=VALUE of the model")
    args = parser.parse_args()
    results = args.out / "curves.jsonl"
    done = {(line["file"], line["seed"], line["by"]) for line in read_lines(results)}
    for name in args.files:
        texts = frozen_texts(args, name, experts="disagreement" in args.by)
        for seed in args.seeds:
            for by in args.by:
                if (name, seed, by) not in done:
                    curve = learning_curve(texts, by, seed, args.batch, args.rounds)
                    append_line(results, {"file": name, "seed": seed, "by": by, "batch": args.batch, "curve": curve})
    print_curves(read_lines(results))


def frozen_texts(args: argparse.Namespace, name: str, *, experts: bool) -> LabelledTexts:
    """Return the texts of a file with their features, computed unless they are stored."""
    records = [record for record in read_records(args.folder / f"{name}.csv") if record.values.get("label")]
    if args.rows and args.rows < len(records):
        drawn = np.random.default_rng(0).choice(len(records), args.rows, replace=False)
        records = [records[i] for i in sorted(drawn)]
    texts = [str(record.values["text"]) for record in records]
    names, labels = np.unique([str(record.values["label"]) for record in records], return_inverse=True)
    stem = args.out / f"features-{name}-{len(texts)}"
    main_file, expert_file = stem.with_suffix(".npz"), stem.with_suffix(".experts.npz")
    predictor: TorchPredictor | None = None
    none = [None] * len(texts)
    if not main_file.is_file():
        predictor = load_torch(resolve(args.model), LoadOptions(sets=tuple(args.sets)))
        computed = compute_features(predictor, texts, none, quiet=False)
        assert computed.probabilities is not None
        args.out.mkdir(parents=True, exist_ok=True)
        np.savez(main_file, inputs=computed.inputs, states=computed.states, probabilities=computed.probabilities)
    if experts and not expert_file.is_file():
        predictor = predictor or load_torch(resolve(args.model), LoadOptions(sets=tuple(args.sets)))
        np.savez(expert_file, experts=expert_probabilities(predictor, texts, none, quiet=False))
    stored = np.load(main_file)
    return LabelledTexts(
        texts=texts,
        labels=labels,
        names=[str(label) for label in names],
        inputs=ClassifierInputs(stored["inputs"], word_vectors(texts, none)),
        states=stored["states"],
        probabilities=stored["probabilities"],
        experts=np.load(expert_file)["experts"] if experts else None,
    )


def learning_curve(texts: LabelledTexts, by: Strategy, seed: int, batch: int, rounds: int) -> list[float]:
    """Return the macro-F1 on the test texts after each round of labelling."""
    shuffled = np.random.default_rng(seed).permutation(len(texts.texts))
    test, pool = np.split(shuffled, [round(TEST_SHARE * len(shuffled))])
    labelled, probabilities = np.zeros(0, dtype=int), texts.probabilities
    curve = []
    for number in range(rounds):
        rest = np.setdiff1d(pool, labelled)
        chosen, _ = select(
            by,
            batch,
            states=texts.states[rest],
            probabilities=probabilities[rest],
            expert_probabilities=None if texts.experts is None else texts.experts[:, rest],
            seed=1000 * seed + number,
        )
        labelled = np.concatenate([labelled, rest[chosen]])
        classifier = fit_classifier(texts.inputs.select(labelled), texts.labels[labelled])
        predicted = classifier.classes[classifier.predict(texts.inputs.select(test)).argmax(1)]
        curve.append(round(float(f1_score(texts.labels[test], predicted, average="macro")), 4))
        probabilities = np.zeros((len(shuffled), len(texts.names)))
        probabilities[:, classifier.classes] = classifier.predict(texts.inputs)
    return curve


def print_curves(lines: Sequence[dict[str, object]]) -> None:
    """Print the mean curve of every strategy by file, and how its mean over the rounds differs from `random`."""
    curves = {(line["file"], line["by"], line["seed"]): np.array(line["curve"], dtype=float) for line in lines}
    for name in dict.fromkeys(line["file"] for line in lines):
        batch = next(line["batch"] for line in lines if line["file"] == name)
        rounds = max(len(curve) for (file, _, _), curve in curves.items() if file == name)
        table = Table(title=f"{name}: macro-F1 on test texts by labelled texts", title_justify="left")
        heads = [str(int(str(batch)) * (number + 1)) for number in range(rounds)]
        for head in ("by", "seeds", *heads, "mean", "less random"):
            table.add_column(head)
        for by in STRATEGIES:
            seeds = [seed for file, other, seed in curves if (file, other) == (name, by)]
            if not seeds:
                continue
            stacked = np.stack([curves[name, by, seed] for seed in seeds])  # (S, R)
            gains = [
                curves[name, by, seed].mean() - curves[name, "random", seed].mean()
                for seed in seeds
                if (name, "random", seed) in curves
            ]
            gain = f"{100 * np.mean(gains):+.1f} ± {100 * np.std(gains, ddof=1):.1f}" if len(gains) > 1 else ""
            cells = [f"{value:.3f}" for value in stacked.mean(0)]
            table.add_row(by, str(len(seeds)), *cells, f"{stacked.mean():.3f}", gain if by != "random" else "")
        Console(width=170).print(table)


if __name__ == "__main__":
    main()
