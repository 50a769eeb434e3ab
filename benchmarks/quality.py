"""What helps on real text: the mixture in six routings beside TF-IDF, a frozen backbone, pooled LoRAs and fine-tuning.

Run: `python benchmarks/quality.py FOLDER`; it trains what is missing, seed by seed, goes on where it stopped, prints
the tables of what is there (`--tasks`: task by task). `--only NAME` picks models, `--print-only` trains nothing.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from finetune import fine_tuned, frozen
from predictions import Found, Said, keep, read, show, show_tasks
from sklearn.pipeline import Pipeline

from experts.atomic_io import read_json
from moe.checkpoints.expert import load_single_expert
from moe.checkpoints.mixture import read_mixture
from moe.config.run import load_run
from moe.config.stages import JOINT, MERGED, WARMUP
from moe.evaluation.baselines import tfidf
from moe.evaluation.evaluate import evaluate_rows, routing_report
from moe.inference.predictor import Predictor
from moe.model.mixture import Mixture
from moe.runs.best import best_model
from moe.runs.workspace import Workspace
from moe.training.steps import merge_experts, train_domain, train_router, train_shared

CONFIG = Path(__file__).parent.parent / "configs" / "real" / "five_domains.yaml"
SEEDS = (13, 42, 87)
OURS = "mixture, as chosen"
"""What `moe run` ends with and `moe infer` asks: merged, warm-started or joint, whichever validation names."""
Measure = Callable[["Seed"], Found]


@dataclass(frozen=True)
class Seed:
    """One seed's work: its run and what is laid over its config."""

    args: argparse.Namespace
    seed: int

    def work(self, *sets: str, name: str = "") -> Workspace:
        """A run of this seed, in a folder of its own but for prepared rows."""
        mine = [f"data.folder={self.args.data}", f"seed={self.seed}", *self.args.sets, *sets]
        folder = self.args.out / f"{self.seed}{name}"
        return Workspace(load_run(self.args.config, mine), folder, self.args.out / "rows")


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the eight files")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--only", action="append", help="measure this model alone; may be given several times")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="lay a setting over the config")
    parser.add_argument(
        "--all-rows", action="store_true", help="train on all rows, not on 4,000 a domain; another --out"
    )
    parser.add_argument("--tasks", action="store_true", help="print each task's figures, not the domains'")
    parser.add_argument("--print-only", action="store_true")
    args = parser.parse_args()
    if args.all_rows:
        args.sets = uncapped(args.config) + args.sets
    for seed in () if args.print_only else args.seeds:
        for name, measure in MODELS.items():
            if (not args.only or name in args.only) and name not in {one["model"] for one in read(args.out, seed)}:
                keep(args.out, seed, name, measure(Seed(args, seed)))
    space = load_run(args.config, [f"data.folder={args.data}", *args.sets]).label_space()
    if args.tasks:
        show_tasks(args.out, space)
    else:
        show(args.out, space, list(MODELS), OURS)


def uncapped(config: Path) -> list[str]:
    """Settings that take every training row of a config's files."""
    domains = load_run(config).domains
    return [
        f"domains.{name}.tasks.{task}.max_train_rows=null" if one.tasks else f"domains.{name}.max_train_rows=null"
        for name, one in domains.items()
        for task in one.tasks or (name,)
    ]


def linear_words(seed: Seed) -> Found:
    """TF-IDF and logistic regression, task by task; no seed in it."""
    work, found = seed.work(), {}
    for task, labels in work.run.label_space().tasks.items():
        known, taught = labelled(work, "train", task)
        unseen, true = labelled(work, "test", task)
        model: Pipeline = tfidf().fit(known, taught)
        found[task] = [labels[i] for i in true], [labels[int(i)] for i in model.predict(unseen)]
    return Found(found)


def labelled(work: Workspace, split: str, task: str) -> tuple[list[str], list[int]]:
    """Texts and labels of a task's rows that have one."""
    some = [row for row in work.rows(split) if row["task"] == task and row["label"] >= 0]
    return [row["text"] for row in some], [row["label"] for row in some]


def pooled(share: Callable[[Workspace], int]) -> Measure:
    """One LoRA on all domains pooled: a shared expert by itself."""

    def measure(seed: Seed) -> Found:
        rank = share(seed.work())
        work = seed.work(f"shared.r={rank}", f"shared.alpha={rank}", name=f"-pooled-{rank}")
        train_shared(work, resume=True)
        return alone(work, "shared", None)

    return measure


def own_experts(seed: Seed) -> Found:
    """Each expert on its own domain, which it is told."""
    work = seed.work()
    train_shared(work, resume=True)
    found: Said = {}
    scores: list[float] = []
    for domain, one in work.run.domains.items():
        train_domain(work, domain, resume=True)
        mine = alone(work, domain, [domain])
        found |= mine.said
        scores += [mine.validation or 0.0] * max(1, len(one.tasks or ()))
    return Found(found, validation=float(np.mean(scores)))


