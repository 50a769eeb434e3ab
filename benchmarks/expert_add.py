"""Adding a domain to a trained mixture: what the old domains lose, and how good the new one is, on real text.

Run: `python benchmarks/expert_add.py FOLDER`. It trains what is missing, seed by seed, resumes where it stopped, and
prints the results so far. One domain of the config is left out of all training of the old mixture.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from predictions import (
    SavedResult,
    TestResult,
    append_result,
    format_points,
    group_by_domain,
    mean_over_domains,
    predictions_by_task,
    read_all_results,
    read_results,
)
from quality import CONFIG, evaluate_expert, evaluate_model
from rich.console import Console
from rich.table import Table

from experts.domain import LabelSpace
from moe.bootstrap import TaskPredictions, bootstrap_differences, bootstrap_intervals
from moe.checkpoints.mixture import read_mixture
from moe.config.run import load_run
from moe.config.stages import MERGED, WARMUP
from moe.membership.update import UpdateTarget, add
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.steps import merge_experts, train_stage

OLD, NEW, OWN, TOGETHER = "mixture without it", "the same, it has joined", "its own expert", "all trained together"
"""Names under which results are saved."""
TITLES = {
    OLD: "mixture without {}",
    NEW: "the same, with {} added",
    OWN: "{}'s expert on its own",
    TOGETHER: "all domains trained together",
}
"""Titles in the printed tables; `{}` is the added domain."""
Groups = Mapping[str, list[TaskPredictions]]
"""Predictions of a model by domain."""


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the eight files")
    parser.add_argument("--out", type=Path, default=Path("runs/expert-add"))
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--domain", default="macro", help="the domain to add")
    parser.add_argument("--seeds", type=int, nargs="*", default=(13,))
    parser.add_argument("--set", dest="sets", action="append", default=[], help="override a setting, as KEY=VALUE")
    parser.add_argument("--print-only", action="store_true")
    args = parser.parse_args()
    for seed in () if args.print_only else args.seeds:
        finished = {result["model"] for result in read_results(args.out, seed)}
        for name, measure in MODELS.items():
            if name not in finished:
                append_result(args.out, seed, name, measure(AddedDomain(args, seed)))
    space = load_run(args.config, [f"data.folder={args.data}", *args.sets]).label_space()
    print_results(args.out, space, args.domain)


class AddedDomain:
    """One seed's runs: with all domains trained together, and without the added domain.

    Attributes:
        together: the run of all domains.
        old: the run without the added domain.
        extended: all domains, in the folder of the old mixture, on whose shared expert the new expert is trained.
    """

    def __init__(self, args: argparse.Namespace, seed: int) -> None:
        run = load_run(args.config, [f"data.folder={args.data}", f"seed={seed}", *args.sets])
        others = {name: settings for name, settings in run.domains.items() if name != args.domain}
        self.domain, rows = args.domain, args.out / "rows"
        self.together = Workspace(run, args.out / str(seed) / "together", rows)
        self.old = Workspace(run.model_copy(update={"domains": others}), args.out / str(seed) / "without", rows)
        self.extended = Workspace(run, self.old.out, rows)

    def train_mixture(self, work: Workspace) -> Path:
        """Train the warm-started mixture of a run where it is not finished, and return its folder."""
        train_shared(work, resume=True)
        for name in work.run.domains:
            train_domain(work, name, resume=True)
        if not (work.out / MERGED).is_dir():
            merge_experts(work, [work.expert_folder(name) for name in work.run.domains])
        if not (work.out / WARMUP.folder).is_dir():
            train_stage(work, WARMUP, work.out / MERGED)
        return work.out / WARMUP.folder

    def add_expert(self) -> Path:
        """Train the new domain's expert, add it to the old mixture, and return the new mixture's folder."""
        out, old = self.old.out / f"with-{self.domain}", self.train_mixture(self.old)
        train_domain(self.extended, self.domain, resume=True)
        if not out.is_dir():
            target = UpdateTarget(out, resume=True, data_dir=self.extended.data_dir)
            add(old, self.extended.expert_folder(self.domain), self.extended.run, target)
        return out


def evaluate_mixture(work: Workspace, folder: Path) -> TestResult:
    """Evaluate a mixture on the test rows of a run's domains."""
    model, card = read_mixture(folder)
    max_length = card.backbone_settings.resolved_length
    return evaluate_model(model, work, card.template, max_length, card.metrics.get("macro_f1"))


