"""A small run in 4 bits: two experts, merge, warm start and joint stage; their losses, and memory beside `moe plan`."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from models import Bench, ShapeName

from moe.config.run import RunSettings
from moe.config.stages import JOINT, MERGED, WARMUP
from moe.plan.cost_estimate import estimate_cost
from moe.profiling import Cost, measure_cost, release_memory
from moe.runs.training_log import read_trajectory
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain
from moe.training.steps import merge_experts, train_stage

STEPS = {"full": 40, "toy": 4}
ENOUGH = 40
"""Steps after which a loss must have fallen; before, its noise decides."""
DOMAINS = ("news", "forum")
LOSSES = {WARMUP.folder: "domain"}
"""By stage, the logged loss that must fall: the router's in the warm start, else that of the classes."""
MARGIN = 1.1
"""Largest peak memory of the GPU, as a multiple of the estimate of `moe plan`. A process on a CPU also holds what ran
before, so its memory is not limited."""
LARGE_CARD = 70 * 2**30
"""Bytes of a GPU on which the backbone of 9 billion weights is measured."""
Step = Callable[[Workspace], object]


def measure_mission(bench: Bench, shape: ShapeName) -> Iterator[dict[str, Any]]:
    """Train every stage for a few steps under DAO, and compare its memory with the estimate of `moe plan`.

    Yields:
        a comparison for each stage.
    """
    steps: dict[str, Step] = {name: partial(train_domain, domain=name) for name in DOMAINS}
    steps[WARMUP.folder] = _merge_and_warm_up
    steps[JOINT.folder] = lambda work: train_stage(work, JOINT, work.out / WARMUP.folder)
    yield from _measure_stages(bench, shape, steps, STEPS[bench.size])


def measure_large(bench: Bench, shape: ShapeName) -> Iterator[dict[str, Any]]:
    """Train one expert for ten steps on a backbone of 9 billion weights, on a GPU with enough memory.

    The experts are those of configs/finsa_moe/glm_z1_9b.yaml.
    """
    if bench.size == "full" and (
        bench.device != "cuda" or torch.cuda.get_device_properties(0).total_memory < LARGE_CARD
    ):
        yield {"precision": f"{bench.device} nf4", "skipped": "needs a GPU with at least 70 GiB"}
        return
    targets = "lora.targets=[q_proj, v_proj, o_proj, gate_up_proj, down_proj]"
    yield from _measure_stages(bench, shape, {DOMAINS[0]: partial(train_domain, domain=DOMAINS[0])}, 10, targets)


def _merge_and_warm_up(work: Workspace) -> None:
    merge_experts(work)
    train_stage(work, WARMUP, work.out / MERGED)


def _measure_stages(
    bench: Bench, shape: ShapeName, steps: dict[str, Step], count: int, *sets: str
) -> Iterator[dict[str, Any]]:
    precision = bench.precisions[-1]
    comparison: dict[str, Any] = {"precision": precision.name}
    if precision.missing:
        yield comparison | {"skipped": precision.missing}
        return
    run = _settings(bench, shape, count, *precision.overrides, *sets)
    rows = bench.folder / f"rows-{shape}-{bench.size}"
    planned = {
        stage.name: stage.peak_mib
        for stage in estimate_cost(Workspace(run, bench.folder / f"plan-{shape}-{bench.size}", rows)).stages
    }
    work = Workspace(run, bench.folder / f"mission-{shape}-{bench.size}", rows)
    for name, step in steps.items():
        release_memory()
        cost, limit = Cost(), planned[name]
        with measure_cost(cost):
            step(work)
        losses = logged_losses(work, name)
        quarter = max(1, len(losses) // 4)
        first, last = float(np.mean(losses[:quarter])), float(np.mean(losses[-quarter:]))
        fits = bench.device == "cpu" or (cost.peak_mib or 0.0) <= MARGIN * (limit or 0.0)
        yield comparison | {
            "stage": name,
            "loss_first": first,
            "loss_last": last,
            "mib": cost.peak_mib,
            "mib_planned": limit,
            "seconds": round(cost.seconds, 1),
            "passed": fits and bool(np.isfinite(losses).all()) and (last < first or count < ENOUGH),
        }


def _settings(bench: Bench, shape: ShapeName, steps: int, *sets: str) -> RunSettings:
    stages = {"expert.lr": "1e-3", "expert.head_lr": "1e-3", "joint.lr": "1e-3", "warmup.router_lr": "1e-2"}
    for stage in ("expert", "warmup", "joint"):
        stages |= {f"{stage}.steps": str(steps), f"{stage}.evals": "1", f"{stage}.batch_size": "16"}
    return bench.run_settings(
        f"backbone.name={bench.backbone(shape)}",
        f"backbone.pooling={'mean' if shape.startswith('bert') else 'last'}",
        f"domains=[{', '.join(DOMAINS)}]",
        "gate.init=random",  # a router of prototypes knows the domains before the warm start
        "data.near_duplicates=null",
        *(f"stages.{key}={value}" for key, value in stages.items()),
        *sets,
    )


def logged_losses(work: Workspace, name: str) -> Sequence[float]:
    """Return the logged loss of each step of a stage that is to fall, without its weight under DAO."""
    log = read_trajectory(work.logs(name))
    assert log is not None
    key = LOSSES.get(name, "classes")
    return [float(row[key]) for row in log.rows if key in row]
