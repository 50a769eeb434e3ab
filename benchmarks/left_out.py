"""A domain that was left out, then 0, 16, 64 and 256 of its rows: which start of a new expert, and which gates, help.

Run: `python benchmarks/left_out.py FOLDER`. One domain of the config is left out of all training: the shared expert and
the experts of the others never read it. Then a new expert is trained on a few of its rows, with weights that as many
validation rows select, and merged with the others.

- 0 rows: the four experts answer the left-out domain's three-way tasks by the head that other domains' tasks have
  (tasks with labels of their own cannot be answered).
- Starts of the new expert: from zero (a LoRA on the bare backbone, of the rank of shared and own expert together,
  without a mixture), from the shared expert (a fresh expert on top of it), from the average of the nearest experts (on
  top of the shared expert, weighted by the share of the new rows that their prototypes take).
- Gates: learned (random start, trained on the other domains' rows and the few new ones), equal, prototype (centroid, no
  training), and the true domain given.

It trains what is missing, resumes where it stopped, and prints the results so far. `--seeds` and `--domains` select
what one process measures; `--print-only` reads `--out` and its sub-folders.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from predictions import LabelPairs, append_line, format_points, join_seeds, mean_over_domains, read_lines
from quality import CONFIG
from rich.console import Console
from rich.table import Table
from row_limits import add_most_rows, limit_by_option
from torch import Tensor

from experts.domain import LabelSpace
from experts.expert_io import read_expert
from moe.bootstrap import TaskPredictions
from moe.checkpoints.expert import load_single_expert
from moe.checkpoints.mixture import read_mixture
from moe.config.run import load_run
from moe.config.stages import EXPERT, MERGED, WARMUP
from moe.data.sampler import subsample_per_domain
from moe.evaluation.evaluate import evaluate_rows, routing_report
from moe.inference.torch_predictor import TorchPredictor
from moe.merging.router_init import read_prototype
from moe.model.mixture import Mixture
from moe.runs.workspace import Workspace
from moe.training.expert_steps import NewExpert, labelled_data, new_expert, train_domain, train_shared
from moe.training.prototypes import mean_states
from moe.training.stage import TrainingData
from moe.training.steps import merge_experts, train_stage
from router.prior import PrototypeSet

SEEDS = (13, 42, 87)
COUNTS = (0, 16, 64, 256)
TEST_ROWS = 1500
"""Most test rows of the left-out domain."""
OLD_ROWS = 1000
"""Rows of each old domain on which a learned gate is trained, and that are taken of its validation rows."""
STEPS = ["stages.warmup.steps=200", "stages.expert.min_steps=60", "stages.expert.evals=2"]
STARTS = ("zero", "shared", "nearest")
GATES_BY_START = {
    "none": ("pooled", "equal", "learned", "prototype"),
    "zero": ("true domain",),
    "shared": ("equal", "learned", "prototype", "true domain"),
    "nearest": ("equal", "learned", "prototype", "true domain"),
}
"""Rows of the table: `pooled` is the shared expert of the other domains on its own."""
ALONE = ("zero", "true domain")
"""Start and gates of the row that the others are compared with: one LoRA on the new rows alone."""
Line = dict[str, Any]


@dataclass(frozen=True)
class LeftOut:
    """The runs of one seed and one domain that is left out.

    Args:
        args: the command line.
        seed: of training, and of the new expert's rows.
        domain: the left-out domain.
    """

    args: argparse.Namespace
    seed: int
    domain: str

    def workspace(self, suffix: str, *sets: str, old_only: bool = False) -> Workspace:
        """Return a run in a folder of its own; prepared rows are shared by all.

        Args:
            suffix: name of the folder inside the domain's.
            sets: overrides of this run.
            old_only: without the left-out domain.
        """
        overrides = [f"data.folder={self.args.data}", f"seed={self.seed}", *STEPS, *self.args.sets, *sets]
        run = load_run(self.args.config, overrides)
        domains = {name: settings for name, settings in run.domains.items() if not (old_only and name == self.domain)}
        out = self.args.out / f"{self.domain}-{self.seed}" / suffix
        return Workspace(run.model_copy(update={"domains": domains}), out, self.args.out / "rows")

    def old_experts(self) -> Workspace:
        """Train the shared expert and the experts of the other domains, where they are not finished."""
        work = self.workspace("old", old_only=True)
        train_shared(work, resume=True)
        for name in work.run.domains:
            train_domain(work, name, resume=True)
        return work

    def few(self, split: str, count: int) -> Dataset:
        """Return some rows of the left-out domain: the first of an order that does not depend on the number."""
        rows = self.workspace("old").rows(split, [self.domain])
        order = np.random.default_rng(self.seed).permutation(len(rows))
        return rows.select(order[:count].tolist())

    def test_rows(self) -> Dataset:
        """Return the left-out domain's labelled test rows; all seeds have the same."""
        return subsample_per_domain(self.workspace("old").rows("test", [self.domain]), TEST_ROWS, 13)

    def train_new(self, start: str, count: int) -> Path:
        """Train the new expert on some rows, where it is not finished, and return its folder."""
        name = f"{start}-{count}"
        if start == "zero":
            work = self.workspace(name, "shared=null", *self.zero_settings())
        else:
            work = self.workspace(name)
            shared = self.old_experts().shared_folder
            assert shared is not None
            assert work.shared_folder is not None
            if not work.shared_folder.exists():
                shutil.copytree(shared, work.shared_folder)
        folder = work.expert_folder(self.domain)
        if not folder.is_dir():
            work.begin()
            domain = next(known for known in work.run.domain_list() if known.name == self.domain)
            new = new_expert(work, EXPERT, domain, self.domain, seed=self.seed)
            few = replace(new.data, rows=self.few("train", count))
            new = replace(new, data=replace(few, held_out={"labelled": self.few("validation", count)}))
            if start == "nearest":
                new.model.bank.load_adapter(self.domain, self.nearest(new))
            new.train(resume=False)
        return folder

    def zero_settings(self) -> list[str]:
        """Settings of a LoRA on the bare backbone: rank and passes of shared and own expert, rates of the shared."""
        run = self.workspace("old").run
        assert run.shared is not None
        rank, expert, shared = run.lora.r + run.shared.r, run.stages.expert, run.stages.shared
        epochs = expert.epochs + shared.epochs
        keys = f"epochs={epochs}", f"lr={shared.lr}", f"head_lr={shared.head_lr}", "evals=4", "min_steps=200"
        return [f"lora.r={rank}", f"lora.alpha={rank}", *(f"stages.expert.{key}" for key in keys)]

    @torch.no_grad()
    def nearest(self, new: NewExpert) -> dict[str, Tensor]:
        """Average the old experts' weights by the share of the new expert's rows that each one's prototype takes."""
        old = self.old_experts()
        experts = [read_expert(old.expert_folder(name)) for name in old.run.domains]
        prototypes = PrototypeSet(len(read_prototype(experts[0]).mean), len(experts))
        prototypes.fill([read_prototype(expert) for expert in experts])
        run = new.work.run
        states = mean_states(new.model, new.data.rows, run.template, run.backbone.resolved_length)  # (N, D)
        scores = torch.as_tensor(states) @ prototypes.weight.T + prototypes.bias  # (N, E)
        weights = scores.softmax(1).mean(0)  # (E,)
        keys = experts[0].weights
        return {key: sum(w * its.weights[key] for w, its in zip(weights, experts, strict=True)) for key in keys}

    def merged(self, router: str, start: str, count: int) -> Workspace:
        """Merge the old experts, with the new expert if it has rows, and return the run with the mixture."""
        old = self.old_experts()
        folders = [old.expert_folder(name) for name in old.run.domains]
        folders += [self.train_new(start, count)] if count else []
        assert old.shared_folder is not None
        suffix = f"{router}-{start}-{count}" if count else router
        work = self.workspace(suffix, f"gate.init={router}", old_only=not count)
        if not (work.out / MERGED).is_dir():
            merge_experts(work, [*folders, old.shared_folder])
        return work

    def learned(self, start: str, count: int) -> Path:
        """Train the gate of a merged mixture from a random start, and return the mixture's folder."""
        work = self.merged("random", start, count)
        if not (work.out / WARMUP.folder).is_dir():
            train_stage(
                work, WARMUP, work.out / MERGED, load_data=lambda work, model: self.gate_data(work, model, count)
            )
        return work.out / WARMUP.folder

    def gate_data(self, work: Workspace, model: Mixture, count: int) -> TrainingData:
        """Return the rows of a learned gate: a sample of each old domain, and the new expert's few."""
        old = [domain.name for domain in model.domains if domain.name != self.domain]
        splits = []
        for split in ("train", "validation"):
            sample = subsample_per_domain(work.rows(split, old), OLD_ROWS if split == "train" else 200, self.seed)
            splits.append(concatenate_datasets([sample, *([self.few(split, count)] if count else [])]))
        return labelled_data(work, model, *splits)


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the eight files")
    parser.add_argument("--out", type=Path, default=Path("runs/left-out"))
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--domains", nargs="*", help="domains to leave out; default: each of the config")
    parser.add_argument("--counts", type=int, nargs="*", default=COUNTS, help="rows of the new expert")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="override a setting, as KEY=VALUE")
    add_most_rows(parser)
    parser.add_argument("--print-only", action="store_true")
    args = parser.parse_args()
    limit_by_option(args)
    run = load_run(args.config, [f"data.folder={args.data}", *args.sets])
    print(f"seeds: {', '.join(map(str, args.seeds))}", flush=True)
    for domain in () if args.print_only else args.domains or run.domains:
        for seed in args.seeds:
            measure(LeftOut(args, seed, domain))
    print_results(args.out, run.label_space(), list(run.domains))


