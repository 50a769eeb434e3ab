"""Several experts of one domain as uncertainty in one pass, against temperature alone: ECE and AURC.

Run: `python benchmarks/uncertainty.py FOLDER`, with fpb.csv and stockemotions.csv in FOLDER. Each data set is a domain
with four experts (`experts: 4`), trained from different seeds on top of one shared expert. Compared, on test rows:

- one expert, as it is and with a temperature fitted on validation rows;
- the mixture of the four with equal gates, with a temperature: one pass;
- the four heads on the state of that pass, their probabilities averaged: one pass;
- the four experts, each on its own, their probabilities averaged: four passes.

AURC is the mean error rate over all coverages when rows are retained from the most to the least certain, in %; lower is
better. Certainty is the largest probability, or minus the spread between the four (mutual information). It resumes
where it stopped, and prints the results so far.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from predictions import append_line, format_points, read_lines
from rich.console import Console
from rich.table import Table
from scipy.special import softmax

from moe.bootstrap import Interval, confidence_bin
from moe.checkpoints.mixture import read_mixture
from moe.config.overrides import apply_override
from moe.config.run import RunSettings, parse_run
from moe.config.stages import MERGED
from moe.evaluation.calibration.temperature import TaskLogits, fit_temperature
from moe.evaluation.metrics import calibration_error
from moe.evaluation.rows import iter_chunks
from moe.inference.torch_predictor import TorchPredictor
from moe.model.heads import MixedHeads
from moe.model.mixture import Mixture
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.steps import merge_experts

SEEDS = (13, 42, 87)
EXPERTS = 4
DOMAINS: dict[str, Mapping[str, Any]] = {
    "fpb": {"labels": ["negative", "neutral", "positive"], "split": {"ratios": [70, 10, 20]}},
    "stockemotions": {"labels": ["negative", "positive"], "max_train_rows": 2000},
}
DRAWS, DIGITS = 1000, 4
BASE = "one expert, temperature"
"""The method that the others are compared with."""


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with the two files")
    parser.add_argument("--out", type=Path, default=Path("runs/uncertainty"))
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--domains", nargs="*", choices=DOMAINS, default=list(DOMAINS), help="only these data sets")
    parser.add_argument("--prepared", type=Path, help="folder of prepared rows; processes may share a filled one")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="override a setting, as KEY=VALUE")
    parser.add_argument("--print-only", action="store_true")
    args = parser.parse_args()
    if not args.print_only:
        finished = {(line["seed"], line["domain"]) for line in read_all_lines(args.out)}
        for seed in args.seeds:
            missing = [domain for domain in args.domains if (seed, domain) not in finished]
            for line in measure(args, seed, missing) if missing else ():
                append_line(args.out / "logits.jsonl", line)
    print_results(read_all_lines(args.out))


def read_all_lines(out: Path) -> list[dict[str, Any]]:
    """Return the results in a folder and below it, the first of each seed and domain."""
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    for path in sorted(out.rglob("logits.jsonl")):
        for line in read_lines(path):
            lines.setdefault((line["domain"], line["seed"]), line)
    return [lines[key] for key in sorted(lines)]


def settings(args: argparse.Namespace, seed: int) -> RunSettings:
    """Return the settings of a run: the default recipe, with several experts for each domain."""
    raw: dict[str, Any] = {
        "seed": seed,
        "backbone": {"dtype": "float32", "max_length": 96},
        "data": {"folder": str(args.folder)},
        "domains": {name: {"file": f"{name}.csv", "experts": EXPERTS, **DOMAINS[name]} for name in DOMAINS},
        "track": [],
    }
    for override in args.sets:
        apply_override(raw, override)
    return parse_run(raw, "uncertainty")


def measure(args: argparse.Namespace, seed: int, domains: Sequence[str]) -> list[dict[str, Any]]:
    """Train the experts, and return the logits of validation and test rows of some domains."""
    work = Workspace(settings(args, seed), args.out / str(seed), args.prepared or args.out / "rows")
    print(f"seed {seed}: {', '.join(domains)}", flush=True)
    train_shared(work, resume=True)
    for name in domains:
        train_domain(work, name, resume=True)
    target = work.out / MERGED
    merge_experts(work, overwrite=True, resume=True)
    model, card = read_mixture(target)
    mode = replace(model.mode, uniform_gates=True)
    length = card.backbone_settings.resolved_length
    predictor = TorchPredictor(model, card.template, length, states=True, mode=mode)
    return [
        {"domain": domain, "seed": seed}
        | {split: logits_of_rows(predictor, work, domain, split) for split in ("validation", "test")}
        for domain in domains
    ]


@torch.inference_mode()
def logits_of_rows(predictor: TorchPredictor, work: Workspace, domain: str, split: str) -> dict[str, Any]:
    """Return the true labels (N,) and the logits of rows: mixed (N, K), by head (E, N, K), by expert (E, N, K)."""
    model = predictor.model
    names = next(each.expert_names for each in model.domains if each.name == domain)
    head = model.labels.head_by_task[domain]
    columns = [i for i, used in enumerate(model.labels.mask(domain)) if used]
    true: list[int] = []
    parts: dict[str, list[np.ndarray]] = {"mixed": [], "heads": [], "experts": []}
    for chunk in iter_chunks(work.rows(split, [domain]), predictor.chunk_size):
        rows = [row for row in chunk if row["label"] >= 0]
        texts = [row["text"] for row in rows]
        true += [row["label"] for row in rows]
        scores = predictor.score(texts, [domain] * len(texts))
        assert scores.states is not None
        alone = []
        for name in names:
            with model.single_expert(name) as mode:
                alone.append(predictor.with_mode(mode).score(texts).logits[head])
        parts["mixed"].append(scores.logits[head][None])
        parts["heads"].append(head_logits(model, scores.states, names, head))
        parts["experts"].append(np.stack(alone))
    logits = {name: np.concatenate(values, 1)[:, :, columns] for name, values in parts.items()}
    return {"true": true} | {name: np.round(values, DIGITS).tolist() for name, values in logits.items()}


def head_logits(model: Mixture, states: np.ndarray, names: Sequence[str], head: str) -> np.ndarray:
    """Return the logits (E, N, K) of some experts' own heads on pooled states (N, D)."""
    assert isinstance(model.heads, MixedHeads)
    pooled = torch.tensor(states, device=model.domain_expert_mask.device)  # (N, D)
    return np.stack([model.heads.experts[name](pooled).logits[head].float().cpu().numpy() for name in names])


