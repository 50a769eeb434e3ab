"""Quality on real text: the mixture with several routings against TF-IDF, a frozen backbone, pooled LoRAs, fine-tuning.

Run: `python benchmarks/quality.py FOLDER`. It trains what is missing, seed by seed, resumes where it stopped, and
prints the results so far (`--tasks`: by task). `--only NAME` selects models, `--print-only` trains nothing.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from accuracy_table import print_accuracy
from finetune import fine_tune, labelled_rows, predict_linear_probe
from predictions import LabelPairs, TestResult, append_result, print_tasks, read_all_results, read_results
from row_limits import limit_rows
from sklearn.pipeline import Pipeline

from experts.atomic_io import read_json
from moe.checkpoints.expert import load_single_expert
from moe.checkpoints.mixture import read_mixture
from moe.config.run import load_run
from moe.config.stages import JOINT, MERGED, WARMUP
from moe.evaluation.baselines import tfidf
from moe.evaluation.evaluate import evaluate_rows, routing_report
from moe.inference.torch_predictor import TorchPredictor
from moe.model.mixture import Mixture
from moe.model.mode import Routing
from moe.runs.best import best_model
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.steps import merge_experts, train_router

CONFIG = Path(__file__).parent.parent / "configs" / "real" / "five_domains.yaml"
SEEDS = (13, 42, 87)
OURS = "mixture, as chosen"
"""The model of `moe run` and `moe infer`: the merged, warm-started or joint mixture that is best on validation rows."""
POOLED_LORA = "pooled LoRA, same total rank"


@dataclass(frozen=True)
class SeedRun:
    """The run of one seed."""

    args: argparse.Namespace
    seed: int

    def workspace(self, *sets: str, suffix: str = "") -> Workspace:
        """Return a workspace with overrides, in a separate folder; prepared rows are shared by all of them."""
        overrides = [f"data.folder={self.args.data}", f"seed={self.seed}", *self.args.sets, *sets]
        folder = self.args.out / f"{self.seed}{suffix}"
        return Workspace(load_run(self.args.config, overrides), folder, self.args.out / "rows")


Measure = Callable[[SeedRun], TestResult]


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the eight files")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--only", action="append", help=f"measure only this model (repeatable): {', '.join(MODELS)}")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="override a setting, as KEY=VALUE")
    parser.add_argument(
        "--all-rows", action="store_true", help="train on all rows instead of 4,000 per domain; use another --out"
    )
    parser.add_argument("--tasks", action="store_true", help="print results by task instead of by domain")
    parser.add_argument("--print-only", action="store_true")
    args = parser.parse_args()
    if args.all_rows:
        args.sets = remove_row_limits(args.config) + args.sets
    for seed in () if args.print_only else args.seeds:
        for name, measure in MODELS.items():
            finished = {result["model"] for result in read_results(args.out, seed)}
            if (not args.only or name in args.only) and name not in finished:
                append_result(args.out, seed, name, measure(SeedRun(args, seed)))
    space = load_run(args.config, [f"data.folder={args.data}", *args.sets]).label_space()
    titles = {name: TITLES.get(name, name) for name in MODELS}
    if args.tasks:
        print_tasks(args.out, space, titles)
    else:
        print_accuracy(read_all_results(args.out), space, titles, (OURS, POOLED_LORA))


def remove_row_limits(config: Path) -> list[str]:
    """Return overrides that use every training row of a config's files."""
    return limit_rows(config, max_train_rows=None)


def measure_tfidf(seed: SeedRun) -> TestResult:
    """Measure TF-IDF with logistic regression, task by task; it does not depend on the seed."""
    work = seed.workspace()
    pairs: LabelPairs = {}
    for task, labels in work.run.label_space().tasks.items():
        train_texts, train_labels = labelled_rows(work.rows("train"), task)
        test_texts, test_labels = labelled_rows(work.rows("test"), task)
        model: Pipeline = tfidf().fit(train_texts, train_labels)
        pairs[task] = [labels[i] for i in test_labels], [labels[int(i)] for i in model.predict(test_texts)]
    return TestResult(pairs)