def measure(case: LeftOut) -> None:
    """Measure what has no result yet of one seed and domain."""
    path = case.args.out / f"results-{case.domain}-{case.seed}.jsonl"
    finished = {(line["rows"], line["start"], line["gates"]) for line in read_lines(path)}

    def add(count: int, start: str, gates: str, pairs: LabelPairs, routing: float | None) -> None:
        key = {"seed": case.seed, "left_out": case.domain, "rows": count, "start": start, "gates": gates}
        append_line(path, key | {"predictions": pairs, "routing": routing})

    for count in case.args.counts:
        for start in STARTS if count else ("none",):
            for gates in GATES_BY_START[start]:
                if (count, start, gates) not in finished and (count or answerable(case)):
                    add(count, start, gates, *evaluate_case(case, start, count, gates))


def answerable(case: LeftOut) -> dict[str, str]:
    """Return the left-out domain's tasks that a task of another domain has the labels of, by that task."""
    run = case.workspace("old").run
    domains = {domain.name: domain.tasks for domain in run.domain_list()}
    others = {labels: task for name, tasks in domains.items() if name != case.domain for task, labels in tasks.items()}
    return {
        task: others[labels] for task, labels in domains[case.domain].items() if labels in others and len(labels) == 3
    }


def evaluate_case(case: LeftOut, start: str, count: int, gates: str) -> tuple[LabelPairs, float | None]:
    """Evaluate a mixture, or an expert on its own, on the left-out domain's test rows."""
    renamed = {} if count else answerable(case)
    if gates in ("true domain", "pooled") and (start == "zero" or not count):
        shared = case.old_experts().shared_folder
        assert shared is not None
        model, run = load_single_expert(case.train_new(start, count) if count else shared)
        return predict(TorchPredictor(model, run.template, run.backbone.resolved_length), case, renamed=renamed)
    learned = gates == "learned"
    folder = case.learned(start, count) if learned else case.merged("centroid", start, count).out / MERGED
    model, card = read_mixture(folder)
    mode = replace(model.mode, uniform_gates=gates == "equal")
    predictor = TorchPredictor(model, card.template, card.backbone_settings.resolved_length, mode=mode)
    return predict(predictor, case, pin=gates == "true domain", renamed=renamed)


