"""Data that may not meet: experts trained apart on real domains, mixed by routers that need no training.

Run: `python benchmarks/silos.py FOLDER`. No training row leaves its domain: there is no shared expert, and each domain
trains its own expert, its prototypes and its gate. Comparators are one LoRA of the same total rank on the pooled rows
(as many rows × passes), and the same LoRA trained by federated averaging (FedAvg, McMahan et al. 2017). Then each
domain is left out of the merge: how well does the distance from the other prototypes, beside the largest softmax
probability, separate its test texts from the others' (AUROC)? The threshold of `unfamiliar` is a quantile of the other
domains' validation rows.

It trains what is missing, seed by seed, resumes where it stopped, and prints the results so far. `--parts` selects what
one process measures; `--print-only` reads `--out` and its sub-folders.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy_table import print_accuracy
from predictions import TestResult, append_line, append_result, read_all_results, read_lines, read_results
from quality import CONFIG, evaluate_model
from rich.console import Console
from rich.table import Table
from row_limits import add_most_rows, limit_by_option
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from experts.adapter import build_adapter
from moe.checkpoints.expert import build_expert_model, load_single_expert
from moe.checkpoints.mixture import read_mixture
from moe.config.run import load_run
from moe.config.stages import EXPERT, MERGED
from moe.data.collator import Collator
from moe.data.sampler import subsample_per_domain
from moe.inference.torch_predictor import TorchPredictor
from moe.model.mixture import Mixture
from moe.model.mode import Routing
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain
from moe.training.loss.global_batch import LossContext
from moe.training.loss.objective import Objective
from moe.training.pooled import routed_rank, train_pooled
from moe.training.prototypes import mean_states
from moe.training.stage import count_labels
from moe.training.steps import merge_experts

SEEDS = (13, 42, 87)
ROUTERS = ("random", "centroid", "arrow", "phatgoose")
APART = [
    "shared=null",
    "lora.r=12",
    "lora.alpha=12",
    "lora.dropout=0",
    "gate.expert_gate_steps=100",
    *(f"stages.expert.{key}" for key in ("epochs=3", "lr=1e-3", "head_lr=1e-3", "evals=3")),
]
"""Settings of experts that start from fresh weights, as the pooled LoRA does: rank and rate are those of the config's
shared expert, spread over the domains."""
ROUNDS = 6
"""Rounds of federated averaging; together they read as many rows as an expert's epochs."""
SCORED_ROWS = 1000
"""Test rows of each domain whose distance is measured."""
PARTS = ("mixtures", "unfamiliar", "pooled", "fedavg")
Line = dict[str, Any]


@dataclass(frozen=True)
class Silos:
    """The runs of one seed; experts are trained once and merged in several ways."""

    args: argparse.Namespace
    seed: int

    def workspace(self, suffix: str = "", *sets: str, without: str | None = None) -> Workspace:
        """Return a run in a folder of its own; prepared rows are shared by all.

        Args:
            suffix: of the folder's name.
            sets: overrides of this run.
            without: the domain to leave out.
        """
        overrides = [f"data.folder={self.args.data}", f"seed={self.seed}", *APART, *self.args.sets, *sets]
        run = load_run(self.args.config, overrides)
        domains = {name: settings for name, settings in run.domains.items() if name != without}
        run = run.model_copy(update={"domains": domains})
        return Workspace(run, self.args.out / f"{self.seed}{suffix}", self.args.out / "rows")

    def experts(self) -> list[Path]:
        """Train every domain's expert on its own rows, where it is not finished, and return their folders."""
        work = self.workspace()
        return [folder for name in work.run.domains for folder in train_domain(work, name, resume=True)]

    def merged(self, router: str, without: str | None = None) -> tuple[Workspace, Mixture, str, int]:
        """Return a mixture of the experts with its template and length, merged if it is not yet.

        Args:
            router: the router's start.
            without: the domain to leave out.
        """
        folders = [folder for folder in self.experts() if folder.name != without]
        work = self.workspace(
            f"-{router}-{without}" if without else f"-{router}", f"gate.init={router}", without=without
        )
        if not (work.out / MERGED).is_dir():
            merge_experts(work, folders)
        model, card = read_mixture(work.out / MERGED)
        return work, model, card.template, card.backbone_settings.resolved_length


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the eight files")
    parser.add_argument("--out", type=Path, default=Path("runs/silos"))
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="measure only these parts")
    names = [name for models in MODELS.values() for name in models]
    parser.add_argument("--models", nargs="*", choices=names, default=names, help="of the parts, only these models")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="override a setting, as KEY=VALUE")
    add_most_rows(parser)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of federated averaging")
    parser.add_argument("--print-only", action="store_true")
    args = parser.parse_args()
    limit_by_option(args)
    print(f"seeds: {', '.join(map(str, args.seeds))}", flush=True)
    for seed in () if args.print_only else args.seeds:
        measure(Silos(args, seed))
    print_results(args)


