"""Training recipes for the pooled LoRA and for the mixture, on five real domains: dropout and rsLoRA.

Run: `python benchmarks/training_recipes.py FOLDER`. It trains what is missing, resumes where it stopped, and prints the
results so far. A recipe changes all stages that train experts. It wins if it is better on validation rows with every
seed, in the mean without the domains at chance level; test rows decide nothing. `--rows`, `--seeds` and `--models`
select parts, which may run side by side with an `--out` of their own; `--print-only` reads `--out` and the folders in
it. `--prepared` names a folder of prepared rows that such parts may share.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from datasets import Dataset
from predictions import append_line, format_points, group_by_domain, mean_over_domains, predictions_by_task, read_lines
from rich.console import Console
from rich.table import Table
from row_limits import add_most_rows, limit_by_option

from experts.atomic_io import read_json
from experts.domain import LabelSpace
from experts.expert_io import METRICS
from moe.bootstrap import Interval
from moe.checkpoints.expert import load_single_expert
from moe.checkpoints.mixture import read_mixture
from moe.config.run import load_run
from moe.data.sampler import subsample_per_domain
from moe.evaluation.evaluate import evaluate_rows, routing_report
from moe.inference.torch_predictor import TorchPredictor
from moe.model.mixture import Mixture
from moe.runs.best import best_model
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.pooled import train_pooled
from moe.training.steps import merge_experts, train_router

CONFIG = Path(__file__).parent.parent / "configs" / "real" / "five_domains.yaml"
SEEDS = (13, 42, 87)
CHANCE = ("quant",)
"""Domains at chance level, without which the means are given, too."""
CUTS: tuple[tuple[str, ...], ...] = ((), CHANCE)
"""Domains that are left out of a mean: none, and those at chance level."""
Result = dict[str, Any]
Evaluate = Callable[[Dataset], Result]
"""Evaluates a trained model on rows of the test split."""


def of_adapters(*settings: str) -> list[str]:
    """Overrides of settings of the experts and of the shared expert, which the pooled LoRA has, too."""
    return [f"{adapter}.{setting}" for adapter in ("lora", "shared") for setting in settings]


PLAIN = "plain"
ROWS: dict[str, list[str]] = {
    PLAIN: [],
    "dropout": of_adapters("dropout=0.1"),
    "rslora": of_adapters("rslora=true"),
}
"""Overrides of the config, by row."""


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the eight files of the config")
    parser.add_argument("--out", type=Path, default=Path("runs/training_recipes"))
    parser.add_argument("--prepared", type=Path, help="folder of prepared rows; by default in --out")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--set", dest="sets", action="append", default=[], help="override a setting, as KEY=VALUE")
    add_most_rows(parser)
    parser.add_argument("--most-test", type=int, help="most test rows of a domain, for a quick run")
    parser.add_argument("--print-only", action="store_true")
    args = parser.parse_args()
    limit_by_option(args)
    for row in () if args.print_only else args.rows:
        for seed in args.seeds:
            for model in args.models:
                if (row, seed, model) not in {key(result) for result in read_results(args.out)}:
                    result = {"row": row, "seed": seed, "model": model} | measure(args, row, seed, model)
                    append_line(args.out / "results.jsonl", result)
    print_results(read_results(args.out), load_run(args.config).label_space())


def key(result: Result) -> tuple[str, int, str]:
    """Row, seed and model of a result."""
    return result["row"], result["seed"], result["model"]


def read_results(out: Path) -> list[Result]:
    """Return the results in a folder and the folders in it, one of each row, seed and model."""
    results = [result for path in sorted(out.rglob("results.jsonl")) for result in read_lines(path)]
    return list({key(result): result for result in results}.values())


def measure(args: argparse.Namespace, row: str, seed: int, model: str) -> Result:
    """Train a model by a recipe, and evaluate it."""
    fixed = [f"data.folder={args.data}", f"seed={seed}", "backbone.dtype=float32", "track=[]"]
    run = load_run(args.config, [*fixed, *args.sets, *ROWS[row]])
    work = Workspace(run, args.out / f"{model}-{row}-{seed}", args.prepared or args.out / "rows")
    work.rows("train")  # prepared before the clock starts
    start = perf_counter()
    evaluate = MODELS[model](work)
    minutes = (perf_counter() - start) / 60
    rows = work.rows("test")
    return evaluate(rows if args.most_test is None else subsample_per_domain(rows, args.most_test, 0)) | {
        "minutes": minutes
    }


def train_pooled_lora(work: Workspace) -> Evaluate:
    """Train one LoRA of the mixture's total rank on all domains, and return what evaluates it."""
    folder = train_pooled(work, resume=True)

    def evaluate(rows: Dataset) -> Result:
        model, run = load_single_expert(folder)
        validation = read_json(folder / METRICS)["best"]
        return evaluate_model(model, run.template, run.backbone.resolved_length, rows, validation)

    return evaluate


