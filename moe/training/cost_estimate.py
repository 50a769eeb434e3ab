"""Estimate of a run's trainable parameters, memory and time from a few steps of each kind of stage.

Experts of like domains are measured once, at the domain with the longest texts, and scaled by the tokens of the others.
"""

import ctypes
import gc
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from experts.domain import Domain
from experts.expert_io import CONFIG, read_expert, write_expert
from experts.lora import Adapter
from moe.config.stages import JOINT, PRETRAIN, SHARED, WARMUP
from moe.console import progress_bar, suppress_output
from moe.data.collator import Collator
from moe.model.backbone import default_device, load_tokenizer, read_backbone_config
from moe.profiling import MIB, Cost, measure_cost, resident_mib, seconds_since_start
from moe.runs.best import CANDIDATES
from moe.runs.cost_model import RunCost, StageCost, StepCost, savings
from moe.runs.dry_run import DryRun, DryRunStats, StageSize, estimate_tokens
from moe.runs.training_log import read_trajectory
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.instruct import instruct
from moe.training.pretrain import pretrain, pretrain_shared
from moe.training.steps import merge_experts, train_stage

Figures = dict[str, Any]
Step = Callable[[Workspace], object]
Tokens = Mapping[str, Mapping[str, np.ndarray]]
"""Tokens of each row, (N,), by split and domain."""


@dataclass(frozen=True)
class _Measured:
    """A stage that was run briefly."""

    stats: DryRunStats
    cost: StageCost
    figures: Figures


def estimate_cost(run: Workspace) -> Figures:
    """Run a few steps of every kind of stage, in a temporary folder, and estimate the cost of the entire run.

    Returns:
        `stages`, each with `weights`, `learned`, `steps`, `seconds_per_step`, `evaluations`, `seconds`, `at_most`
        (whether patience may end it sooner), `measured` (the stage it was estimated from) and `peak_mib`, and under
        `memory` its parts in MiB: `program`, `weights`, `gradients`, `optimizer`, `activations` with everything else,
        and the `cache` of the trunk's states; `evaluation` of the finished models, with its `rows`, `models` and
        `seconds`; `seconds` of everything and one start of the program (`start_seconds`), the largest `peak_mib`,
        `machine`, `cache_trunk`, `savings` (see `moe.runs.cost_model.savings`), and `plan_seconds`.

    Raises:
        Fault: if a stage raises one; if memory runs out, with the setting to lower.
    """
    program_mib, start, began = resident_mib(), seconds_since_start(), time.perf_counter()
    dry_run = DryRun()
    measured: dict[str, _Measured] = {}
    with _dry_run_workspace(run) as work:
        tokens = _token_counts(work)
        work.dry_run = dry_run
        steps = list(_steps(work, dry_run, tokens))
        with progress_bar("plan", len(steps), "stage") as meter:
            for step in steps:
                _release_memory()  # so that memory of the last stage is not counted for the next
                measured |= {each.cost.name: each for each in _measure_step(work, dry_run, step, tokens, program_mib)}
                meter.advance()
        stages = _in_order(work, measured, tokens)
    evaluation = _final_evaluation(run, measured, tokens)
    cost = _run_cost(run, [each.cost for each in stages], start + evaluation["seconds"], tokens)
    settings = {name: getattr(run.run.stages, name).model_dump() for name in {each.cost.stage for each in stages}}
    figures = [
        each.figures | {"seconds_per_step": stage.seconds_per_step, "seconds": stage.seconds}
        for each, stage in zip(stages, cost.stages, strict=True)
    ]
    return {
        "stages": figures,
        "evaluation": evaluation,
        "start_seconds": start,
        "seconds": cost.seconds,
        "peak_mib": max((stage["peak_mib"] for stage in figures if stage["peak_mib"]), default=None),
        "machine": machine_name(),
        "cache_trunk": run.run.stages.cache_trunk,
        "savings": savings(cost, settings),
        "plan_seconds": time.perf_counter() - began,
    }