def shared_alone(seed: Seed) -> Found:
    """The mixture's shared expert by itself."""
    work = seed.work()
    train_shared(work, resume=True)
    return alone(work, "shared", None)


def alone(work: Workspace, name: str, domains: Sequence[str] | None) -> Found:
    """One expert by itself on the test rows."""
    folder = work.expert_folder(name)
    model, run = load_single_expert(folder)
    validation = read_json(folder / "metrics.json")["best"]["macro_f1"]
    return asked(model, work, run.template, run.backbone.max_length, validation, domains=domains)


def full(seed: Seed) -> Found:
    """Every layer of the backbone fine-tuned on all domains pooled."""
    work = seed.work()
    model, validation = fine_tuned(work, epochs=3, rate=1e-4, evals=3)
    return asked(model, work, work.run.template, work.run.backbone.max_length, validation)


def mixture(folder: str, **how: Any) -> Measure:
    """The mixture of a stage, asked in one way; trained first where it is not there."""

    def measure(seed: Seed) -> Found:
        work = seed.work()
        own_parts(work)
        model, card = read_mixture(work.out / folder)
        validation = None if how else card.metrics.get("macro_f1")
        return asked(model, work, card.template, card.backbone_settings.max_length, validation, **how)

    return measure


def chosen(seed: Seed) -> Found:
    """The mixture that the run's own validation chose among its three, routed softly."""
    work = seed.work()
    own_parts(work)
    return mixture(best_model(work.out).name)(seed)


def team(seed: Seed) -> Found:
    """The same experts under team gates: news and forum share a role, hard between the two, soft among the roles."""
    base = seed.work()
    own_parts(base)
    roles = [f"domains.{name}.role=street" for name in ("news", "forum")]
    work = seed.work("gate.kind=team", *roles, name="-team")
    if not (work.out / MERGED).is_dir():
        merge_experts(work, [base.expert_folder(name) for name in (*base.run.domains, "shared")])
    if not (work.out / JOINT.folder).is_dir():
        train_router(work, resume=True)
    model, card = read_mixture(work.out / JOINT.folder)
    max_length = card.backbone_settings.max_length
    return asked(model, work, card.template, max_length, card.metrics.get("macro_f1"))


def own_parts(work: Workspace) -> None:
    """All steps of the mixture that are not done yet."""
    train_shared(work, resume=True)
    for domain in work.run.domains:
        train_domain(work, domain, resume=True)
    if not (work.out / MERGED).is_dir():
        merge_experts(work)
    if not (work.out / JOINT.folder).is_dir():
        train_router(work, resume=True)


def asked(
    model: Mixture,
    work: Workspace,
    template: str,
    max_length: int,
    validation: float | None = None,
    routing: str = "soft",
    pin: bool = False,
    alike: bool = False,
    domains: Sequence[str] | None = None,
) -> Found:
    """What a model says of the test rows, each asked its own task; and its right domains."""
    predictor = Predictor(model, template, max_length, routing)  # type: ignore[arg-type]
    with model.ablated(uniform_gates=alike):
        judged = [one for one in evaluate_rows(predictor, work.rows("test", domains), pin) if one.true is not None]
    found: Said = {}
    for one in judged:
        true, said = found.setdefault(one.row["task"], ([], []))
        true.append(str(one.true))
        said.append(one.masked.label)
    routed = model.gate is not None and model.active_expert is None
    return Found(found, routing_report(judged, model)["accuracy"] if routed else None, validation)


MODELS: dict[str, Measure] = {
    "TF-IDF + logistic regression": linear_words,
    "frozen backbone + head": lambda seed: Found(frozen(seed.work())),
    "shared expert alone": shared_alone,
    "own expert, true domain": own_experts,
    "mixture, fresh": mixture(MERGED),
    "mixture, warm start": mixture(WARMUP.folder),
    "mixture, joint": mixture(JOINT.folder),
    OURS: chosen,
    "mixture, hard": mixture(JOINT.folder, routing="hard"),
    "mixture, team": team,
    "mixture, uniform": mixture(JOINT.folder, alike=True),
    "mixture, oracle": mixture(JOINT.folder, pin=True),
    "pooled LoRA, same total rank": pooled(lambda work: work.run.shared.r + len(work.run.domains) * work.run.lora.r),  # type: ignore[union-attr]
    "full fine-tuning": full,
    "pooled LoRA, a fifth of it": pooled(
        lambda work: (work.run.shared.r + len(work.run.domains) * work.run.lora.r) // len(work.run.domains)  # type: ignore[union-attr]
    ),
}


if __name__ == "__main__":
    main()