def evaluate_new_expert(runs: AddedDomain) -> TestResult:
    """Evaluate the new domain's expert on its own."""
    train_domain(runs.extended, runs.domain, resume=True)
    return evaluate_expert(runs.extended, runs.domain, [runs.domain])


MODELS: dict[str, Callable[[AddedDomain], TestResult]] = {
    OLD: lambda runs: evaluate_mixture(runs.old, runs.train_mixture(runs.old)),
    NEW: lambda runs: evaluate_mixture(runs.extended, runs.add_expert()),
    OWN: evaluate_new_expert,
    TOGETHER: lambda runs: evaluate_mixture(runs.together, runs.train_mixture(runs.together)),
}


def print_results(out: Path, space: LabelSpace, added: str) -> None:
    """Print macro-F1 by domain, then the differences of the extended mixture from the other models, with intervals."""
    saved = read_all_results(out)
    results = {name: [result for result in saved if result["model"] == name] for name in MODELS}
    groups = {
        name: group_by_domain(predictions_by_task(seeds, space), space) for name, seeds in results.items() if seeds
    }
    titles = {name: title.format(added) for name, title in TITLES.items()}
    old = [name for name in dict.fromkeys(space.domain_by_task.values()) if name != added]
    print_metrics(titles, results, groups, [*old, added], old)
    table = Table(title="macro-F1, points, 95 %, paired by row", title_justify="left")
    for column in ("difference", "seeds", *old, "old domains, mean", added):
        table.add_column(column)
    for other in (OLD, OWN, TOGETHER):
        if NEW in groups and other in groups:
            cells = _differences(groups[NEW], groups[other], old, added)
            table.add_row(f"{titles[NEW]}, minus {titles[other]}", str(len(results[NEW])), *cells)
    Console(width=190).print(table)


def print_metrics(
    titles: Mapping[str, str],
    results: Mapping[str, Sequence[SavedResult]],
    groups: Mapping[str, Groups],
    domains: Sequence[str],
    old: Sequence[str],
) -> None:
    """Print one row per model: macro-F1 and accuracy by domain, the mean over the old domains, domain accuracy."""
    table = Table(title="test rows: macro-F1 (accuracy), mean over seeds", title_justify="left")
    for column in ("model", "seeds", *domains, "old domains, mean", "right domain"):
        table.add_column(column)
    for model, by_domain in groups.items():
        metrics = {domain: bootstrap_intervals(tasks) for domain, tasks in by_domain.items()}
        cells = [
            f"{metrics[d]['macro_f1'].value:.3f} ({metrics[d]['accuracy'].value:.3f})" if d in metrics else ""
            for d in domains
        ]
        complete = set(old) <= by_domain.keys()
        mean = f"{mean_over_domains({d: by_domain[d] for d in old}).value:.4f}" if complete else ""
        routing = [result["routing"] for result in results[model] if result["routing"] is not None]
        right = f"{sum(routing) / len(routing):.3f}" if routing else ""
        table.add_row(titles[model], str(len(results[model])), *cells, mean, right)
    Console(width=190).print(table)


def _differences(ours: Groups, theirs: Groups, old: Sequence[str], added: str) -> list[str]:
    """Format the differences on the domains that both models predict, and on the mean of the old domains."""
    pairs = {d: (ours[d], theirs[d]) for d in (*old, added) if d in ours and d in theirs}
    cells = {d: format_points(bootstrap_differences(*pair)["macro_f1"]) for d, pair in pairs.items()}
    mean = ""
    if set(old) <= pairs.keys():
        mean = format_points(mean_over_domains({d: ours[d] for d in old}, {d: theirs[d] for d in old}))
    return [*(cells.get(d, "") for d in old), mean, cells.get(added, "")]


if __name__ == "__main__":
    main()
