"""Mixture against pooled LoRA under equal conditions: rank and rate of both tuned by one budget, eight seeds each.

Run: `python benchmarks/fair.py FOLDER`, with the files of configs/real/five_domains.yaml in FOLDER. `--part tune`
trains both models with two total ranks and three rates on one seed; the best of each by mean macro-F1 on validation
rows is its setting. `--part main` trains both with their settings on eight seeds. The pooled LoRA reads as many rows as
all stages of the mixture together, each counted as often as it is read. It resumes where it stopped, and prints the
results so far. Parts may run as separate processes with different `--out` folders below one folder, which `--tuned` and
`--print-only` read; `--part prepare` fills the folder `--prepared` that they then share.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accuracy_table import print_accuracy, seeds_of
from predictions import SavedResult, TestResult, append_result, read_all_results
from quality import evaluate_expert, evaluate_model, train_mixture

from moe.checkpoints.mixture import read_mixture
from moe.config.run import load_run
from moe.runs.best import best_model
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_shared
from moe.training.pooled import rows_read

CONFIG = Path(__file__).parent.parent / "configs" / "real" / "five_domains.yaml"
SEEDS = (13, 42, 87, 1, 2, 3, 4, 5)
TUNING_SEED = 13
RANKS, RATES = (60, 120), (5e-4, 1e-3, 2e-3)
"""Total ranks, and learning rates of the shared expert or the pooled LoRA."""
MIXTURE, POOLED = "mixture", "pooled"
FULL_PRECISION = ("backbone.dtype=float32", "track=[]")


@dataclass(frozen=True)
class Setting:
    """A model with its total rank and rate.

    Args:
        model: `mixture` or `pooled`.
        rank: total rank; of a mixture, two thirds are the shared expert's.
        lr: rate of the shared expert or the pooled LoRA; the other stages' rates of a mixture change by its factor.
    """

    model: str
    rank: int
    lr: float

    @property
    def name(self) -> str:
        """Name of its results."""
        return f"{self.model}, r {self.rank}, lr {self.lr:g}"

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return f"{self.model}-{self.rank}-{self.lr:g}"


GRID = tuple(Setting(model, rank, lr) for model in (MIXTURE, POOLED) for rank in RANKS for lr in RATES)


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the eight files")
    parser.add_argument("--out", type=Path, default=Path("runs/fair"))
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--prepared", type=Path, help="folder of prepared rows; processes may share a filled one")
    parser.add_argument("--part", choices=("prepare", "tune", "main", "all"), default="all")
    parser.add_argument("--model", choices=(MIXTURE, POOLED), help="only this model")
    parser.add_argument("--rank", type=int, help="only this total rank; with --lr in part main: instead of the tuned")
    parser.add_argument("--lr", type=float, help="only this rate; with --rank in part main: instead of the tuned one")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS, help="seeds of part main")
    parser.add_argument("--tuned", type=Path, help="folder with the results of part tune; --out by default")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="override a setting, as KEY=VALUE")
    parser.add_argument("--print-only", action="store_true")
    args = parser.parse_args()
    if args.part == "prepare":
        workspace(args, GRID[0], TUNING_SEED).rows("train")
        return
    if not args.print_only:
        if args.part in ("tune", "all"):
            for setting in chosen_settings(args):
                measure_missing(args, setting, TUNING_SEED)
        if args.part in ("main", "all"):
            for setting in main_settings(args):
                for seed in args.seeds:
                    measure_missing(args, setting, seed)
    print_results(args)


def chosen_settings(args: argparse.Namespace) -> list[Setting]:
    """Return the settings of the grid that the options select."""
    return [
        setting
        for setting in GRID
        if args.model in (None, setting.model) and args.rank in (None, setting.rank) and args.lr in (None, setting.lr)
    ]


def main_settings(args: argparse.Namespace) -> list[Setting]:
    """Return the setting of each model: the best on validation rows, or the one that the options name."""
    models = [model for model in (MIXTURE, POOLED) if args.model in (None, model)]
    if args.rank is not None and args.lr is not None:
        return [Setting(model, args.rank, args.lr) for model in models]
    results = read_all_results(args.tuned or args.out)
    settings = [best_setting(results, model) for model in models]
    return [setting for setting in settings if setting is not None]


def best_setting(results: Sequence[SavedResult], model: str) -> Setting | None:
    """Return a model's setting with the highest mean macro-F1 on validation rows; None before it is tuned."""
    tuned = {result["model"]: result["validation"] for result in results if result["seed"] == TUNING_SEED}
    own = [setting for setting in GRID if setting.model == model and setting.name in tuned]
    return max(own, key=lambda setting: float(tuned[setting.name]), default=None)