@dataclass(frozen=True)
class Answers:
    """A method's answers to the rows of a task.

    Args:
        probabilities: (N, K).
        certainty: (N,), by which rows are ordered.
    """

    probabilities: np.ndarray
    certainty: np.ndarray


Logits = Mapping[str, np.ndarray]
"""`true` (N,), `mixed` (1, N, K), `heads` and `experts` (E, N, K)."""


def answer(kind: str, *, temperature: bool, spread: bool = False) -> Callable[[Logits, Logits], Answers]:
    """Return a method: probabilities of test rows from the logits of validation and test rows.

    Args:
        kind: `one` of the experts, the `mixed` logits, or the mean probability over `heads` or `experts`.
        temperature: divide the logits by one that is fitted on validation rows.
        spread: order rows by the mutual information of label and member instead of the largest probability.
    """

    def method(validation: Logits, test: Logits) -> Answers:
        members = [np.asarray(part["experts"][:1] if kind == "one" else part[kind]) for part in (validation, test)]
        averaged = [np.log(softmax(logits, axis=-1).mean(0).clip(1e-12)) for logits in members]  # (N, K) each
        fitted = fit_temperature(TaskLogits(averaged[0], validation["true"])) if temperature else 1.0
        probabilities: np.ndarray = softmax(averaged[1] / fitted, axis=-1)
        certainty = -mutual_information(softmax(members[1], axis=-1)) if spread else probabilities.max(1)
        return Answers(probabilities, certainty)

    return method


def mutual_information(probabilities: np.ndarray) -> np.ndarray:
    """Return how much members (E, N, K) differ on each row (N,): entropy of the mean less mean entropy, in nats."""
    information: np.ndarray = _entropy(probabilities.mean(0)) - _entropy(probabilities).mean(0)
    return information


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    entropy: np.ndarray = -(probabilities * np.log(probabilities.clip(1e-12))).sum(-1)
    return entropy