def predict(
    predictor: TorchPredictor, case: LeftOut, *, renamed: Mapping[str, str], pin: bool = False
) -> tuple[LabelPairs, float | None]:
    """Predict the left-out domain's test rows, each in its own task, and return the share routed to its expert.

    Args:
        renamed: tasks that are answered as another task; rows of other tasks are left out. None are renamed if empty.
        pin: restrict rows to the new expert.
    """
    rows = case.test_rows()
    own = list(rows["task"])
    if renamed:
        answered_rows = [i for i, task in enumerate(own) if task in renamed]
        rows, own = rows.select(answered_rows), [own[i] for i in answered_rows]
        answered = [renamed[task] for task in own]
        rows = rows.remove_columns("task").add_column("task", answered)
    evaluated = evaluate_rows(predictor, rows, pin=pin)
    pairs: LabelPairs = {}
    for row, task in zip(evaluated, own, strict=True):
        if row.true is not None:
            true, predicted = pairs.setdefault(task, ([], []))
            true.append(row.true)
            predicted.append(row.masked.label)
    model = predictor.model
    routed = model.gate is not None and model.active_expert is None and not renamed
    return pairs, routing_report(evaluated, model).accuracy if routed else None


def print_results(out: Path, space: LabelSpace, domains: Sequence[str]) -> None:
    """Print macro-F1 on the left-out domain by its rows, the new expert's start and the gates."""
    lines = [line for path in sorted(out.rglob("results-*.jsonl")) for line in read_lines(path)]
    table = Table(
        title="left-out domain: macro-F1 on its test rows in %, mean over its tasks and seeds; differences in points",
        title_justify="left",
    )
    for column in (
        "rows",
        "start",
        "gates",
        "seeds",
        *domains,
        "mean",
        "minus start zero, true domain",
        "right domain",
    ):
        table.add_column(column)
    keys = dict.fromkeys((line["rows"], line["start"], line["gates"]) for line in lines)
    for key in sorted(keys, key=lambda key: (key[0], STARTS.index(key[1]) if key[1] in STARTS else -1)):
        own, alone = ([line for line in lines if row_of(line) == row] for row in (key, (key[0], *ALONE)))
        tasks, baseline = (_predictions(part, space) for part in (own, alone))
        shared = [name for name in tasks if name in baseline]
        routing = [line["routing"] for line in own if line["routing"] is not None]
        difference = ""
        if shared and key[1:] != ALONE:
            ours, theirs = ({name: side[name] for name in shared} for side in (tasks, baseline))
            difference = format_points(mean_over_domains(ours, theirs), 1)
        table.add_row(
            *map(str, key),
            str(len({line["seed"] for line in own})),
            *(_percent({name: tasks[name]}) if name in tasks else "–" for name in domains),
            _percent(tasks),
            difference,
            f"{100 * np.mean(routing):.1f} %" if routing else "",
        )
    Console(width=170).print(table)


def row_of(line: Line) -> tuple[int, str, str]:
    """Row of the table that a result belongs to."""
    return line["rows"], line["start"], line["gates"]


def _predictions(lines: Sequence[Line], space: LabelSpace) -> dict[str, list[TaskPredictions]]:
    """Predictions of all seeds, by left-out domain, a task each."""
    joined: dict[str, list[TaskPredictions]] = {}
    for name in dict.fromkeys(line["left_out"] for line in lines):
        seeds = [
            line["predictions"] for line in sorted(lines, key=lambda line: line["seed"]) if line["left_out"] == name
        ]
        joined[name] = [join_seeds([pairs[task] for pairs in seeds], space.tasks[task]) for task in seeds[0]]
    return joined


def _percent(tasks: Mapping[str, list[TaskPredictions]]) -> str:
    return f"{100 * mean_over_domains(tasks).value:.1f}"


if __name__ == "__main__":
    main()