@contextmanager
def _dry_run_workspace(run: Workspace) -> Iterator[Workspace]:
    """A run with the same settings in a temporary folder; its prepared rows are stored for the real run."""
    with tempfile.TemporaryDirectory(prefix="moe-plan-") as folder, suppress_output():
        yield Workspace(run=run.run, out=Path(folder), data_dir=run.data_dir or run.out)


def _release_memory() -> None:
    gc.collect()
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that is free but still counted as this process's
        except (OSError, AttributeError):  # a C library other than glibc
            return


def _token_counts(work: Workspace) -> Tokens:
    """Tokens of the labelled rows; empty for a language model, whose corpora are packed."""
    run = work.run
    if run.language is not None:
        return {}
    names = list(run.domains)
    collator = Collator(load_tokenizer(run.backbone), run.template, run.backbone.max_length, run.label_space(), names)
    return {
        split: {name: estimate_tokens(work.rows(split, [name]), collator) for name in names}
        for split in ("train", "validation", "test")
    }


def _steps(work: Workspace, dry_run: DryRun, tokens: Tokens) -> Iterator[Step]:
    """The steps of a run, in order, with one domain for each group of like ones."""
    run = work.run
    if run.shared:
        yield train_shared if run.language is None else pretrain_shared
    if run.language is None:
        for group in _like_domains(work, tokens):
            yield partial(_train_for_group, dry_run=dry_run, group=group)
    else:
        roles = dict.fromkeys(domain.group for domain in run.domain_list())
        yield from (partial(pretrain, role=role) for role in roles)
    yield _merge_and_warm_up
    yield partial(train_stage, stage=JOINT, before=work.out / WARMUP.folder)
    if run.language is not None and any(run.questions_of(name) for name in run.domains):
        yield partial(instruct, model=work.out / JOINT.folder)


def _like_domains(work: Workspace, tokens: Tokens) -> list[list[str]]:
    """Domains in groups whose experts have the same losses, the one with the longest texts first."""
    groups: dict[bool, list[str]] = {}
    for name in work.run.domains:
        scored = any(score is not None for score in work.rows("train", [name])["score"])
        groups.setdefault(scored, []).append(name)
    mean_tokens = {name: float(counts.mean()) if len(counts) else 0.0 for name, counts in tokens["train"].items()}
    return [sorted(group, key=lambda name: -mean_tokens[name]) for group in groups.values()]


def _train_for_group(work: Workspace, dry_run: DryRun, group: Sequence[str]) -> None:
    """Measure the expert of a group's first domain, and write experts of the others that only have its shape."""
    dry_run.like = {name: work.rows("train", [name]) for name in group[1:]}
    source, *_ = train_domain(work, group[0])
    dry_run.like = {}
    domains = work.domains()
    copies = [(domains[name], expert) for name in group[1:] for expert in domains[name].expert_names]
    for i, (domain, name) in enumerate(copies):
        _write_copy(work, source, domain, name, scale=1 + 0.01 * (i + 1))


def _write_copy(work: Workspace, source: Path, domain: Domain, name: str, scale: float) -> None:
    """Write an expert of a domain with the weights of another one, scaled so that all of them differ."""
    expert, space = read_expert(source), work.run.label_space()
    assert expert.card is not None
    heads = dict.fromkeys(space.head_by_task[task] for task in domain.tasks)
    card = expert.card.model_copy(
        update={
            "name": name,
            "domain": domain.name,
            "role": domain.group,
            "tasks": {task: tuple(labels) for task, labels in domain.tasks.items()},
            "target_tasks": domain.target_tasks,
            "heads": {head: space.heads[head] for head in heads},
        }
    )
    write_expert(
        work.expert_folder(name),
        card,
        adapter=Adapter(expert.peft_config, expert.card.layers),
        weights={key: tensor * scale for key, tensor in expert.weights.items()},
        heads=expert.heads,
        config=(source / CONFIG).read_text(encoding="utf-8"),
        metrics={},
    )


def _merge_and_warm_up(work: Workspace) -> None:
    train_stage(work, WARMUP, merge_experts(work))