def measure_missing(args: argparse.Namespace, setting: Setting, seed: int) -> None:
    """Train and evaluate a model with a setting and a seed, unless its result is there."""
    finished = {(result["model"], result["seed"]) for result in read_all_results(args.out)}
    if (setting.name, seed) not in finished:
        print(f"{setting.name}, seed {seed}", flush=True)
        append_result(args.out, seed, setting.name, measure(args, setting, seed))


def measure(args: argparse.Namespace, setting: Setting, seed: int) -> TestResult:
    """Train a model, and predict the test rows."""
    work = workspace(args, setting, seed)
    if setting.model == POOLED:
        train_shared(work, resume=True)
        return evaluate_expert(work, "shared")
    train_mixture(work)
    model, card = read_mixture(best_model(work.out))
    return evaluate_model(
        model, work, card.template, card.backbone_settings.resolved_length, card.metrics.get("macro_f1")
    )


def workspace(args: argparse.Namespace, setting: Setting, seed: int) -> Workspace:
    """Return the run of a model."""
    sets = [f"data.folder={args.data}", f"seed={seed}", *FULL_PRECISION, *args.sets]
    folder, rows = args.out / f"{seed}-{setting.folder}", args.prepared or args.out / "rows"
    run = load_run(args.config, sets)
    shared, factor = run.stages.shared, setting.lr / run.stages.shared.lr
    sets += [f"stages.shared.lr={setting.lr:g}", f"stages.shared.head_lr={factor * shared.head_lr:g}"]
    if setting.model == MIXTURE:
        experts = sum(domain.experts for domain in run.domains.values())
        routed = max(1, round(setting.rank / 3 / experts))
        ranks = {"shared": setting.rank - experts * routed, "lora": routed}
        sets += [f"{key}.{name}={value}" for key, r in ranks.items() for name, value in _rank(run, key, r)]
        for name in ("expert", "joint"):
            stage = getattr(run.stages, name)
            sets += [f"stages.{name}.lr={factor * stage.lr:g}", f"stages.{name}.head_lr={factor * stage.head_lr:g}"]
        return Workspace(load_run(args.config, sets), folder, rows)
    sets += [f"shared.{name}={value}" for name, value in _rank(run, "shared", setting.rank)]
    return pooled_workspace(args.config, sets, folder, rows)


def _rank(run: object, key: str, rank: int) -> list[tuple[str, float]]:
    """Overrides of a rank, and of the alpha that keeps the scaling."""
    lora = getattr(run, key)
    return [("r", rank), ("alpha", lora.alpha / lora.r * rank)]


def pooled_workspace(config: Path, sets: Sequence[str], folder: Path, rows: Path) -> Workspace:
    """Return the run of a pooled LoRA, its shared expert, that reads as many rows as all stages of a mixture do."""
    work = Workspace(load_run(config, sets), folder, rows)
    steps, evals = pooled_steps(work)
    counts = (f"stages.shared.{name}={value}" for name, value in (("evals", evals), ("patience", evals)))
    return Workspace(load_run(config, [*sets, f"stages.shared.steps={steps}", *counts]), folder, rows)


def pooled_steps(work: Workspace) -> tuple[int, int]:
    """Return the steps in which the stage `shared` reads as many rows as all stages, and their evaluations."""
    stages, total = work.run.stages, len(work.rows("train"))
    read = sum(rows_read(stage, total) for stage in (stages.shared, stages.warmup, stages.joint))
    for name, domain in work.run.domains.items():
        read += domain.experts * rows_read(stages.expert, len(work.rows("train", [name])))
    batch = stages.shared.batch_size * stages.shared.accumulate
    evals = sum(stage.evals for stage in (stages.shared, stages.expert, stages.warmup, stages.joint))
    return math.ceil(read / batch), evals


def print_results(args: argparse.Namespace) -> None:
    """Print the validation results of the grid, then both models with their tuned settings."""
    results = read_all_results(args.out)
    for setting in GRID:
        for result in results:
            if result["model"] == setting.name and result["seed"] == TUNING_SEED:
                print(f"validation macro-F1, seed {TUNING_SEED}: {result['validation']:.4f}  {setting.name}")
    space = load_run(args.config, [f"data.folder={args.data}", *args.sets]).label_space()
    settings = {model: best_setting(results, model) for model in (MIXTURE, POOLED)}
    names = {model: setting.name if setting else model for model, setting in settings.items()}
    others = [setting.name for setting in GRID if len(seeds_of([r for r in results if r["model"] == setting.name])) > 1]
    titles = {name: name for name in (*names.values(), *others)}
    print_accuracy(results, space, titles, (names[MIXTURE], names[POOLED]))


if __name__ == "__main__":
    main()
