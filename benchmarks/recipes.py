"""Mixtures for small labelled sets by the default recipe, against TF-IDF, fresh experts and one pooled LoRA.

Run: `python benchmarks/recipes.py FOLDER`, with the files of `SETS` in FOLDER. The ready mixture was trained on none of
them. Each case (domains, training rows per domain, seed) becomes files and a config that names only the files and their
labels. It trains what is missing, resumes where it stopped, and prints the results so far. `--name` and `--set` try
another recipe; steps whose settings agree are trained once.
"""

import argparse
import csv
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

import numpy as np
import torch
import yaml
from predictions import append_line, read_lines
from recipe_tables import CASE_GROUPS, Result, print_results

from moe.checkpoints.expert import load_single_expert
from moe.checkpoints.mixture import read_mixture
from moe.config.run import RunSettings, load_run
from moe.config.stages import JOINT, MERGED, WARMUP
from moe.evaluation.baselines import baseline_results
from moe.evaluation.evaluate import evaluate_rows, routing_report
from moe.evaluation.rows import PredictedRow
from moe.inference.torch_predictor import TorchPredictor
from moe.model.mixture import Mixture
from moe.runs.best import best_model
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.pooled import train_pooled
from moe.training.selection import select_best_mixture
from moe.training.steps import merge_experts, train_stage

SETS = {
    "fpb": ("negative", "neutral", "positive"),
    "stockemotions": ("negative", "positive"),
    "fomc": ("dovish", "neutral", "hawkish"),
    "fiqa_sa": ("negative", "neutral", "positive"),
    "numclaim": ("outofclaim", "inclaim"),
    "gold_headlines": ("negative", "neutral", "positive"),
}
"""Labels by set, in the order in which cases with fewer domains take them; `fiqa_sa` also has scores."""
SEEDS = (13, 42, 87)
TEST_ROWS = 500
FRESH = ["shared=null", "lora.r=16", "lora.alpha=32"]
"""Settings of experts that start from fresh weights, one per domain, for comparison."""
Row = dict[str, str]