def _measure_step(work: Workspace, dry_run: DryRun, step: Step, tokens: Tokens, program_mib: float) -> list[_Measured]:
    """Measurements of each stage that a step runs; training several experts runs several."""
    cost, before = Cost(), len(dry_run.stages)
    with measure_cost(cost):
        step(work)
    stages = dry_run.stages[before:]
    seconds = [_step_seconds(work, stats) for stats in stages]
    spent = sum(map(sum, seconds)) + sum(sum(stats.evaluation_seconds) for stats in stages)
    load = max(0.0, cost.seconds - spent) / max(1, len(stages))  # reading and writing take as long in the real run
    measured = []
    for stats, durations in zip(stages, seconds, strict=True):
        skipped = 1 if len(durations) > 2 and (torch.cuda.is_available() or stats is dry_run.stages[0]) else 0
        kept = list(zip(stats.batch_tokens, durations, strict=True))[skipped:]  # without one-time costs
        rate = sum(duration for _, duration in kept) / max(1, sum(count for count, _ in kept))
        dry_run.seconds_per_token = max(rate, dry_run.seconds_per_token or 0.0)
        if tokens:
            names = list(_domains_of(work, stats.name)) or list(tokens["validation"])
            stats.evaluated_tokens = int(stats.row_share * sum(tokens["validation"][name].sum() for name in names))
        measured.append(_measured(work, stats, kept, load, cost.peak_mib, program_mib))
    return measured


def _step_seconds(work: Workspace, stats: DryRunStats) -> list[float]:
    """Seconds of each step of a dry run."""
    log = read_trajectory(work.logs(stats.name))
    assert log is not None
    return [row["seconds"] for row in log.rows if "seconds" in row]


def _measured(
    work: Workspace,
    stats: DryRunStats,
    steps: Sequence[tuple[int, float]],
    load: float,
    peak_mib: float | None,
    program_mib: float,
) -> _Measured:
    """Cost of a stage from its measured steps.

    Args:
        steps: tokens and seconds of each.
        load: seconds of everything but steps and evaluations.
    """
    pretraining = work.run.language is not None and stats.stage in (SHARED.name, PRETRAIN.name)
    evaluation = mean(stats.evaluation_seconds) / stats.row_share
    forward = stats.seconds_per_evaluated_token or None
    step = StepCost.fit([count for count, _ in steps], [duration for _, duration in steps], forward)
    cost = StageCost(
        stage=stats.stage,
        name=stats.name,
        size=stats.size,
        step=step,
        evaluation=evaluation,
        evaluations=stats.size.evaluations + int(pretraining),  # which also evaluates before training
        load=load,
        at_most=stats.may_end_early,
    )
    mapped = 0.0 if torch.cuda.is_available() else stats.cached_bytes / MIB  # memory-mapped: resident once read
    figures = {
        "stage": stats.stage,
        "name": stats.name,
        "weights": stats.model_size[0],
        "learned": stats.trainable,
        "steps": cost.size.steps,
        "evaluations": cost.evaluations,
        "seconds_per_evaluation": evaluation,
        "at_most": cost.at_most,
        "measured": stats.name,
        "peak_mib": None if peak_mib is None else peak_mib + mapped,
        "memory": _memory_by_part(stats, peak_mib, program_mib) | {"cache": mapped},
    }
    return _Measured(stats, cost, figures)


def _memory_by_part(stats: DryRunStats, peak_mib: float | None, program_mib: float) -> dict[str, float]:
    """MiB by part: gradients of trainable parameters are float32, and AdamW has two moments for each."""
    parts = {
        "program": 0.0 if torch.cuda.is_available() else program_mib,
        "weights": stats.model_size[1] / MIB,
        "gradients": 4 * stats.trainable / MIB,
        "optimizer": 8 * stats.trainable / MIB,
    }
    return parts if peak_mib is None else parts | {"activations": max(0.0, peak_mib - sum(parts.values()))}