def train_mixture(work: Workspace) -> Evaluate:
    """Train the shared expert, the experts on top of it and the router, and return what evaluates the best mixture."""
    train_shared(work, resume=True)
    for domain in work.run.domains:
        train_domain(work, domain, resume=True)
    merge_experts(work, resume=True)
    train_router(work, resume=True)

    def evaluate(rows: Dataset) -> Result:
        model, card = read_mixture(best_model(work.out))
        return evaluate_model(model, card.template, card.backbone_settings.resolved_length, rows, card.metrics)

    return evaluate


MODELS: dict[str, Callable[[Workspace], Evaluate]] = {
    "pooled": train_pooled_lora,
    "mixture": train_mixture,
}


def evaluate_model(
    model: Mixture, template: str, max_length: int, rows: Dataset, validation: Mapping[str, float]
) -> Result:
    """Predict the labelled rows of the test split, each in its own task.

    Args:
        rows: of the test split.
        validation: metrics on validation rows, to be stored with the result.
    """
    predictor = TorchPredictor(model, template, max_length)
    evaluated = [row for row in evaluate_rows(predictor, rows) if row.true is not None]
    pairs: dict[str, tuple[list[str], list[str]]] = {}
    for row in evaluated:
        true, predicted = pairs.setdefault(row.row["task"], ([], []))
        true.append(str(row.true))
        predicted.append(row.masked.label)
    routing = None if model.gate is None else routing_report(evaluated, model).accuracy
    scores = {name: value for name, value in validation.items() if name.endswith("macro_f1")}
    return {"predictions": pairs, "validation": scores, "routing": routing, "device": model.backbone.device.type}


def validation_mean(result: Result, space: LabelSpace, without: Sequence[str] = ()) -> float:
    """Mean macro-F1 on validation rows over domains, a domain being the mean of its tasks."""
    domains: dict[str, list[float]] = {}
    for task, domain in space.domain_by_task.items():
        if domain not in without:
            domains.setdefault(domain, []).append(result["validation"][f"{task}_macro_f1"])
    return float(np.mean([np.mean(scores) for scores in domains.values()]))


def print_results(results: Sequence[Result], space: LabelSpace) -> None:
    """Print a table of each model: validation and test macro-F1, and the differences from the plain recipe."""
    for model in MODELS:
        rows = {row: [result for result in results if key(result)[::2] == (row, model)] for row in ROWS}
        rows = {row: seeds for row, seeds in rows.items() if seeds}
        if rows:
            Console(width=190).print(build_table(model, rows, space))


def build_table(model: str, rows: Mapping[str, Sequence[Result]], space: LabelSpace) -> Table:
    """Build the table of one model.

    Args:
        rows: results of all seeds, by row.
    """
    devices = sorted({result["device"] for seeds in rows.values() for result in seeds})
    title = f"{model}: macro-F1, mean over domains (without {', '.join(CHANCE)}); trained on {', '.join(devices)}"
    table = Table(title=title, title_justify="left")
    for column in (
        "row",
        "seeds",
        "validation",
        "minus plain, points, by seed",
        "test",
        "minus plain, 95 %",
        "minutes",
    ):
        table.add_column(column)
    plain = {result["seed"]: result for result in rows.get(PLAIN, ())}
    for row, seeds in rows.items():
        both = [result for result in seeds if result["seed"] in plain and row != PLAIN]
        gains = [
            [100 * (validation_mean(result, space, w) - validation_mean(plain[result["seed"]], space, w)) for w in CUTS]
            for result in both
        ]
        validation = [np.mean([validation_mean(result, space, without) for result in seeds]) for without in CUTS]
        test = [over_domains(seeds, (), space, without).value for without in CUTS]
        table.add_row(
            row,
            ", ".join(str(result["seed"]) for result in seeds),
            f"{validation[0]:.4f} ({validation[1]:.4f})",
            format_gains(gains) if gains else "",
            f"{test[0]:.4f} ({test[1]:.4f})",
            format_points(over_domains(both, [plain[result["seed"]] for result in both], space)) if both else "",
            f"{np.mean([result['minutes'] for result in seeds]):.1f}",
        )
    return table


def format_gains(gains: Sequence[Sequence[float]]) -> str:
    """Format the mean difference, and that without the domains at chance level with the differences of each seed."""
    means = np.mean(gains, axis=0)
    return f"{means[0]:+.2f} ({means[1]:+.2f}: {', '.join(f'{gain[1]:+.2f}' for gain in gains)})"


def over_domains(
    ours: Sequence[Result], theirs: Sequence[Result], space: LabelSpace, without: Sequence[str] = ()
) -> Interval:
    """Mean macro-F1 on test rows over domains, or its difference from the results of others, if there are any."""
    groups = [group_by_domain(predictions_by_task(side, space), space) for side in (ours, theirs) if side]
    return mean_over_domains(
        *({name: tasks for name, tasks in group.items() if name not in without} for group in groups)
    )


if __name__ == "__main__":
    main()