def measure(silos: Silos) -> None:
    """Measure the selected parts and models of one seed that have no result yet."""
    args, seed = silos.args, silos.seed
    for part in args.parts:
        for name, model in MODELS.get(part, {}).items():
            if name in args.models and name not in {result["model"] for result in read_results(args.out, seed)}:
                append_result(args.out, seed, name, model(silos))
    if "unfamiliar" in args.parts:
        path = args.out / f"unfamiliar-{seed}.jsonl"
        for domain in silos.workspace().run.domains:
            if domain not in {line["left_out"] for line in read_lines(path)}:
                append_line(path, measure_unfamiliar(silos, domain))


def evaluate_router(
    silos: Silos, router: str, routing: Routing = "soft", pin: bool = False, uniform_gates: bool = False
) -> TestResult:
    """Evaluate the merged experts under a router that was not trained.

    Args:
        routing: soft, or hard: each text goes to its most probable expert.
        pin: restrict each row to the expert of its true domain.
        uniform_gates: give all experts equal weights instead of the router's.
    """
    work, model, template, length = silos.merged(router)
    return evaluate_model(model, work, template, length, routing=routing, pin=pin, uniform_gates=uniform_gates)


def measure_pooled(silos: Silos) -> TestResult:
    """Measure one LoRA of the same total rank on all rows, each read as often as by the experts."""
    work = silos.workspace("-pooled")
    model, run = load_single_expert(train_pooled(work, resume=True))
    return evaluate_model(model, work, run.template, run.backbone.resolved_length)


def measure_fedavg(silos: Silos) -> TestResult:
    """Measure a LoRA of the same total rank trained by federated averaging.

    In each round every domain trains a copy of the common weights on its rows, and the copies are averaged, by rows.
    """
    work = silos.workspace("-fedavg")
    run, rank = work.run, routed_rank(work)
    lora = run.lora.model_copy(update={"r": rank, "alpha": run.lora.alpha * rank / run.lora.r})
    run = run.model_copy(update={"lora": lora})
    torch.manual_seed(silos.seed)
    work.begin()
    model = build_expert_model(run, "common", build_adapter, polarity=False, seed=silos.seed)
    model.bank.train_only("common")
    epochs, rounds = run.stages.expert.epochs, silos.args.rounds
    rows = {name: work.rows("train", [name]) for name in run.domains}
    common = {key: tensor.detach().clone() for key, tensor in model.trained_state().items()}
    for turn in range(rounds):
        # cosine schedule over the rounds, as that of one long training
        rate = 0.5 * run.stages.expert.lr * (1 + math.cos(math.pi * turn / rounds))
        total = {key: torch.zeros_like(tensor) for key, tensor in common.items()}
        for name, own in rows.items():
            model.load_trained_state(common)
            train_round(model, work, name, rate, epochs / rounds, seed=silos.seed * 1000 + turn)
            for key, tensor in model.trained_state().items():
                total[key] += tensor.detach() * (len(own) / sum(map(len, rows.values())))
        common = total
    model.load_trained_state(common)
    return evaluate_model(model.eval(), work, run.template, run.backbone.resolved_length)


def train_round(model: Mixture, work: Workspace, domain: str, rate: float, epochs: float, seed: int) -> None:
    """Train a model's adapter and heads on some rows of one domain, with the losses of the experts' stage."""
    run, rows = work.run, work.rows("train", [domain])
    settings, device = run.stages.expert, model.special_token_ids.device
    names = [known.name for known in model.domains]
    collate = Collator(model.loaded_backbone.tokenizer, run.template, run.backbone.resolved_length, model.labels, names)
    objective = Objective(
        EXPERT,
        settings=run.losses,
        dao=run.dao,
        labels=model.labels,
        domain_expert_mask=model.domain_expert_mask,
        seed=seed,
        context=LossContext.of(model),
        counts=count_labels(rows, model.labels),
    )
    trained = [*model.bank.adapter_parameters("common").values(), *model.heads.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=settings.weight_decay)
    steps = math.ceil(epochs * len(rows) / settings.batch_size)
    model.train()
    for chosen in _batches(len(rows), settings.batch_size, steps, seed):
        batch = {key: tensor.to(device) for key, tensor in collate([rows[int(i)] for i in chosen]).items()}
        loss = objective(model(batch["input_ids"], batch["attention_mask"]), batch)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()