def _in_order(work: Workspace, measured: Mapping[str, _Measured], tokens: Tokens) -> list[_Measured]:
    """All stages of a run, in order: the measured ones, and the experts that they stand for."""
    known = dict(measured)
    for each in measured.values():
        for domain, size in each.stats.like.items():
            share = _mean_ratio(tokens["validation"], domain, next(iter(_domains_of(work, each.cost.name))))
            for name in work.domains()[domain].expert_names:
                known[name] = _scaled(each, name, size, share)
    experts = [name for domain in work.run.domain_list() for name in domain.expert_names]
    shared = [name for name in known if known[name].cost.stage == SHARED.name]
    rest = [name for name in known if name not in (*experts, *shared)]
    return [known[name] for name in (*shared, *experts, *rest) if name in known]


def _domains_of(work: Workspace, expert: str) -> Iterator[str]:
    return (domain.name for domain in work.run.domain_list() if expert in domain.expert_names)


def _mean_ratio(tokens: Mapping[str, np.ndarray], domain: str, other: str) -> float:
    """Tokens of a domain's rows relative to those of another one's."""
    return float(tokens[domain].sum()) / max(1.0, float(tokens[other].sum()))


def _scaled(source: _Measured, name: str, size: StageSize, share: float) -> _Measured:
    """A stage with the costs of another one per token.

    Args:
        share: its validation tokens relative to those of the other one.
    """
    evaluation = source.cost.evaluation * share
    cost = replace(source.cost, name=name, size=size, evaluation=evaluation, evaluations=size.evaluations)
    figures = source.figures | {
        "name": name,
        "steps": size.steps,
        "evaluations": size.evaluations,
        "seconds_per_evaluation": evaluation,
    }
    return _Measured(source.stats, cost, figures)


def _final_evaluation(run: Workspace, measured: Mapping[str, _Measured], tokens: Tokens) -> Figures:
    """Cost of evaluating every finished model on the test rows, and the merged mixture on the validation rows."""
    if run.run.language is not None:
        return {"rows": 0, "models": 0, "seconds": 0.0}
    test, validation = ({name: int(counts.sum()) for name, counts in tokens[split].items()} for split in _HELD_OUT)
    rates = {name: each.stats.seconds_per_evaluated_token for name, each in measured.items()}
    mixture = max(rates[WARMUP.folder], rates[JOINT.folder])
    single = max((rate for name, rate in rates.items() if name not in CANDIDATES), default=mixture)
    seconds = mixture * (len(CANDIDATES) * sum(test.values()) + sum(validation.values())) + single * sum(test.values())
    rows = sum(len(counts) for counts in tokens["test"].values())
    return {"rows": rows, "models": len(CANDIDATES) + len(test), "seconds": seconds}


_HELD_OUT = ("test", "validation")


def _run_cost(run: Workspace, stages: Sequence[StageCost], rest: float, tokens: Tokens) -> RunCost:
    """Cost of the whole run, with the trunk's states from disk if the run caches them."""
    config, backbone = read_backbone_config(run.run.backbone), run.run.backbone
    lengths = np.concatenate(list(tokens["train"].values())) if tokens else np.zeros(0, int)  # (N,)
    train, validation = (_rows_by_task(run, split) if tokens else {} for split in ("train", "validation"))
    cost = RunCost(
        stages=stages,
        rest=rest,
        layers=config.num_hidden_layers,
        trunk_depth=backbone.trunk_depth,
        cached=False,
        cache_bytes=int(lengths.sum()) * config.hidden_size * 4,
        max_length=backbone.max_length,
        lengths=lengths,
        train_rows=train,
        validation_rows=validation,
    )
    caches = run.run.stages.cache_trunk and backbone.trunk_depth > 0
    return cost.with_trunk(backbone.trunk_depth, True) if caches else cost


def _rows_by_task(run: Workspace, split: str) -> dict[str, int]:
    """Rows of each task; a domain with a single task counts under its own name, that of its expert."""
    with suppress_output():
        return {
            task: len(prepared.splits[split])
            for domain in run.run.domains
            for task, prepared in run.prepared(domain).items()
        }


def machine_name() -> str:
    """Name of the GPU, or of the CPU with the number of threads."""
    if default_device().type == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    count = torch.get_num_threads()
    return f"{name or platform.processor() or platform.machine()}, {count} thread{'s' * (count > 1)}"
