"""A domain that joins a trained mixture: what the old domains lose, and how the new one does, on real text.

Run: `python benchmarks/expert_add.py FOLDER`; it trains what is missing, seed by seed, goes on where it stopped, and
prints the tables of what is there. One domain of the config is kept away from all training of the old mixture.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from predictions import Found, answers, by_domain, every, keep, over_domains, points, read
from quality import CONFIG, alone, asked
from rich.console import Console
from rich.table import Table

from experts.domain import LabelSpace
from moe.bootstrap import TaskPredictions, bootstrap_differences, bootstrap_intervals
from moe.checkpoints.mixture import read_mixture
from moe.config.run import load_run
from moe.config.stages import MERGED, WARMUP
from moe.membership.update import UpdateTarget, add
from moe.runs.workspace import Workspace
from moe.training.steps import merge_experts, train_domain, train_shared, train_stage

OLD, NEW, OWN, TOGETHER = "mixture without it", "the same, it has joined", "its own expert", "all trained together"


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the eight files")
    parser.add_argument("--out", type=Path, default=Path("runs/expert-add"))
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--domain", default="macro", help="the domain that joins")
    parser.add_argument("--seeds", type=int, nargs="*", default=(13,))
    parser.add_argument("--set", dest="sets", action="append", default=[], help="lay a setting over the config")
    parser.add_argument("--print-only", action="store_true")
    args = parser.parse_args()
    for seed in () if args.print_only else args.seeds:
        done = {one["model"] for one in read(args.out, seed)}
        for name, measure in MODELS.items():
            if name not in done:
                keep(args.out, seed, name, measure(Joining(args, seed)))
    space = load_run(args.config, [f"data.folder={args.data}", *args.sets]).label_space()
    show(args.out, space, args.domain)


class Joining:
    """One seed's work: the run of all domains, and that of all but one, in folders of their own."""

    def __init__(self, args: argparse.Namespace, seed: int) -> None:
        run = load_run(args.config, [f"data.folder={args.data}", f"seed={seed}", *args.sets])
        others = {name: one for name, one in run.domains.items() if name != args.domain}
        self.domain, rows = args.domain, args.out / "rows"
        self.together = Workspace(run, args.out / str(seed) / "together", rows)
        self.old = Workspace(run.model_copy(update={"domains": others}), args.out / str(seed) / "without", rows)
        self.joining = Workspace(run, self.old.out, rows)
        """All domains, in the folder of the old mixture, on whose shared expert the new one learns."""

    def mixture(self, work: Workspace) -> Path:
        """A warm-started mixture of a run's domains, trained as far as it is not there."""
        train_shared(work, resume=True)
        for name in work.run.domains:
            train_domain(work, name, resume=True)
        if not (work.out / MERGED).is_dir():
            merge_experts(work, [work.expert_folder(name) for name in work.run.domains])
        if not (work.out / WARMUP.folder).is_dir():
            train_stage(work, WARMUP, work.out / MERGED)
        return work.out / WARMUP.folder

    def joined(self) -> Path:
        """The old mixture after the new domain's expert has joined it."""
        out, old = self.old.out / f"with-{self.domain}", self.mixture(self.old)
        train_domain(self.joining, self.domain, resume=True)
        if not out.is_dir():
            target = UpdateTarget(out, resume=True, data_dir=self.joining.data_dir)
            add(old, self.joining.expert_folder(self.domain), self.joining.run, target)
        return out


def judged(work: Workspace, folder: Path) -> Found:
    """What a mixture says of the test rows of a run's domains."""
    model, card = read_mixture(folder)
    return asked(model, work, card.template, card.backbone_settings.max_length, card.metrics.get("macro_f1"))


def own(one: Joining) -> Found:
    """The new domain's expert by itself."""
    train_domain(one.joining, one.domain, resume=True)
    return alone(one.joining, one.domain, [one.domain])


MODELS: dict[str, Callable[[Joining], Found]] = {
    OLD: lambda one: judged(one.old, one.mixture(one.old)),
    NEW: lambda one: judged(one.joining, one.joined()),
    OWN: own,
    TOGETHER: lambda one: judged(one.together, one.mixture(one.together)),
}


def show(out: Path, space: LabelSpace, joined: str) -> None:
    """Macro-F1 by domain, then what it lost or gained against the mixture before, and the others, with intervals."""
    runs = every(out)
    mine = {name: [run for run in runs if run["model"] == name] for name in MODELS}
    found = {name: by_domain(answers(some, space), space) for name, some in mine.items() if some}
    domains = [name for name in dict.fromkeys(space.domain_by_task.values()) if name != joined]
    show_figures(mine, found, [*domains, joined], domains)
    table = Table(title="macro-F1, points, 95 %, paired by row", title_justify="left")
    for name in ("difference", "seeds", *domains, "old domains, mean", joined):
        table.add_column(name)
    for other in (OLD, OWN, TOGETHER):
        if NEW in found and other in found:
            table.add_row(f"{NEW}, less {other}", str(len(mine[NEW])), *_against(found, other, domains, joined))
    Console(width=190).print(table)


def show_figures(
    mine: Mapping[str, Sequence[Mapping[str, Any]]],
    found: Mapping[str, Mapping[str, list[TaskPredictions]]],
    domains: Sequence[str],
    old: Sequence[str],
) -> None:
    """One row a model."""
    table = Table(title="test rows: macro-F1 (accuracy), mean over seeds", title_justify="left")
    for name in ("model", "seeds", *domains, "old domains, mean", "right domain"):
        table.add_column(name)
    for model, groups in found.items():
        figures = {domain: bootstrap_intervals(some) for domain, some in groups.items()}
        cells = [
            f"{figures[d]['macro_f1'].value:.3f} ({figures[d]['accuracy'].value:.3f})" if d in figures else ""
            for d in domains
        ]
        whole = over_domains({d: groups[d] for d in old}) if set(old) <= groups.keys() else None
        routing = [run["routing"] for run in mine[model] if run["routing"] is not None]
        right = f"{sum(routing) / len(routing):.3f}" if routing else ""
        table.add_row(model, str(len(mine[model])), *cells, f"{whole.value:.4f}" if whole else "", right)
    Console(width=190).print(table)


def _against(
    found: Mapping[str, Mapping[str, list[TaskPredictions]]], other: str, domains: Sequence[str], joined: str
) -> list[str]:
    """How the mixture after stands against another model, domain by domain, as far as both answered."""
    ours, theirs = found[NEW], found[other]
    both = {d: (ours[d], theirs[d]) for d in (*domains, joined) if d in ours and d in theirs}
    each = {d: points(bootstrap_differences(*pair)["macro_f1"]) for d, pair in both.items()}
    whole = ""
    if set(domains) <= both.keys():
        whole = points(over_domains({d: ours[d] for d in domains}, {d: theirs[d] for d in domains}))
    return [*(each.get(d, "") for d in domains), whole, each.get(joined, "")]


if __name__ == "__main__":
    main()
