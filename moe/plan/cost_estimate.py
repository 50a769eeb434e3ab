"""Estimate of a run's trainable parameters, memory and time from a few steps of each kind of stage.

Experts of like domains are measured once, at the domain with the longest texts, and scaled by the tokens of the others.
"""

import math
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from experts.domain import Domain
from experts.expert_io import CONFIG, read_expert, write_expert
from experts.lora import Adapter
from moe.checkpoints.expert import SHARED_NAME
from moe.config.stages import EXPERT, INSTRUCT, JOINT, PRETRAIN, SHARED, WARMUP
from moe.console import progress_bar, suppress_output
from moe.model.backbone import read_backbone_config
from moe.model.device import default_device
from moe.plan.cost_model import Saving, savings
from moe.plan.dry_run import DryRun, DryRunStats
from moe.plan.measured_cost import (
    EvaluationEstimate,
    MeasuredStage,
    StageEstimate,
    Tokens,
    domains_of,
    final_evaluation,
    measured_stage,
    run_cost,
    scaled_stage,
    token_counts,
)
from moe.profiling import Cost, measure_cost, release_memory, resident_mib, seconds_since_start
from moe.runs.layout import POOLED
from moe.runs.locking import writes_run
from moe.runs.training_log import read_trajectory
from moe.runs.workspace import Workspace
from moe.training.expert_folder import place_frozen_expert
from moe.training.expert_steps import new_expert, pooled_domain
from moe.training.language.instruct import question_data
from moe.training.pooled import pooled_settings
from moe.training.steps import merge_experts

Step = Callable[[Workspace], object]


@dataclass(frozen=True)
class CostEstimate:
    """Estimated cost of a run.

    Args:
        stages: estimate of each stage, in order.
        evaluation: estimate for the evaluation of the finished models.
        start_seconds: seconds of one start of the program.
        seconds: of everything, the start included.
        peak_mib: largest peak memory of a stage in MiB; None if it cannot be measured.
        texts: lines on what truncation costs.
        machine: name of the GPU or CPU that the estimate is for.
        cache_trunk: whether the run caches the trunk's states.
        savings: changes of settings that would make the run shorter.
        plan_seconds: seconds that the estimate took.
    """

    stages: Sequence[StageEstimate]
    evaluation: EvaluationEstimate
    start_seconds: float
    seconds: float
    peak_mib: float | None
    texts: Sequence[str]
    machine: str
    cache_trunk: bool
    savings: Sequence[Saving]
    plan_seconds: float


@writes_run
def estimate_cost(run: Workspace) -> CostEstimate:
    """Run a few steps of every kind of stage, in a temporary folder, and estimate the cost of the entire run.

    Raises:
        Fault: if a stage raises one; if memory runs out, with the setting to lower.
    """
    program_mib, start, began = resident_mib(), seconds_since_start(), time.perf_counter()
    dry_run = DryRun(caches_trunk=run.run.stages.cache_trunk and run.run.backbone.trunk_depth > 0)
    with suppress_output():
        run.resolve_length()
    measured: dict[str, MeasuredStage] = {}
    with _dry_run_workspace(run) as work:
        work.begin()
        tokens = token_counts(work)
        steps = list(_steps(work, dry_run, tokens))
        with progress_bar("plan", len(steps), "stage") as meter:
            for step in steps:
                release_memory()  # so that memory of the last stage is not counted for the next
                measured |= {each.cost.name: each for each in _measure_step(work, dry_run, step, tokens, program_mib)}
                meter.advance()
        stages = _in_order(work, measured, tokens)
    evaluation = final_evaluation(run, measured, tokens)
    cost = run_cost(run, [each.cost for each in stages], start + evaluation.seconds, tokens)
    return CostEstimate(
        stages=[each.estimate(stage) for each, stage in zip(stages, cost.stages, strict=True)],
        evaluation=evaluation,
        start_seconds=start,
        seconds=cost.seconds,
        peak_mib=max((each.peak_mib for each in stages if each.peak_mib), default=None),
        texts=work.cut_lines(),
        machine=machine_name(),
        cache_trunk=run.run.stages.cache_trunk,
        savings=savings(cost),
        plan_seconds=time.perf_counter() - began,
    )


@contextmanager
def _dry_run_workspace(run: Workspace) -> Iterator[Workspace]:
    """A run with the same settings in a temporary folder; its prepared rows are stored for the real run.

    It does not cache the trunk's states, whose size `DryRun` measures.
    """
    stages = run.run.stages.model_copy(update={"cache_trunk": False})
    settings = run.run.model_copy(update={"stages": stages})
    with tempfile.TemporaryDirectory(prefix="moe-plan-") as folder, suppress_output():
        yield Workspace(run=settings, out=Path(folder), data_dir=run.data_dir or run.out)


def _steps(work: Workspace, dry_run: DryRun, tokens: Tokens) -> Iterator[Step]:
    """The steps of a run, in order, with one domain for each group of like ones."""
    run = work.run
    if run.shared and work.frozen_experts:
        yield partial(place_frozen_expert, overwrite=False)
    elif run.shared:
        yield partial(_train_shared, dry_run=dry_run)
    if run.language is None:
        for group in _like_domains(work, tokens):
            yield partial(_train_for_group, dry_run=dry_run, group=group)
    else:
        roles = dict.fromkeys(domain.group for domain in run.domain_list())
        yield from (partial(_pretrain, dry_run=dry_run, role=role) for role in roles)
    yield partial(_merge_and_warm_up, dry_run=dry_run)
    yield partial(dry_run.train_mixture, stage=JOINT, before=work.out / WARMUP.folder)
    if run.language is not None and any(run.questions_of(name) for name in run.domains):
        before = work.out / JOINT.folder
        yield partial(dry_run.train_mixture, stage=INSTRUCT, before=before, load_data=question_data)


