"""Conflict of labels: two desks with one label set that label alike phrases oppositely, and a natural case.

Run: `python benchmarks/conflict.py FOLDER`, with fpb.csv and gold_headlines.csv in FOLDER. The rows of fpb go to two
desks at random. In desk B, `negative` and `positive` are exchanged in a share c of the rows that contain a phrase of
`PHRASES`, in training, validation and test rows alike: phrase by phrase from the most frequent one on (`--flip row`: in
random rows). In the natural case, one desk is fpb (what is good for a company) and the other gold_headlines (the price
of gold).

Models, all with the same rows, each counted as often as it is read, and the same total rank: one pooled LoRA; the same
with the desk's name before each text; the same with a head for each desk; and a mixture with the default recipe,
routed by the text, or with the desk given (`--data-type`). Both tasks have the same labels, so they share one head,
of which each expert of the mixture has its own copy. The mixture with the desk given is also measured before its
router is trained, and all three with a head for each desk. Last, a mixture without a shared expert, whose experts are
trained apart, with the desk given. The benchmark resumes where it stopped, and prints the results so far.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accuracy_table import format_interval, means, of_seeds, seeds_of
from conflict_rows import CASES, LABELS, NATURAL, desks_of, read_case, write_variant
from fair import FULL_PRECISION, pooled_steps, pooled_workspace
from predictions import LabelPairs, SavedResult, TestResult, append_result, format_points, read_all_results
from quality import evaluate_expert, evaluate_model, train_mixture
from rich.console import Console
from rich.table import Table

from experts.domain import Domain, LabelSpace
from moe.checkpoints.mixture import read_mixture
from moe.config.run import RunSettings, load_run
from moe.config.stages import MERGED
from moe.runs.best import best_model
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.steps import merge_experts

SEEDS = (13, 42, 87)
Results = dict[str, TestResult]
"""By the name of a model in the tables."""


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with the two files")
    parser.add_argument("--out", type=Path, default=Path("runs/conflict"))
    parser.add_argument("--cases", nargs="*", choices=CASES, default=CASES, help="shares c, and the natural case")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--models", nargs="*", choices=TRAININGS, default=list(TRAININGS), help="only these models")
    parser.add_argument("--flip", choices=("phrase", "row"), default="phrase", help="order in which rows are flipped")
    parser.add_argument("--rows", type=int, help="at most this many rows of each file, for a trial")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="override a setting, as KEY=VALUE")
    parser.add_argument("--print-only", action="store_true")
    args = parser.parse_args()
    for case in () if args.print_only else args.cases:
        for seed in args.seeds:
            for model in args.models:
                measure_missing(CaseRun(args, case, seed), model)
    print_results(read_all_results(args.out))


@dataclass(frozen=True)
class CaseRun:
    """A case with a seed of training; the rows are the same for all seeds."""

    args: argparse.Namespace
    case: str
    seed: int

    def config(self, variant: str) -> tuple[Path, list[str]]:
        """Write the files and the config of a variant, unless they are there, and return it with overrides.

        Args:
            variant: `plain`, `named` (the desk's name is before each text) or `heads` (a head for each desk).
        """
        folder = Path(self.args.out) / "data" / self.case / variant
        config = folder / "config.yaml"
        if not config.is_file():
            write_variant(folder, read_case(self.args, self.case), variant)
        return config, [f"seed={self.seed}", *FULL_PRECISION, *self.args.sets]

    def folder(self, model: str) -> Path:
        """Folder of a model's training."""
        return Path(self.args.out) / f"{self.seed}-{self.case}-{model}"


def label_space(case: str) -> LabelSpace:
    """Return the label space of a case."""
    return LabelSpace.from_domains([Domain(desk, {desk: LABELS}) for desk in desks_of(case)])


def measure_missing(run: CaseRun, training: str) -> None:
    """Train a model and predict the test rows in every way, unless the results are there."""
    names, measure = TRAININGS[training]
    finished = {result["model"] for result in read_all_results(run.args.out) if result["seed"] == run.seed}
    if all(f"{run.case}/{name}" in finished for name in names):
        return
    print(f"c = {run.case}, {training}, seed {run.seed}", flush=True)
    for name, result in measure(run).items():
        if f"{run.case}/{name}" not in finished:
            append_result(run.args.out, run.seed, f"{run.case}/{name}", result)


def pooled(variant: str, name: str) -> Callable[[CaseRun], Results]:
    """Return a function that measures one pooled LoRA of the mixture's total rank on a variant."""

    def measure(run: CaseRun) -> Results:
        config, sets = run.config(variant)
        rank, scale = total_rank(load_run(config, sets))
        sets += [f"shared.r={rank}", f"shared.alpha={scale * rank:g}"]
        work = pooled_workspace(config, sets, run.folder(variant), rows_folder(run, variant))
        train_shared(work, resume=True)
        result = evaluate_expert(work, "shared")
        return {name: TestResult(own_labels(result.pairs), validation=result.validation)}

    return measure


def total_rank(settings: RunSettings) -> tuple[int, float]:
    """Return the rank of the shared expert and all experts together, and alpha as a multiple of the shared one's."""
    assert settings.shared is not None
    experts = sum(domain.experts for domain in settings.domains.values())
    return settings.shared.r + experts * settings.lora.r, settings.shared.alpha / settings.shared.r


def own_labels(pairs: LabelPairs) -> LabelPairs:
    """Return predictions with the labels of the files: without the desk's name, which a head for each desk needs."""
    return {
        task: ([name.removeprefix(f"{task}-") for name in true], [name.removeprefix(f"{task}-") for name in predicted])
        for task, (true, predicted) in pairs.items()
    }


def rows_folder(run: CaseRun, variant: str) -> Path:
    """Folder of the prepared rows of a case and variant."""
    return Path(run.args.out) / "rows" / run.case / variant


def mixture(variant: str, folder: str, routed: str, given: str, merged: str) -> Callable[[CaseRun], Results]:
    """Return a function that measures the mixture with the default recipe on a variant.

    Args:
        variant: `plain` or `heads`; with `heads`, the desk chooses the head even where the text chooses the expert.
        folder: name of the training's folder.
        routed: name of the result with gates from the text.
        given: name of the result with the desk given.
        merged: the same before the router is trained.
    """

    def measure(run: CaseRun) -> Results:
        config, sets = run.config(variant)
        work = Workspace(load_run(config, sets), run.folder(folder), rows_folder(run, variant))
        train_mixture(work)
        best = best_model(work.out)
        return {
            routed: evaluate_mixture(work, best, pin=False),
            given: evaluate_mixture(work, best, pin=True),
            merged: evaluate_mixture(work, work.out / MERGED, pin=True),
        }

    return measure


def measure_apart(run: CaseRun) -> Results:
    """Measure experts that are trained apart from fresh weights and merged, with the desk given.

    They have the total rank and read the rows of the other models, with the shared expert's rates.
    """
    config, sets = run.config("plain")
    settings = load_run(config, sets)
    rank, scale = total_rank(settings)
    own, shared, desks = rank // len(settings.domains), settings.stages.shared, len(settings.domains)
    steps, _ = pooled_steps(Workspace(settings, run.folder("apart"), rows_folder(run, "plain")))
    sets += ["shared=null", f"lora.r={own}", f"lora.alpha={scale * own:g}", f"lora.dropout={settings.lora.dropout}"]
    sets += [f"stages.expert.{name}={getattr(shared, name)}" for name in ("batch_size", "lr", "head_lr", "evals")]
    sets += [f"stages.expert.steps={steps // desks}"]
    work = Workspace(load_run(config, sets), run.folder("apart"), rows_folder(run, "plain"))
    for desk in work.run.domains:
        train_domain(work, desk, resume=True)
    if not (work.out / MERGED).is_dir():
        merge_experts(work)
    return {APART_GIVEN: evaluate_mixture(work, work.out / MERGED, pin=True)}


def evaluate_mixture(work: Workspace, folder: Path, *, pin: bool) -> TestResult:
    """Evaluate a mixture on the test rows, with the desk given or routed by the text."""
    model, card = read_mixture(folder)
    validation = None if pin else card.metrics.get("macro_f1")
    result = evaluate_model(model, work, card.template, card.backbone_settings.resolved_length, validation, pin=pin)
    return replace(result, pairs=own_labels(result.pairs))


POOLED, NAMED, HEADS = "pooled", "pooled, name in text", "pooled, head per desk"
ROUTED, GIVEN, MERGED_GIVEN = "mixture, routed", "mixture, desk given", "mixture, merged only, desk given"
HEADS_ROUTED, HEADS_GIVEN = "mixture, head per desk", "mixture, head per desk, desk given"
HEADS_MERGED = "mixture, head per desk, merged only, desk given"
APART_GIVEN = "experts trained apart, desk given"
TRAININGS: dict[str, tuple[tuple[str, ...], Callable[[CaseRun], Results]]] = {
    "pooled": ((POOLED,), pooled("plain", POOLED)),
    "named": ((NAMED,), pooled("named", NAMED)),
    "heads": ((HEADS,), pooled("heads", HEADS)),
    "mixture": ((ROUTED, GIVEN, MERGED_GIVEN), mixture("plain", "mixture", ROUTED, GIVEN, MERGED_GIVEN)),
    "mixture_heads": (
        (HEADS_ROUTED, HEADS_GIVEN, HEADS_MERGED),
        mixture("heads", "mixture-heads", HEADS_ROUTED, HEADS_GIVEN, HEADS_MERGED),
    ),
    "apart": ((APART_GIVEN,), measure_apart),
}
"""By training: the models that it yields, and what trains and measures them."""
MODELS = tuple(name for names, _ in TRAININGS.values() for name in names)


def print_results(results: Sequence[SavedResult]) -> None:
    """Print macro-F1 by desk for every case, the mixture's leads, and the smallest c at which it leads."""
    console = Console(width=170)
    leads: dict[tuple[str, str], list[str]] = {}
    for case in CASES:
        models = {name: [r for r in results if r["model"] == f"{case}/{name}"] for name in MODELS}
        models = {name: own for name, own in models.items() if own}
        if not models:
            continue
        space = label_space(case)
        title = f"c = {case}: test macro-F1, mean over seeds; 95 % over rows and seeds" if case != NATURAL else case
        table = Table(title=title, title_justify="left")
        for column in ("model", "seeds", *desks_of(case), "mean", "right desk"):
            table.add_column(column)
        for name, own in models.items():
            intervals = means(own, None, space, ())
            routing = [result["routing"] for result in own if name == ROUTED and result["routing"] is not None]
            right = f"{sum(routing) / len(routing):.3f}" if routing else ""
            cells = [format_interval(interval) for interval in intervals.values()]
            table.add_row(name, ", ".join(map(str, seeds_of(own))), *cells, right)
        console.print(table)
        table = Table(title="leads in points, 95 % over rows and seeds", title_justify="left")
        for column in ("model", "minus", *desks_of(case), "mean"):
            table.add_column(column)
        for ours in (name for name in MODELS if name != HEADS):
            for theirs in (HEADS,) if ours in (POOLED, NAMED) else (POOLED, NAMED, HEADS):
                shared = set(seeds_of(models.get(ours, []))) & set(seeds_of(models.get(theirs, [])))
                if not shared:
                    continue
                lead = means(of_seeds(models[ours], shared), of_seeds(models[theirs], shared), space, ())
                table.add_row(ours, theirs, *(format_points(difference) for difference in lead.values()))
                leads.setdefault((ours, theirs), [])
                if case != NATURAL and lead["mean"].low > 0:
                    leads[ours, theirs].append(case)
        console.print(table)
    for (ours, theirs), shares in leads.items():
        smallest = f"from c = {shares[0]}" if shares else "at no c"
        console.print(f"{ours} leads {theirs} by more than its interval {smallest}")


if __name__ == "__main__":
    main()