METHODS: dict[str, Callable[[Logits, Logits], Answers]] = {
    "one expert": answer("one", temperature=False),
    BASE: answer("one", temperature=True),
    "four experts mixed, one pass, temperature": answer("mixed", temperature=True),
    "spread of heads, one pass": answer("heads", temperature=False),
    "spread of heads, one pass, temperature": answer("heads", temperature=True),
    "spread of heads, one pass, by information": answer("heads", temperature=True, spread=True),
    "four experts apart, four passes": answer("experts", temperature=False),
    "four experts apart, four passes, temperature": answer("experts", temperature=True),
    "four experts apart, by information": answer("experts", temperature=True, spread=True),
}


def area_under_risk_coverage(certainty: np.ndarray, correct: np.ndarray) -> float:
    """Return the mean, over coverages 1/N to 1, of the error rate of the most certain rows; 0 to 1, lower is better.

    Args:
        certainty: (N,).
        correct: (N,), whether each answer is right.
    """
    order = np.argsort(-certainty, kind="stable")
    return float((np.cumsum(~correct[order]) / np.arange(1, len(order) + 1)).mean())


def metrics_of(answers: Answers, true: np.ndarray) -> np.ndarray:
    """Return accuracy, ECE and AURC (3,) of answers."""
    confidence, correct = answers.probabilities.max(1), answers.probabilities.argmax(1) == true  # (N,) each
    ece = calibration_error(confidence, correct, confidence_bin(confidence))
    return np.array([correct.mean(), ece, area_under_risk_coverage(answers.certainty, correct)])


def print_results(lines: Sequence[Mapping[str, Any]]) -> None:
    """Print accuracy, ECE and AURC by data set and method, with differences from one expert with a temperature."""
    console = Console(width=190)
    for domain in dict.fromkeys(line["domain"] for line in lines):
        own = [line for line in lines if line["domain"] == domain]
        splits = [[_arrays(line[split]) for split in ("validation", "test")] for line in own]
        answers = {name: [method(*pair) for pair in splits] for name, method in METHODS.items()}
        values, draws = resample(answers, splits[0][1]["true"])
        seeds = ", ".join(str(line["seed"]) for line in own)
        table = Table(
            title=f"{domain}: seeds {seeds}; {EXPERTS} experts; in %, differences from {BASE!r} in points, "
            "95 % over rows and seeds",
            title_justify="left",
        )
        table.add_column("method")
        for metric in ("accuracy", "ECE", "AURC"):
            table.add_column(metric)
            table.add_column("difference")
        for name in METHODS:
            cells = [name]
            for i in range(3):
                difference = draws[name][:, i] - draws[BASE][:, i]
                low, high = np.percentile(difference, (2.5, 97.5))
                lead = Interval(float(values[name][i] - values[BASE][i]), float(low), float(high))
                cells += [f"{100 * values[name][i]:.2f}", "" if name == BASE else format_points(lead)]
            table.add_row(*cells)
        console.print(table)


def resample(answers: Mapping[str, Sequence[Answers]], true: np.ndarray) -> tuple[dict[str, np.ndarray], ...]:
    """Return the metrics of every method (3,), means over seeds, and those of resampled rows and seeds (DRAWS, 3)."""
    values = {name: np.mean([metrics_of(seed, true) for seed in own], axis=0) for name, own in answers.items()}
    source, seeds = np.random.default_rng(0), len(next(iter(answers.values())))
    draws: dict[str, list[np.ndarray]] = {name: [] for name in answers}
    for _ in range(DRAWS):
        rows, chosen = source.integers(len(true), size=len(true)), source.integers(seeds, size=seeds)
        for name, own in answers.items():
            sample = [
                metrics_of(Answers(own[seed].probabilities[rows], own[seed].certainty[rows]), true[rows])
                for seed in chosen
            ]
            draws[name].append(np.mean(sample, axis=0))
    return values, {name: np.array(own) for name, own in draws.items()}


def _arrays(saved: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in saved.items()}


if __name__ == "__main__":
    main()