@dataclass(frozen=True)
class Case:
    """One problem.

    Args:
        domains: number of domains, the first of `SETS`.
        rows: training rows per domain, or all that a set has.
        seed: of the training rows and of training.
    """

    domains: int
    rows: int
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder, and of its results."""
        return f"{self.domains}-{self.rows}-{self.seed}"


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with the six files")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--cases", nargs="*", default=CASE_GROUPS, help="DOMAINS-ROWS, measured with --seeds each")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--name", default="default", help="name of the recipe in the tables")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="override a setting, as KEY=VALUE")
    parser.add_argument("--only", nargs="*", help=f"measure only these models: {', '.join(MODELS)}")
    parser.add_argument("--print-only", action="store_true")
    args = parser.parse_args()
    results = args.out / "results.jsonl"
    if not args.print_only:
        finished = {(result["case"], result["recipe"], result["model"]) for result in read_lines(results)}
        for case in cases(args):
            for model, measure in MODELS.items():
                recipe = args.name if model not in INDEPENDENT else ""
                if (case.name, recipe, model) in finished or (args.only and model not in args.only):
                    continue
                if result := measure(CaseRun(case, args)):
                    append_line(results, {"case": case.name, "recipe": recipe, "model": model} | result)
    print_results(read_lines(results), args.cases, SETS)


def cases(args: argparse.Namespace) -> Iterator[Case]:
    """Yield all cases, by size; those of other than six domains, or over 1,000 rows, with the first seed alone."""
    for name in args.cases:
        domains, rows = map(int, name.split("-"))
        for seed in args.seeds if (domains == len(SETS) and rows <= 1000) else args.seeds[:1]:
            yield Case(domains, rows, seed)


@dataclass(frozen=True)
class CaseRun:
    """A case under one recipe; each step has a folder named by the settings that it depends on.

    A step's folder starts as a copy of the folder of the step before, so that recipes share the steps that agree.
    """

    case: Case
    args: argparse.Namespace

    @property
    def folder(self) -> Path:
        """Folder of the case."""
        return Path(self.args.out) / self.case.name

    def settings(self, sets: Sequence[str]) -> RunSettings:
        """Settings of the recipe: a config that names only files and labels, and the overrides."""
        config = self.folder / "config.yaml"
        if not config.is_file():
            write_config(self.folder, self.args.folder, self.case)
        return load_run(config, [f"seed={self.case.seed}", *sets])

    def after(self, step: str, sets: Sequence[str] | None = None) -> tuple[Workspace, float]:
        """Return the run after a step, and the minutes that the steps up to it took; missing steps are done first.

        Args:
            sets: overrides; those of the recipe by default.
        """
        run = self.settings(self.args.sets if sets is None else sets)
        before: Path | None = None
        minutes = 0.0
        for name, (parts, action) in STEPS.items():
            if name == POOLED and step != POOLED:
                continue
            folder = self.folder / f"{name}-{digest(run, parts)}"
            if not folder.is_dir():
                under_way = folder.with_name(folder.name + ".part")
                shutil.rmtree(under_way, ignore_errors=True)
                if before is not None:
                    shutil.copytree(before, under_way)
                under_way.mkdir(parents=True, exist_ok=True)
                start = perf_counter()
                action(Workspace(run, under_way, self.folder / "rows"))
                (under_way / "minutes.txt").write_text(f"{(perf_counter() - start) / 60:.2f}", encoding="utf-8")
                under_way.rename(folder)
            minutes += float((folder / "minutes.txt").read_text(encoding="utf-8"))
            before = folder
            if name == step:
                break
        assert before is not None
        return Workspace(run, before, self.folder / "rows"), minutes


def digest(run: RunSettings, parts: Sequence[str]) -> str:
    """Hash of the settings that a step depends on, given as keys of the config."""
    settings = run.model_dump(mode="json")
    chosen = [settings["stages"].get(part.removeprefix("stages.")) if "." in part else settings[part] for part in parts]
    return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:10]


def write_config(target: Path, source: Path, case: Case) -> None:
    """Write the files of a case and its config."""
    domains: dict[str, Any] = {}
    for name in list(SETS)[: case.domains]:
        rows = select_rows(read_rows(source / f"{name}.csv", SETS[name]), case)
        path = target / "data" / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, ["id", "text", "label", "score", "split"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        domains[name] = {"file": path.name, "labels": list(SETS[name])}
    config = {"data": {"folder": str((target / "data").resolve())}, "domains": domains, "track": []}
    (target / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def read_rows(path: Path, labels: Sequence[str]) -> list[Row]:
    """Read the rows of a set in a fixed random order, `test` being its own split, or drawn from all rows."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["label"] in labels]
    Random(13).shuffle(rows)
    own = any(row["split"] == "test" for row in rows)
    test = {row["id"] for row in [row for row in rows if row["split"] == "test" or not own][:TEST_ROWS]}
    left = [row for row in rows if row["id"] in test or row["split"] != "test"]
    return [row | {"split": "test" if row["id"] in test else ""} for row in left]