def measure_linear_probe(seed: SeedRun) -> TestResult:
    """Measure logistic regression on the frozen backbone's states."""
    return TestResult(predict_linear_probe(seed.workspace()))


def measure_shared(seed: SeedRun) -> TestResult:
    """Measure the mixture's shared expert on its own."""
    work = seed.workspace()
    train_shared(work, resume=True)
    return evaluate_expert(work, "shared")


def measure_experts(seed: SeedRun) -> TestResult:
    """Measure each expert on its domain, with the true domain given."""
    work = seed.workspace()
    train_shared(work, resume=True)
    pairs: LabelPairs = {}
    scores: list[float] = []
    for name, domain in work.run.domains.items():
        train_domain(work, name, resume=True)
        result = evaluate_expert(work, name, [name])
        pairs |= result.pairs
        scores += [result.validation or 0.0] * max(1, len(domain.tasks or ()))
    return TestResult(pairs, validation=float(np.mean(scores)))


def pooled_lora(choose_rank: Callable[[Workspace], int]) -> Measure:
    """Measure one LoRA on all domains pooled: a shared expert on its own, with another rank."""

    def measure(seed: SeedRun) -> TestResult:
        rank = choose_rank(seed.workspace())
        work = seed.workspace(f"shared.r={rank}", f"shared.alpha={rank}", suffix=f"-pooled-{rank}")
        train_shared(work, resume=True)
        return evaluate_expert(work, "shared")

    return measure


def total_rank(work: Workspace) -> int:
    """Sum of the ranks of the mixture's experts, including the shared one."""
    assert work.run.shared is not None
    return work.run.shared.r + len(work.run.domains) * work.run.lora.r


def fraction_of_total_rank(work: Workspace) -> int:
    """The total rank divided by the number of domains."""
    return total_rank(work) // len(work.run.domains)


def measure_fine_tuning(seed: SeedRun) -> TestResult:
    """Measure full fine-tuning of the backbone on all domains pooled."""
    work = seed.workspace()
    model, validation = fine_tune(work, epochs=3, rate=1e-4, evals=3)
    return evaluate_model(model, work, work.run.template, work.run.backbone.resolved_length, validation)


def stage_mixture(
    folder: str, routing: Routing = "soft", pin: bool = False, uniform_gates: bool = False, validated: bool = True
) -> Measure:
    """Measure the mixture of a stage, training it first if necessary.

    Args:
        pin: restrict each row to the experts of its true domain.
        uniform_gates: give all experts equal weights instead of the router's.
        validated: whether the stage's macro-F1 on validation rows applies to this way of routing.
    """

    def measure(seed: SeedRun) -> TestResult:
        work = seed.workspace()
        train_mixture(work)
        model, card = read_mixture(work.out / folder)
        return evaluate_model(
            model,
            work,
            template=card.template,
            max_length=card.backbone_settings.resolved_length,
            validation=card.metrics.get("macro_f1") if validated else None,
            routing=routing,
            pin=pin,
            uniform_gates=uniform_gates,
        )

    return measure


def measure_chosen(seed: SeedRun) -> TestResult:
    """Measure the best of the run's three mixtures on validation rows, with soft routing."""
    work = seed.workspace()
    train_mixture(work)
    return stage_mixture(best_model(work.out).name)(seed)


def measure_team(seed: SeedRun) -> TestResult:
    """Measure the same experts under team gates, with news and forum in one role."""
    base = seed.workspace()
    train_mixture(base)
    roles = [f"domains.{name}.role=street" for name in ("news", "forum")]
    work = seed.workspace("gate.kind=team", *roles, suffix="-team")
    if not (work.out / MERGED).is_dir():
        merge_experts(work, [base.expert_folder(name) for name in (*base.run.domains, "shared")])
    if not (work.out / JOINT.folder).is_dir():
        train_router(work, resume=True)
    model, card = read_mixture(work.out / JOINT.folder)
    max_length = card.backbone_settings.resolved_length
    return evaluate_model(model, work, card.template, max_length, card.metrics.get("macro_f1"))


