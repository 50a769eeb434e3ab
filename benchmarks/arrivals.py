"""Domains that arrive one by one: what each way of adding a domain costs, and what the earlier domains lose by it.

Run: `python benchmarks/arrivals.py FOLDER`. It trains what is missing, resumes where it stopped, and prints the results
so far. `--orders`, `--seeds` and `--rows` select parts, which may run at the same time with different `--out`;
`--print-only` reads `--out` and its sub-folders. Five domains arrive in three orders, fixed before any training; they
begin with news, macro and micro, and end with macro, forum and news. In every row each task has a head of its own, and
a domain's training rows are read `--passes` times when it arrives. The rows:

- `lora`: one LoRA of the mixture's total rank, trained on, domain by domain.
- `replay`: the same; its batches also draw on the sample of old rows that `moe expert add` replays, for as many more
  steps as that command adapts the router.
- `fresh`: a fresh LoRA of that rank for each domain; it gets the true domain of each text.
- `add`: `moe expert add`. The shared expert is trained on the first domain, and frozen from then on. `--no-adapt` adds
  an expert as the command does without a config: nothing is trained beside the expert. `--set` changes a setting of all
  rows, `--new-expert` one of experts that arrive, and `--label` names the variant in the tables. Another row of it,
  `pinned`, restricts each text to the experts of its true domain.
- `pooled`: one LoRA retrained on all domains, the ceiling; `--ceilings all` also retrains it after every arrival.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

from arrival_tables import print_results
from datasets import Dataset, concatenate_datasets
from predictions import append_line, read_lines

from experts.adapter import build_adapter
from experts.atomic_io import read_json, write_json
from experts.safetensors_io import load_tensors, save_tensors
from moe.checkpoints.expert import build_expert_model
from moe.checkpoints.mixture import read_mixture
from moe.config.run import RunSettings, load_run
from moe.config.stages import MERGED, SHARED
from moe.data.sampler import subsample_per_domain
from moe.evaluation.evaluate import evaluate_rows, routing_report
from moe.inference.torch_predictor import TorchPredictor
from moe.membership.update import UpdateTarget, add
from moe.model.mixture import Mixture
from moe.runs.layout import POOLED
from moe.runs.workspace import Workspace
from moe.training.expert_steps import labelled_data, train_domain, train_shared
from moe.training.stage import run_stage
from moe.training.steps import merge_experts

CONFIG = Path(__file__).parent.parent / "configs" / "real" / "five_domains.yaml"
SEEDS = (13, 42, 87)
ORDERS = ((0, 1, 3, 4, 2), (2, 3, 4, 0, 1), (3, 4, 1, 2, 0))
"""Positions of the config's domains; a config with fewer domains uses those that it has."""
Predictions = dict[str, list[list[int]]]
"""By task: true labels and predicted labels of its test rows, as positions in the task's labels."""


@dataclass(frozen=True)
class Cost:
    """What an arrival took.

    Args:
        seconds: of training, its validation included.
        rows_read: training rows that were read, each counted as often as it was read.
        old_rows: rows of earlier domains that were trained on, each counted once.
    """

    seconds: float
    rows_read: int
    old_rows: int


