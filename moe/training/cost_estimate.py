"""Estimate of a run's trainable parameters, memory and time from a few steps of each of its stages."""

import gc
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.console import Group, RenderableType
from rich.text import Text

from moe.config.stages import JOINT, PRETRAIN, SHARED, WARMUP
from moe.console import Table, format_duration, progress_bar, suppress_output
from moe.model.backbone import default_device
from moe.profiling import MIB, Cost, measure_cost, resident_mib, seconds_since_start
from moe.runs.dry_run import DryRun, DryRunStats
from moe.runs.training_log import read_trajectory
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.instruct import instruct
from moe.training.pretrain import pretrain, pretrain_shared
from moe.training.steps import merge_experts, train_stage

Figures = dict[str, Any]
Step = Callable[[Workspace], object]


def estimate_cost(run: Workspace) -> Figures:
    """Run a few steps of every stage of a run, in a temporary folder, and estimate the cost of the entire run.

    Returns:
        `stages`, each with `weights`, `learned`, `steps`, `seconds_per_step`, `evaluations`, `seconds` and
        `peak_mib`, and under `memory` its parts in MiB: `program`, `weights`, `gradients`, `optimizer`,
        `activations` with everything else, and the `cache` of the trunk's states; `seconds` of all stages and one
        start of the program (`start_seconds`), the largest `peak_mib`, `machine`, `cache_trunk`.

    Raises:
        Fault: if a stage raises one; if memory runs out, with the setting to lower.
    """
    program_mib, start = resident_mib(), seconds_since_start()
    dry_run = DryRun()
    stages: list[Figures] = []
    with _dry_run_workspace(run, dry_run) as work:
        steps = list(_steps(work))
        with progress_bar("plan", len(steps), "stage") as meter:
            for step in steps:
                gc.collect()  # so that memory of the last stage is not counted for the next
                stages += _estimate_step(work, dry_run, step, program_mib)
                meter.advance()
    return {
        "stages": stages,
        "start_seconds": start,
        "seconds": start + sum(stage["seconds"] for stage in stages),
        "texts": work.cut_lines(),
        "peak_mib": max((stage["peak_mib"] for stage in stages if stage["peak_mib"]), default=None),
        "machine": machine_name(),
        "cache_trunk": run.run.stages.cache_trunk,
    }


@contextmanager
def _dry_run_workspace(run: Workspace, dry_run: DryRun) -> Iterator[Workspace]:
    """A run with the same settings in a temporary folder; its prepared rows are stored for the real run."""
    with tempfile.TemporaryDirectory(prefix="moe-plan-") as folder, suppress_output():
        yield Workspace(run=run.run, out=Path(folder), data_dir=run.data_dir or run.out, dry_run=dry_run)


def _steps(work: Workspace) -> Iterator[Step]:
    """The steps of a run, in order."""
    run = work.run
    if run.shared:
        yield train_shared if run.language is None else pretrain_shared
    if run.language is None:
        yield from (partial(train_domain, domain=name) for name in run.domains)
    else:
        roles = dict.fromkeys(domain.group for domain in run.domain_list())
        yield from (partial(pretrain, role=role) for role in roles)
    yield _merge_and_warm_up
    yield partial(train_stage, stage=JOINT, before=work.out / WARMUP.folder)
    if run.language is not None and any(run.questions_of(name) for name in run.domains):
        yield partial(instruct, model=work.out / JOINT.folder)


def _merge_and_warm_up(work: Workspace) -> None:
    train_stage(work, WARMUP, merge_experts(work))


def _estimate_step(work: Workspace, dry_run: DryRun, step: Step, program_mib: float) -> list[Figures]:
    """Figures of each stage that a step runs; training several experts runs several."""
    cost, before = Cost(), len(dry_run.stages)
    with measure_cost(cost):
        step(work)
    stages = [_stage_figures(work, stats, cost, program_mib) for stats in dry_run.stages[before:]]
    spent = sum(figures.pop("spent") for figures in stages)
    for figures in stages:  # reading, loading and writing take as long in the real run as here
        figures["seconds"] += max(0.0, cost.seconds - spent) / len(stages)
    return stages