def select_rows(rows: Sequence[Row], case: Case) -> list[Row]:
    """Return all test rows, a random sample of training rows, and a fifth as many validation rows."""
    selected = [row for row in rows if row["split"] == "test"]
    others = [row for row in rows if row["split"] != "test"]
    Random(case.seed).shuffle(others)
    others = others[: case.rows + case.rows // 5]
    held_out = len(others) // 6
    return selected + [row | {"split": "validation" if i < held_out else "train"} for i, row in enumerate(others)]


def train_experts(work: Workspace) -> None:
    """Train the expert of each domain."""
    for domain in work.run.domains:
        train_domain(work, domain)


def train_warmup(work: Workspace) -> None:
    """Train the router's warm start."""
    work.begin()
    train_stage(work, WARMUP, work.out / MERGED)


def train_joint(work: Workspace) -> None:
    """Train the joint stage, and select the run's best mixture."""
    work.begin()
    train_stage(work, JOINT, work.out / WARMUP.folder)
    select_best_mixture(work)


POOLED = "pooled"
BASE = ("seed", "template", "backbone", "data", "domains", "shared", "losses", "dao", "stages.shared")
OF_EXPERTS = (*BASE, "lora", "stages.expert")
OF_MERGE = (*OF_EXPERTS, "heads", "gate")
STEPS: dict[str, tuple[Sequence[str], Callable[[Workspace], object]]] = {
    "shared": (BASE, lambda work: train_shared(work) if work.run.shared else None),
    POOLED: (OF_EXPERTS, train_pooled),
    "experts": (OF_EXPERTS, train_experts),
    "merged": (OF_MERGE, merge_experts),
    "warmup": ((*OF_MERGE, "stages.warmup"), train_warmup),
    "joint": ((*OF_MERGE, "stages.warmup", "stages.joint"), train_joint),
}
"""By step: the settings that it depends on, and what it does."""


def measure_tfidf(run: CaseRun) -> Result:
    """TF-IDF of words and characters, regularized as validation rows choose, and the ridge regression of scores."""
    work = Workspace(run.settings([]), run.folder / "tfidf", run.folder / "rows")
    start, space = perf_counter(), work.run.label_space()
    splits = [work.rows(split) for split in ("train", "test", "validation")]
    results = baseline_results(splits[0], splits[1], space, "tfidf", splits[2])
    predictions = {}
    for task, result in results.items():
        assert result.predictions is not None
        names = [*space.tasks[task]]
        sides = (result.predictions.true, result.predictions.predicted[0])
        predictions[task] = [[names[i] for i in side] for side in sides]
    return {"predictions": predictions, "minutes": (perf_counter() - start) / 60}


def measure_fresh(run: CaseRun) -> Result:
    """Each domain's expert from fresh weights."""
    return evaluate_experts(*run.after("experts", [*run.args.sets, *FRESH]))


def evaluate_experts(work: Workspace, minutes: float) -> Result:
    """Evaluate each domain's expert on its test rows."""
    rows: list[PredictedRow] = []
    for domain in work.run.domains:
        model, run = load_single_expert(work.expert_folder(domain))
        predictor = TorchPredictor(model, run.template, run.backbone.resolved_length)
        rows += evaluate_rows(predictor, work.rows("test", [domain]))
    return as_result(rows, minutes)


def measure_shared(run: CaseRun) -> Result:
    """The shared expert alone, on all domains; nothing if the recipe has none."""
    work, minutes = run.after("shared")
    if work.shared_folder is None:
        return {}
    model, settings = load_single_expert(work.shared_folder)
    predictor = TorchPredictor(model, settings.template, settings.backbone.resolved_length)
    return as_result(evaluate_rows(predictor, work.rows("test")), minutes)


def measure_pooled(run: CaseRun) -> Result:
    """One LoRA of the mixture's total rank, trained on all domains from the same start."""
    work, minutes = run.after(POOLED)
    model, settings = load_single_expert(work.pooled_folder)
    predictor = TorchPredictor(model, settings.template, settings.backbone.resolved_length)
    return as_result(evaluate_rows(predictor, work.rows("test")), minutes)


def measure_mixture(step: str, folder: str | None, pinned: bool = False) -> Callable[[CaseRun], Result]:
    """Return a function that measures the mixture after a step, routed or with each row's domain given.

    Args:
        folder: of the mixture; the one chosen by validation if None.
    """

    def measure(run: CaseRun) -> Result:
        work, minutes = run.after(step)
        model, card = read_mixture(work.out / folder if folder else best_model(work.out))
        predictor = TorchPredictor(model, card.template, card.backbone_settings.resolved_length)
        rows = evaluate_rows(predictor, work.rows("test"), pin=pinned)
        return as_result(rows, minutes, None if pinned else model)

    return measure


def as_result(rows: Sequence[PredictedRow], minutes: float, mixture: Mixture | None = None) -> Result:
    """Predictions by task, predicted scores, and routing."""
    predictions: dict[str, tuple[list[str], list[str]]] = {}
    scores: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        true, predicted = predictions.setdefault(row.row["task"], ([], []))
        true.append(str(row.true))
        predicted.append(row.masked.label)
        if row.row["score"] is not None and row.masked.polarity is not None:
            scores.setdefault(row.row["task"], ([], []))[0].append(row.row["score"])
            scores[row.row["task"]][1].append(row.masked.polarity)
    report = None if mixture is None else routing_report(rows, mixture)
    routing = report and {"accuracy": report.accuracy, "entropy": report.entropy}
    return {"predictions": predictions, "scores": scores, "routing": routing, "minutes": minutes}


MODELS: dict[str, Callable[[CaseRun], Result]] = {
    "TF-IDF": measure_tfidf,
    "own expert, fresh": measure_fresh,
    "shared expert alone": measure_shared,
    "pooled LoRA": measure_pooled,
    "own expert, pinned": lambda run: evaluate_experts(*run.after("experts")),
    "mixture, merged": measure_mixture("merged", MERGED),
    "mixture, warm start": measure_mixture("warmup", WARMUP.folder),
    "mixture, joint": measure_mixture("joint", JOINT.folder),
    "mixture, joint, pinned": measure_mixture("joint", JOINT.folder, pinned=True),
    "mixture": measure_mixture("joint", None),
}
INDEPENDENT = ("TF-IDF",)
"""Models that no recipe changes."""


if __name__ == "__main__":
    torch.set_num_threads(1)
    np.seterr(all="raise")
    main()