@dataclass(frozen=True)
class Evaluation:
    """Predictions after an arrival.

    Args:
        predictions: by the model as it is used.
        pinned: by a mixture that restricts each text to the experts of its true domain.
        routing: share of test rows whose domain the router finds; None without a router.
        rank: sum of the ranks of all LoRAs.
    """

    predictions: Predictions
    pinned: Predictions | None = None
    routing: float | None = None
    rank: int = 0


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the eight files")
    parser.add_argument("--out", type=Path, default=Path("runs/arrivals"))
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--orders", type=int, nargs="*", default=tuple(range(len(ORDERS))))
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--rows", nargs="*", choices=tuple(ROWS), default=tuple(ROWS))
    parser.add_argument("--ceilings", choices=("last", "all"), default="last", help="when `pooled` is retrained")
    parser.add_argument("--passes", type=float, default=4.0, help="how often the rows of an arriving domain are read")
    parser.add_argument(
        "--new-expert-passes", type=float, help="the same in the row `add`, for all domains but the first"
    )
    parser.add_argument("--set", dest="sets", action="append", default=[], help="override a setting, as KEY=VALUE")
    parser.add_argument(
        "--new-expert", action="append", default=[], help="override a setting for experts that arrive, in the row `add`"
    )
    parser.add_argument(
        "--no-adapt", action="store_true", help="add experts without training router and heads; set gate.init=centroid"
    )
    parser.add_argument("--label", default="", help="name of this variant of the row `add`; use another --out")
    parser.add_argument("--most-rows", type=int, help="most training and validation rows of a task, for a quick try")
    parser.add_argument("--most-test", type=int, help="most test rows of a domain, for a quick try")
    parser.add_argument("--print-only", action="store_true")
    args = parser.parse_args()
    print(f"seeds {', '.join(map(str, args.seeds))}; orders {', '.join(map(str, args.orders))}")
    for seed in () if args.print_only else args.seeds:
        for order in args.orders:
            arrivals = Arrivals(args, seed, order)
            for row in args.rows:
                measure(arrivals, row)
    print_results(args.out, own_heads(args).label_space())


def measure(arrivals: "Arrivals", row: str) -> None:
    """Append the results of a row that are missing to its file."""
    args, name = arrivals.args, " ".join(part for part in (row, arrivals.args.label) if part)
    path = args.out / f"results-{name.replace(' ', '-')}-{arrivals.number}-{arrivals.seed}.jsonl"
    finished = {line["arrival"] for line in read_lines(path)}
    last_only = row == "pooled" and args.ceilings == "last"
    for arrival in range(len(arrivals.order) if last_only else 1, len(arrivals.order) + 1):
        if arrival in finished:
            continue
        cost, evaluation = ROWS[row](arrivals, arrival)
        append_line(
            path,
            {
                "row": name,
                "seed": arrivals.seed,
                "number": arrivals.number,
                "order": arrivals.order,
                "arrival": arrival,
                **vars(cost),
                **vars(evaluation),
            },
        )


def own_heads(args: argparse.Namespace, *sets: str) -> RunSettings:
    """Return the config with a head for each task: no two tasks share the name of a label."""
    overrides = [f"data.folder={args.data}", *args.sets]
    run = load_run(args.config, overrides)
    for domain, settings in run.domains.items():
        for task, its in run.tasks_of(domain).items():
            renamed = {label: f"{task} {label}" for label in its.labels}
            changes: dict[str, Any] = {
                "labels": list(renamed.values()),
                "label_map": renamed | {label: renamed[known] for label, known in its.label_map.items()},
            }
            if args.most_rows:
                changes |= {"max_train_rows": args.most_rows, "max_validation_rows": args.most_rows}
            path = f"domains.{domain}.tasks.{task}" if settings.tasks else f"domains.{domain}"
            overrides += [f"{path}.{key}={json.dumps(value)}" for key, value in changes.items()]
    return load_run(args.config, [*overrides, *sets])