def _stage_figures(work: Workspace, stats: DryRunStats, cost: Cost, program_mib: float) -> Figures:
    log = read_trajectory(work.logs(stats.name))
    assert log is not None
    seconds = [row["seconds"] for row in log.rows if "seconds" in row]
    step = mean(seconds[1:] or seconds)  # the first step has the largest batch, and one-time costs
    mapped = 0.0 if torch.cuda.is_available() else stats.cached_bytes / MIB  # memory-mapped: resident once read
    short_evaluation = mean(stats.evaluation_seconds)
    pretraining = work.run.language is not None and stats.stage in (SHARED.name, PRETRAIN.name)
    evaluation, extra = short_evaluation / stats.row_share, int(pretraining)  # which also evaluates before training
    return {
        "stage": stats.stage,
        "name": stats.name,
        "weights": stats.model_size[0],
        "learned": stats.trainable,
        "steps": stats.steps,
        "seconds_per_step": step,
        "evaluations": stats.evaluations + extra,
        "seconds_per_evaluation": evaluation,
        "seconds": stats.steps * step + (stats.evaluations + extra) * evaluation,
        "peak_mib": None if cost.peak_mib is None else cost.peak_mib + mapped,
        "memory": _memory_by_part(stats, cost.peak_mib, program_mib) | {"cache": mapped},
        "spent": sum(seconds) + sum(stats.evaluation_seconds) + extra * short_evaluation,
    }


def _memory_by_part(stats: DryRunStats, peak_mib: float | None, program_mib: float) -> dict[str, float]:
    """MiB by part: gradients of trainable parameters are float32, and AdamW has two moments for each."""
    parts = {
        "program": 0.0 if torch.cuda.is_available() else program_mib,
        "weights": stats.model_size[1] / MIB,
        "gradients": 4 * stats.trainable / MIB,
        "optimizer": 8 * stats.trainable / MIB,
    }
    return parts if peak_mib is None else parts | {"activations": max(0.0, peak_mib - sum(parts.values()))}


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


def cost_view(figures: Mapping[str, Any]) -> RenderableType:
    """Table of estimates, as `moe plan` prints it."""
    table = Table(title=f"estimated cost on {figures['machine']}", title_justify="left", header_style="bold")
    table.add_column("stage")
    columns = ("trainable parameters", "steps", "s/step", "evaluations", "time", "peak MiB", *_PARTS)
    for name in columns:
        table.add_column(name, justify="right")
    for stage in figures["stages"]:
        table.add_row(*_cells(stage))
    peak = "" if figures["peak_mib"] is None else f", at most {figures['peak_mib']:,.0f} MiB"
    lines = [
        Text(f"total {format_duration(figures['seconds'])}{peak}; early stopping (patience) may end a stage sooner")
    ]
    lines += map(Text, figures.get("texts", ()))
    if figures["cache_trunk"]:
        lines.append(Text("measured without the trunk cache (stages.cache_trunk), which makes steps faster"))
    return Group(table, *lines)


_PARTS = ("program", "weights", "gradients", "optimizer", "activations", "cache")


def _cells(stage: Mapping[str, Any]) -> Sequence[str]:
    return [
        stage["name"] if stage["stage"] in stage["name"] else f"{stage['stage']} {stage['name']}",
        f"{stage['learned']:,} ({stage['learned'] / stage['weights']:.1%})",
        f"{stage['steps']:,}",
        f"{stage['seconds_per_step']:.2f}",
        str(stage["evaluations"]),
        format_duration(stage["seconds"]),
        "–" if stage["peak_mib"] is None else f"{stage['peak_mib']:,.0f}",
        *[f"{stage['memory'][part]:,.0f}" if part in stage["memory"] else "–" for part in _PARTS],
    ]