def train_mixture(work: Workspace) -> None:
    """Run the steps of the mixture that are not finished yet."""
    train_shared(work, resume=True)
    for domain in work.run.domains:
        train_domain(work, domain, resume=True)
    if not (work.out / MERGED).is_dir():
        merge_experts(work)
    if not (work.out / JOINT.folder).is_dir():
        train_router(work, resume=True)


def evaluate_expert(work: Workspace, name: str, domains: Sequence[str] | None = None) -> TestResult:
    """Evaluate a single expert on the test rows of some domains, all by default."""
    folder = work.expert_folder(name)
    model, run = load_single_expert(folder)
    validation = read_json(folder / "metrics.json")["best"]["macro_f1"]
    return evaluate_model(model, work, run.template, run.backbone.resolved_length, validation, domains=domains)


def evaluate_model(
    model: Mixture,
    work: Workspace,
    template: str,
    max_length: int,
    validation: float | None = None,
    routing: Routing = "soft",
    pin: bool = False,
    uniform_gates: bool = False,
    domains: Sequence[str] | None = None,
) -> TestResult:
    """Evaluate a model on the labelled test rows, predicting each row in its own task.

    Args:
        validation: macro-F1 on validation rows, to be stored with the result.
        pin: restrict each row to the experts of its true domain.
        uniform_gates: give all experts equal weights instead of the router's.
        domains: evaluate only these; all by default.
    """
    mode = replace(model.mode, uniform_gates=uniform_gates)
    predictor = TorchPredictor(model, template, max_length, routing, mode=mode)
    rows = [row for row in evaluate_rows(predictor, work.rows("test", domains), pin=pin) if row.true is not None]
    pairs: LabelPairs = {}
    for row in rows:
        true, predicted = pairs.setdefault(row.row["task"], ([], []))
        true.append(str(row.true))
        predicted.append(row.masked.label)
    routed = model.gate is not None and model.active_expert is None
    return TestResult(pairs, routing_report(rows, model).accuracy if routed else None, validation)


MODELS: dict[str, Measure] = {
    "TF-IDF + logistic regression": measure_tfidf,
    "frozen backbone + head": measure_linear_probe,
    "shared expert alone": measure_shared,
    "own expert, true domain": measure_experts,
    "mixture, fresh": stage_mixture(MERGED),
    "mixture, warm start": stage_mixture(WARMUP.folder),
    "mixture, joint": stage_mixture(JOINT.folder),
    OURS: measure_chosen,
    "mixture, hard": stage_mixture(JOINT.folder, routing="hard", validated=False),
    "mixture, team": measure_team,
    "mixture, uniform": stage_mixture(JOINT.folder, uniform_gates=True, validated=False),
    "mixture, oracle": stage_mixture(JOINT.folder, pin=True, validated=False),
    POOLED_LORA: pooled_lora(total_rank),
    "full fine-tuning": measure_fine_tuning,
    "pooled LoRA, a fifth of it": pooled_lora(fraction_of_total_rank),
}
"""By the name under which results are saved."""
TITLES = {
    "own expert, true domain": "each expert, true domain given",
    "mixture, fresh": "mixture, merged only",
    OURS: "mixture, chosen by validation",
    "mixture, hard": "mixture, joint, hard routing",
    "mixture, team": "mixture, joint, team gates",
    "mixture, uniform": "mixture, joint, equal gates",
    "mixture, oracle": "mixture, joint, true domain given",
    "pooled LoRA, same total rank": "pooled LoRA of equal total rank",
    "pooled LoRA, a fifth of it": "pooled LoRA of a fifth of the total rank",
}
"""Titles of models in the printed tables, where they differ from the name."""


if __name__ == "__main__":
    main()