class Arrivals:
    """The domains of one seed in one order, and the models that are trained on them.

    Attributes:
        order: names of the domains.
        work: a run of all domains.
    """

    def __init__(self, args: argparse.Namespace, seed: int, number: int) -> None:
        self.args, self.seed, self.number = args, seed, number
        run = own_heads(args, f"seed={seed}")
        names = list(run.domains)
        self.order = [names[i] for i in ORDERS[number] if i < len(names)]
        self.work = Workspace(run, args.out / str(seed) / "lora", args.out / "rows")
        self.work.begin()

    def workspace(self, folder: Path, domains: Sequence[str], *sets: str) -> Workspace:
        """Return a run of some domains, with further overrides."""
        run = own_heads(self.args, f"seed={self.seed}", *sets)
        backbone = run.backbone.model_copy(update={"max_length": self.work.run.backbone.max_length})
        chosen = {name: run.domains[name] for name in domains}
        return Workspace(run.model_copy(update={"domains": chosen, "backbone": backbone}), folder, self.work.data_dir)

    def steps(self, domains: Sequence[str], passes: float) -> int:
        """Optimizer steps in which the rows of some domains are read that often."""
        return max(1, round(passes * len(self.work.rows("train", domains)) / self.batch_size))

    @property
    def batch_size(self) -> int:
        """Rows of an optimizer step of a LoRA."""
        settings = self.work.run.stages.shared
        return settings.batch_size * settings.accumulate

    @cached_property
    def total_rank(self) -> int:
        """Sum of the ranks of the mixture's experts, including the shared one, by the config."""
        run = self.work.run
        return (run.shared.r if run.shared else 0) + run.lora.r * len(run.domains)

    @cached_property
    def lora(self) -> Mixture:
        """One untrained LoRA of the total rank, with a head for each task."""
        run, rank = self.work.run, self.total_rank
        base = run.lora if run.shared is None else run.shared
        settings = base.model_copy(update={"r": rank, "alpha": base.alpha * rank / base.r})
        polarity = any(score is not None for score in self.work.rows("train")["score"])
        model = build_expert_model(
            run, POOLED, lambda layers, _, depth: build_adapter(layers, settings, depth), polarity, run.seed
        )
        model.bank.set_dropout(base.dropout)
        return model

    @cached_property
    def start(self) -> dict[str, Any]:
        """Weights of the untrained LoRA."""
        return {key: tensor.detach().clone() for key, tensor in self.lora.trained_state().items()}

    def train_lora(
        self, name: str, before: str | None, train: Dataset, held_out: Dataset, steps: int, old_rows: int = 0
    ) -> Cost:
        """Train the LoRA from an earlier state or from the start, save its state under a name, and return the cost.

        A finished state is loaded instead.
        """
        path = self.work.out / "states" / f"{name}.safetensors"
        cost_path = path.with_suffix(".json")
        if cost_path.is_file():
            self.start  # noqa: B018 - kept before other weights are loaded
            self.lora.load_trained_state(load_tensors(path))
            return Cost(**read_json(cost_path))
        earlier = load_tensors(path.with_name(f"{before}.safetensors")) if before else self.start
        self.lora.load_trained_state(earlier)
        begin, work = perf_counter(), copy(self.work)
        settings = work.run.stages.shared.model_copy(update={"steps": steps})
        stages = work.run.stages.model_copy(update={SHARED.name: settings})
        work.run = work.run.model_copy(update={"stages": stages})
        data = labelled_data(work, self.lora, train, held_out)
        result = run_stage(work, self.lora, SHARED, data, seed=self.seed, name=name, resume=False, expert=POOLED)
        cost = Cost(perf_counter() - begin, result.steps * self.batch_size, old_rows)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, {key: tensor.detach().cpu() for key, tensor in self.lora.trained_state().items()})
        write_json(cost_path, vars(cost))
        return cost

    def predict(self, model: Mixture, domains: Sequence[str], pinned: bool = False) -> tuple[Predictions, float | None]:
        """Predict the test rows of some domains, each row in its own task; also return the router's accuracy.

        Args:
            pinned: restrict each row to the experts of its domain.
        """
        run, rows = self.work.run, self.work.rows("test", domains)
        if self.args.most_test:
            parts = [self.work.rows("test", [domain]) for domain in domains]
            rows = concatenate_datasets([subsample_per_domain(part, self.args.most_test, 0) for part in parts])
        predictor = TorchPredictor(model.eval(), run.template, run.backbone.resolved_length)
        evaluated = [row for row in evaluate_rows(predictor, rows, pin=pinned) if row.true is not None]
        predictions: Predictions = {}
        for row in evaluated:
            task = str(row.row["task"])
            labels = list(model.labels.tasks[task])
            true, predicted = predictions.setdefault(task, [[], []])
            true.append(labels.index(str(row.true)))
            predicted.append(labels.index(str(row.masked.label)))
        routed = model.gate is not None and model.active_expert is None
        return predictions, routing_report(evaluated, model).accuracy if routed else None


