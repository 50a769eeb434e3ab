"""What a run will cost, foretold from a few steps of each of its stages: weights that learn, memory by part, time.

How a stage is tried in small is `moe.runs.dry_run`'s; seconds and memory are measured by `moe.profiling`.
"""

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
from moe.console import Table, bar, hushed, told_time
from moe.model.backbone import default_device
from moe.profiling import MIB, Cost, resident_mib, seconds_since_start, measure_cost
from moe.runs.dry_run import DryRun, DryRunStats
from moe.runs.training_log import read_trajectory
from moe.runs.workspace import Workspace
from moe.training.instruct import instruct
from moe.training.pretrain import pretrain, pretrain_shared
from moe.training.steps import train_stage, merge_experts, train_domain, train_shared

Figures = dict[str, Any]
Try = Callable[[Workspace], object]


def estimate_cost(run: Workspace) -> Figures:
    """Try every stage of a run in small, in a folder that is then taken away, and foretell what the whole will take.

    Returns:
        `stages`, each with `weights`, `learned`, `steps`, `seconds_per_step`, `evaluations`, `seconds` and
        `peak_mib`, of which `memory` gives the parts in MiB: `program`, `weights`, `gradients`, `optimizer`,
        `activations` with all else, and the `cache` of the trunk's states; `seconds` of all stages and of one start
        of the program (`start_seconds`), the greatest `peak_mib`, `machine`, `cache_trunk`.

    Raises:
        Fault: as the stages do; when memory runs out, with the setting to lower.
    """
    program, start = resident_mib(), seconds_since_start()
    probe = DryRun()
    stages: list[Figures] = []
    with _small(run, probe) as work:
        tries = list(_tries(work))
        with bar("plan", len(tries), "stage") as meter:
            for one in tries:
                gc.collect()  # what the last one left is no part of the next
                stages += _tried(work, probe, one, program)
                meter.advance()
    return {
        "stages": stages,
        "start_seconds": start,
        "seconds": start + sum(one["seconds"] for one in stages),
        "peak_mib": max((one["peak_mib"] for one in stages if one["peak_mib"]), default=None),
        "machine": machine(),
        "cache_trunk": run.run.stages.cache_trunk,
    }


@contextmanager
def _small(run: Workspace, probe: DryRun) -> Iterator[Workspace]:
    """The run in a folder of its own; rows that are prepared for it are kept for the run itself."""
    store = run.data_dir or run.out
    with tempfile.TemporaryDirectory(prefix="moe-plan-") as folder, hushed():
        yield Workspace(run.run, Path(folder), store, probe)


def _tries(work: Workspace) -> Iterator[Try]:
    run = work.run
    if run.shared:
        yield train_shared if run.language is None else pretrain_shared
    if run.language is None:
        yield from (partial(train_domain, domain=name) for name in run.domains)
    else:
        yield from (partial(pretrain, role=role) for role in dict.fromkeys(one.group for one in run.domain_list()))
    yield _warm_start
    yield partial(train_stage, stage=JOINT, before=work.out / WARMUP.folder)
    if run.language is not None and any(run.questions_of(name) for name in run.domains):
        yield partial(instruct, model=work.out / JOINT.folder)


def _warm_start(work: Workspace) -> None:
    train_stage(work, WARMUP, merge_experts(work))


def _tried(work: Workspace, probe: DryRun, one: Try, program: float) -> list[Figures]:
    """The figures of the stages that this trains, of several experts one each."""
    cost, before = Cost(), len(probe.stages)
    with measure_cost(cost):
        one(work)
    found = probe.stages[before:]
    each = [_foretold(work, tried, cost, program) for tried in found]
    spent = sum(figures.pop("spent") for figures in each)
    for figures in each:  # reading, loading, writing: as long in the whole as here
        figures["seconds"] += max(0.0, cost.seconds - spent) / len(each)
    return each


def _foretold(work: Workspace, tried: DryRunStats, cost: Cost, program: float) -> Figures:
    log = read_trajectory(work.logs(tried.name))
    assert log is not None
    seconds = [row["seconds"] for row in log.rows if "seconds" in row]
    step = mean(seconds[1:] or seconds)  # the first was the dearest batch, and warmed up what is made once
    mapped = 0.0 if torch.cuda.is_available() else tried.cached_bytes / MIB  # a file, but in memory once it was read
    once = mean(tried.evaluation_seconds)
    reads = work.run.language is not None and tried.stage in (SHARED.name, PRETRAIN.name)
    evaluation, extra = once / tried.row_share, int(reads)  # which measure what was before them too
    return {
        "stage": tried.stage,
        "name": tried.name,
        "weights": tried.model_size[0],
        "learned": tried.trainable,
        "steps": tried.steps,
        "seconds_per_step": step,
        "evaluations": tried.evaluations + extra,
        "seconds_per_evaluation": evaluation,
        "seconds": tried.steps * step + (tried.evaluations + extra) * evaluation,
        "peak_mib": None if cost.peak_mib is None else cost.peak_mib + mapped,
        "memory": _parts(tried, cost.peak_mib, program) | {"cache": mapped},
        "spent": sum(seconds) + sum(tried.evaluation_seconds) + extra * once,
    }


def _parts(tried: DryRunStats, peak: float | None, program: float) -> dict[str, float]:
    """MiB by part; gradients are as wide as what learns, in fp32, and AdamW keeps two moments of each."""
    parts = {
        "program": 0.0 if torch.cuda.is_available() else program,
        "weights": tried.model_size[1] / MIB,
        "gradients": 4 * tried.trainable / MIB,
        "optimizer": 8 * tried.trainable / MIB,
    }
    return parts if peak is None else parts | {"activations": max(0.0, peak - sum(parts.values()))}


def machine() -> str:
    """This machine in a few words."""
    if default_device().type == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    count = torch.get_num_threads()
    return f"{name or platform.processor() or platform.machine()}, {count} thread{'s' * (count > 1)}"


def cost_view(found: Mapping[str, Any]) -> RenderableType:
    """The table of `moe plan`."""
    table = Table(title=f"what the run will take on {found['machine']}", title_justify="left", header_style="bold")
    table.add_column("stage")
    columns = ("weights that learn", "steps", "s a step", "evaluations", "time", "peak MiB", *_PARTS)
    for name in columns:
        table.add_column(name, justify="right")
    for one in found["stages"]:
        table.add_row(*_cells(one))
    peak = "" if found["peak_mib"] is None else f", at most {found['peak_mib']:,.0f} MiB"
    lines = [Text(f"together {told_time(found['seconds'])}{peak}; patience may end a stage sooner")]
    if found["cache_trunk"]:
        lines.append(Text("tried without the trunk's cache (stages.cache_trunk): steps with it are shorter"))
    return Group(table, *lines)


_PARTS = ("program", "weights", "gradients", "optimizer", "activations", "cache")


def _cells(one: Mapping[str, Any]) -> Sequence[str]:
    return [
        one["name"] if one["stage"] in one["name"] else f"{one['stage']} {one['name']}",
        f"{one['learned']:,} ({one['learned'] / one['weights']:.1%})",
        f"{one['steps']:,}",
        f"{one['seconds_per_step']:.2f}",
        str(one["evaluations"]),
        told_time(one["seconds"]),
        "–" if one["peak_mib"] is None else f"{one['peak_mib']:,.0f}",
        *[f"{one['memory'][part]:,.0f}" if part in one["memory"] else "–" for part in _PARTS],
    ]