def _train_shared(work: Workspace, dry_run: DryRun) -> None:
    dry_run.train_expert(
        new_expert(work, SHARED, pooled_domain(work.run, SHARED_NAME), SHARED_NAME, seed=work.run.seed)
    )


def _pretrain(work: Workspace, dry_run: DryRun, role: str) -> None:
    for domain in work.run.domain_list():
        for k, name in enumerate(domain.expert_names if domain.group == role else ()):
            dry_run.train_expert(new_expert(work, PRETRAIN, domain, name, seed=work.run.seed + k))


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
    domains, like = work.domains(), {name: work.rows("train", [name]) for name in group[1:]}
    names = domains[group[0]].expert_names
    for k, name in enumerate(names):
        dry_run.train_expert(new_expert(work, EXPERT, domains[group[0]], name, seed=work.run.seed + k), like)
    source = work.expert_folder(names[0])
    copies = [(domains[name], expert) for name in group[1:] for expert in domains[name].expert_names]
    for i, (domain, name) in enumerate(copies):
        _write_copy(work, source, domain, name, scale=1 + 0.01 * (i + 1))


def _write_copy(work: Workspace, source: Path, domain: Domain, name: str, scale: float) -> None:
    """Write an expert of a domain with the weights of another one, scaled so that all of them differ."""
    expert, space = read_expert(source), work.run.label_space()
    assert expert.card is not None
    heads = dict.fromkeys(space.head_by_task[task] for task in domain.tasks if task in space.head_by_task)
    card = expert.card.model_copy(
        update={
            "name": name,
            "domain": domain.name,
            "role": domain.group,
            "tasks": {task: tuple(labels) for task, labels in domain.tasks.items()},
            "target_tasks": domain.target_tasks,
            "kinds": dict(domain.kinds),
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


def _merge_and_warm_up(work: Workspace, dry_run: DryRun) -> None:
    dry_run.train_mixture(work, WARMUP, merge_experts(work))


def _measure_step(
    work: Workspace, dry_run: DryRun, step: Step, tokens: Tokens, program_mib: float
) -> list[MeasuredStage]:
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
        steady = list(zip(stats.batch_tokens, durations, strict=True))[skipped:]  # without one-time costs
        rate = sum(duration for _, duration in steady) / max(1, sum(count for count, _ in steady))
        dry_run.seconds_per_token = max(rate, dry_run.seconds_per_token or 0.0)
        if tokens:
            names = list(domains_of(work, stats.name)) or list(tokens["validation"])
            stats.evaluated_tokens = int(stats.row_share * sum(tokens["validation"][name].sum() for name in names))
        measured.append(measured_stage(work, stats, steady, load, cost.peak_mib, program_mib))
    return measured


def _step_seconds(work: Workspace, stats: DryRunStats) -> list[float]:
    """Seconds of each step of a dry run."""
    log = read_trajectory(work.logs(stats.name))
    assert log is not None
    return [float(row["seconds"]) for row in log.rows if "seconds" in row]


def _in_order(work: Workspace, measured: Mapping[str, MeasuredStage], tokens: Tokens) -> list[MeasuredStage]:
    """All stages of a run, in order: the measured ones, and the experts that they stand for."""
    known = dict(measured)
    for each in measured.values():
        for domain, size in each.stats.like.items():
            share = _mean_ratio(tokens["validation"], domain, next(iter(domains_of(work, each.cost.name))))
            for name in work.domains()[domain].expert_names:
                known[name] = scaled_stage(each, name, size, share)
    experts = [name for domain in work.run.domain_list() for name in domain.expert_names]
    shared = [name for name in known if known[name].cost.stage == SHARED.name]
    rest = [name for name in known if name not in (*experts, *shared)]
    stages = [known[name] for name in (*shared, *experts, *rest) if name in known]
    return stages if work.run.language is not None or len(work.run.domains) == 1 else [*stages, _pooled(work, stages)]


def _pooled(work: Workspace, stages: Sequence[MeasuredStage]) -> MeasuredStage:
    """The pooled LoRA that `moe run` trains for comparison: as the shared expert, or without one as the experts."""
    parts = [each for each in stages if each.cost.stage in (SHARED.name, EXPERT.name)]
    source, train = max(parts, key=lambda each: each.cost.stage == SHARED.name), work.rows("train")
    joint = next(each for each in stages if each.cost.stage == JOINT.name)
    size = source.cost.size if source.cost.stage == SHARED.name else joint.cost.size
    settings = pooled_settings(work, train)
    steps = settings.count_steps(len(size.batch_rows))
    interval = max(1, math.ceil(steps / settings.evals))
    size = replace(size, steps=steps, evaluations=math.ceil(steps / interval))
    learned = sum(each.learned for each in parts)
    config = read_backbone_config(work.run.backbone)
    layers = 12 * config.num_hidden_layers * config.hidden_size**2  # weights of the layers, about
    factor = (layers + learned) / (layers + source.learned)  # its rank is that of all of them together
    share = joint.cost.evaluation / source.cost.evaluation if source.cost.stage != SHARED.name else 1.0
    pooled = scaled_stage(source, POOLED, size, share)
    step = pooled.cost.step
    step = replace(step, forward=step.forward * factor, backward=step.backward * factor)
    cost = replace(pooled.cost, stage=POOLED, step=step, at_most=size.evaluations > settings.patience)
    return replace(pooled, cost=cost, learned=learned)


def _mean_ratio(tokens: Mapping[str, np.ndarray], domain: str, other: str) -> float:
    """Tokens of a domain's rows relative to those of another one's."""
    return float(tokens[domain].sum()) / max(1.0, float(tokens[other].sum()))


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