def _batches(rows: int, size: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the rows of each step, every row once before any is read again."""
    random, order = np.random.default_rng(seed), np.zeros(0, dtype=int)
    for _ in range(steps):
        while len(order) < min(size, rows):
            order = np.concatenate([order, random.permutation(rows)])
        yield order[:size]
        order = order[size:]


@torch.no_grad()
def measure_unfamiliar(silos: Silos, domain: str) -> Line:
    """Merge the experts without a domain, and score test texts of all domains by how unfamiliar they are."""
    _, model, template, length = silos.merged("centroid", without=domain)
    rows = subsample_per_domain(silos.workspace().rows("test"), SCORED_ROWS, silos.seed)
    assert model.gate is not None
    assert model.gate.prior is not None
    prototypes = model.gate.prior.prototypes
    assert prototypes is not None
    means = torch.as_tensor(mean_states(model, rows, template, length)).to(prototypes.means)  # (N, D)
    distance = prototypes.distance(means)  # (N,)
    routing = nn.functional.linear(means, model.gate.prior.weight, model.gate.prior.bias).softmax(1)  # (N, E)
    predictor = TorchPredictor(model, template, length)
    scores = predictor.score(list(rows["text"]), None, list(rows["target"]))
    confidence = [each.confidence for each in predictor.to_predictions(scores, predictor.routed_tasks(scores))]
    return {
        "seed": silos.seed,
        "left_out": domain,
        "domains": list(rows["domain"]),
        "unfamiliar": (distance > prototypes.threshold).int().tolist(),
        "scores": {
            "distance": _rounded(distance),
            "routing weight": _rounded(-routing.amax(1)),
            "softmax": [round(-value, 5) for value in confidence],
        },
    }


def _rounded(values: Tensor) -> list[float]:
    return [round(float(value), 5) for value in values]


MODELS: dict[str, dict[str, Callable[[Silos], TestResult]]] = {
    "mixtures": {
        **{router: partial(evaluate_router, router=router) for router in ROUTERS},
        "centroid, hard": partial(evaluate_router, router="centroid", routing="hard"),
        "equal gates": partial(evaluate_router, router="random", uniform_gates=True),
        "true domain": partial(evaluate_router, router="centroid", pin=True),
    },
    "pooled": {"pooled": measure_pooled},
    "fedavg": {"fedavg": measure_fedavg},
}
"""By part, the models by the name under which results are saved."""
TITLES = {
    **{router: f"experts trained apart, {router} router" for router in ROUTERS},
    "centroid, hard": "the same, centroid, hard routing",
    "equal gates": "the same, equal gates",
    "true domain": "the same, true domain given",
    "pooled": "pooled LoRA of equal total rank, all rows",
    "fedavg": "the same LoRA, federated averaging",
}
"""Titles in the printed tables."""


def print_results(args: argparse.Namespace) -> None:
    """Print macro-F1 by domain with the router's share of right domains, differences, and AUROC by domain left out."""
    run = load_run(args.config, [f"data.folder={args.data}", *args.sets])
    print_accuracy(read_all_results(args.out), run.label_space(), TITLES, ("centroid", "pooled"))
    lines = [line for path in sorted(args.out.rglob("unfamiliar-*.jsonl")) for line in read_lines(path)]
    table = Table(title="AUROC of a left-out domain's test texts against the others'", title_justify="left")
    for column in ("left out", "seeds", "distance", "routing weight", "softmax", "unfamiliar", "unfamiliar of others"):
        table.add_column(column)
    means: list[Sequence[float]] = []
    for domain in dict.fromkeys(line["left_out"] for line in lines):
        seeds = [line for line in lines if line["left_out"] == domain]
        cells = np.mean([unfamiliar_metrics(line) for line in seeds], axis=0)
        means.append(cells)
        table.add_row(domain, str(len(seeds)), *(f"{cell:.3f}" for cell in cells))
    if means:
        table.add_row("mean", "", *(f"{cell:.3f}" for cell in np.mean(means, axis=0)))
    Console(width=150).print(table)


def unfamiliar_metrics(line: Line) -> list[float]:
    """Return the AUROC of each score, and the shares marked as unfamiliar of the left-out domain and of the others."""
    left_out = np.array(line["domains"]) == line["left_out"]
    marked = np.array(line["unfamiliar"])
    auroc = [float(roc_auc_score(left_out, values)) for values in line["scores"].values()]
    return [*auroc, float(marked[left_out].mean()), float(marked[~left_out].mean())]


if __name__ == "__main__":
    main()