def name_of(row: str, domains: Sequence[str]) -> str:
    """Name of a state of the LoRA; of one domain it is the same in every row."""
    return "-".join([*(() if len(domains) == 1 else (row,)), *domains])


def train_first(arrivals: Arrivals, domain: str) -> Cost:
    """Train the LoRA on one domain, from the start."""
    train, held_out = (arrivals.work.rows(split, [domain]) for split in ("train", "validation"))
    steps = arrivals.steps([domain], arrivals.args.passes)
    return arrivals.train_lora(name_of("", [domain]), None, train, held_out, steps)


def measure_lora(arrivals: Arrivals, arrival: int, replay: bool = False) -> tuple[Cost, Evaluation]:
    """Measure one LoRA that is trained on, with or without a replay of old rows."""
    seen, row = arrivals.order[:arrival], "replay" if replay else "lora"
    if arrival == 1:
        cost = train_first(arrivals, seen[0])
    else:
        if not (arrivals.work.out / "states" / f"{name_of(row, seen[:-1])}.json").is_file():
            measure_lora(arrivals, arrival - 1, replay)  # of another order with the same start, or not kept
        new, stages = seen[-1:], arrivals.work.run.stages
        steps, domains = arrivals.steps(new, arrivals.args.passes), seen if replay else new
        train, held_out = (arrivals.work.rows(split, domains) for split in ("train", "validation"))
        if replay:
            train = subsample_per_domain(train, stages.replay, arrivals.seed, new)
            settings = stages.adapt
            steps += max(1, (settings.steps or 0) * settings.batch_size * settings.accumulate // arrivals.batch_size)
        old_rows = len(train) - len(arrivals.work.rows("train", new))
        cost = arrivals.train_lora(
            name_of(row, seen), name_of(row, seen[:-1]), train, held_out, steps, old_rows=old_rows
        )
    predictions, _ = arrivals.predict(arrivals.lora, seen)
    return cost, Evaluation(predictions, rank=arrivals.total_rank)


def measure_replay(arrivals: Arrivals, arrival: int) -> tuple[Cost, Evaluation]:
    """Measure one LoRA that is trained on with a replay of old rows."""
    return measure_lora(arrivals, arrival, replay=True)


def measure_fresh(arrivals: Arrivals, arrival: int) -> tuple[Cost, Evaluation]:
    """Measure a LoRA for each domain, each on the texts of its domain."""
    predictions: Predictions = {}
    for domain in arrivals.order[:arrival]:
        cost = train_first(arrivals, domain)
        predictions |= arrivals.predict(arrivals.lora, [domain])[0]
    return cost, Evaluation(predictions, rank=arrivals.total_rank * arrival)


def measure_pooled(arrivals: Arrivals, arrival: int) -> tuple[Cost, Evaluation]:
    """Measure one LoRA that is retrained on all domains so far."""
    seen = [name for name in arrivals.work.run.domains if name in arrivals.order[:arrival]]
    if arrival == 1:
        cost = train_first(arrivals, seen[0])
    else:
        train, held_out = (arrivals.work.rows(split, seen) for split in ("train", "validation"))
        old_rows = len(train) - len(arrivals.work.rows("train", arrivals.order[arrival - 1 : arrival]))
        steps = arrivals.steps(seen, arrivals.args.passes)
        cost = arrivals.train_lora(name_of("pooled", seen), None, train, held_out, steps, old_rows=old_rows)
    predictions, _ = arrivals.predict(arrivals.lora, seen)
    return cost, Evaluation(predictions, rank=arrivals.total_rank)


def measure_add(arrivals: Arrivals, arrival: int) -> tuple[Cost, Evaluation]:
    """Measure the mixture that grows by `moe expert add`."""
    seen = arrivals.order[:arrival]
    out = arrivals.args.out / str(arrivals.seed) / "-".join(["add", *arrivals.order])
    folders = [out / MERGED, *(out / f"with-{name}" for name in arrivals.order[1:])]
    cost_path = out / f"cost-{arrival}.json"
    if not cost_path.is_file():
        cost = _start_mixture(arrivals, out) if arrival == 1 else _add_expert(arrivals, out, seen, folders)
        write_json(cost_path, vars(cost))
    model, card = read_mixture(folders[arrival - 1])
    predictions, routing = arrivals.predict(model, seen)
    pinned: Predictions = {}
    for domain in seen:  # on its own: with texts of other domains in its batches, the last bits of an answer may differ
        pinned |= arrivals.predict(model, [domain], pinned=True)[0]
    rank = sum(max(spec.rank for spec in layers.values()) for layers in card.layers.values())
    return Cost(**read_json(cost_path)), Evaluation(predictions, pinned, routing, rank)


def _start_mixture(arrivals: Arrivals, out: Path) -> Cost:
    """Train the shared expert and the first domain's, and merge them."""
    first = arrivals.order[0]
    stages, passes = arrivals.work.run.stages, arrivals.args.passes
    part = stages.shared.epochs / (stages.shared.epochs + stages.expert.epochs)
    parts = {"shared": part, "expert": 1 - part} if arrivals.work.run.shared else {"expert": 1.0}
    steps = {name: arrivals.steps([first], passes * share) for name, share in parts.items()}
    work = arrivals.workspace(out, [first], *(f"stages.{name}.steps={count}" for name, count in steps.items()))
    begin = perf_counter()
    if work.run.shared:
        train_shared(work, resume=True)
    train_domain(work, first, resume=True)
    if not (out / MERGED).is_dir():
        merge_experts(work)
    read = sum(count * getattr(work.run.stages, name).batch_size for name, count in steps.items())
    return Cost(perf_counter() - begin, read, 0)


def _add_expert(arrivals: Arrivals, out: Path, seen: Sequence[str], folders: Sequence[Path]) -> Cost:
    """Train the newest domain's expert, and add it to the mixture of the others."""
    new, before, after = seen[-1], folders[len(seen) - 2], folders[len(seen) - 1]
    passes = arrivals.args.new_expert_passes or arrivals.args.passes
    steps = f"stages.expert.steps={arrivals.steps([new], passes)}"
    sets = [*arrivals.args.new_expert]
    if any(key.startswith("expert_init.") for key in sets):
        sets.append(f"expert_init.mixture={before.resolve()}")
    work = arrivals.workspace(out, seen, steps, *sets)
    begin = perf_counter()
    train_domain(work, new, resume=True)
    adapts = not arrivals.args.no_adapt
    if not after.is_dir():
        target = UpdateTarget(after, resume=adapts, data_dir=work.data_dir)
        add(before, work.expert_folder(new), work.run if adapts else None, target)
    seconds, stages = perf_counter() - begin, work.run.stages
    new_rows = work.rows("train", [new])
    pool = subsample_per_domain(work.rows("train", seen), stages.replay, work.run.seed, [new]) if adapts else new_rows
    trained = {work.expert_folder(new): stages.expert} | ({after: stages.adapt} if adapts else {})
    read = sum(
        int(read_json(folder / "metrics.json")["steps"]) * settings.batch_size * settings.accumulate
        for folder, settings in trained.items()
    )
    return Cost(seconds, read, len(pool) - len(new_rows))


Measure = Callable[[Arrivals, int], tuple[Cost, Evaluation]]
ROWS: Mapping[str, Measure] = {
    "lora": measure_lora,
    "replay": measure_replay,
    "fresh": measure_fresh,
    "add": measure_add,
    "pooled": measure_pooled,
}


if __name__ == "__main__":
    main()
