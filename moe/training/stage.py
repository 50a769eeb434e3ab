"""One stage of a run: its numbers, objective, checkpoints and logs put together for the loop of `moe.training.trainer`.

What is taught, and how it is judged, is a `TrainingData`: labelled rows in `moe.training.steps`, plain text in
`moe.training.pretrain`.
"""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from experts.domain import LabelSpace
from moe import distributed
from moe.config.stages import LossSettings, Stage
from moe.console import info
from moe.data.collator import Collate
from moe.model.mixture import Mixture
from moe.runs.dry_run import DryRun, DryRunStats, model_size
from moe.runs.selection_metric import MACRO_F1, SelectionMetric
from moe.runs.workspace import Workspace
from moe.trackers import check_trackers
from moe.training.job import Evaluate, TrainJob, TrainResult, batch_sampler, count_steps
from moe.training.objective import LossContext, Objective
from moe.training.trainer import fit, set_trainable
from router.class_imbalance import effective_number_weights


@dataclass(frozen=True)
class TrainingData:
    """What a stage learns from.

    Args:
        rows: training rows, with their `domain`.
        collate: makes batches of them.
        evaluate: gives validation metrics of the model as it is, the goal among them.
        goal: the metric by which the best weights are kept.
        counts: training rows of each task's labels; see `Objective`.
    """

    rows: Dataset
    collate: Collate
    evaluate: Evaluate
    goal: SelectionMetric = MACRO_F1
    counts: Mapping[str, Tensor] = field(default_factory=dict)


def run_stage(
    work: Workspace,
    model: Mixture,
    stage: Stage,
    lesson: TrainingData,
    seed: int,
    step: str,
    resume: bool,
    learner: str | None = None,
) -> TrainResult:
    """Train one stage, its best weights left in the model.

    Args:
        step: names its folders of checkpoints and logs.
        learner: the one expert that learns, in stages with a fixed route.

    Raises:
        Fault: as `moe.training.trainer.fit` does; when a tracker's library is missing.
    """
    run = work.run
    check_trackers(run.track)
    settings = getattr(run.stages, stage.name)
    if not resume:
        for left in (work.checkpoints(step), work.logs(step)):
            distributed.on_main(lambda left=left: shutil.rmtree(left, ignore_errors=True))  # type: ignore[misc]
    _tell_learners(model, stage, learner)
    objective = Objective(
        stage,
        run.losses,
        run.dao,
        model.labels,
        model.domain_expert_mask,
        seed,
        LossContext.of(model),
        run.comparators,
        lesson.counts,
    )
    places = work.checkpoints(step), work.logs(step)
    taught = lesson.rows, lesson.collate, lesson.evaluate
    how = learner, resume, lesson.goal, run.stages.recompute, run.stages.shard
    told = {"track": run.track, "name": f"{work.out.resolve().name}/{step}"}
    job = TrainJob(stage, settings, objective, *taught, *places, seed, step, *how, **told)  # type: ignore[arg-type]
    _tell_idle_average(work, job)
    return fit(model, job if work.dry_run is None else _tried(model, job, work.dry_run))


def _tried(model: Mixture, job: TrainJob, probe: DryRun) -> TrainJob:
    """The same stage in small: a few steps, one evaluation, and a note of what was left out."""
    set_trainable(model, job.stage, job.learner)
    steps = count_steps(job)
    every = max(1, math.ceil(steps / job.settings.evals))
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    evaluations = math.ceil(steps / every)
    tried = DryRunStats(
        job.stage.name,
        job.title,
        model_size(model),
        learned,
        steps,
        evaluations,
        probe.pop_row_share(),
        probe.cached_bytes,
    )
    probe.stages.append(tried)
    probe.cached_bytes = 0
    count = min(probe.steps, len(batch_sampler(job)))
    small = job.settings.model_copy(update={"steps": count, "evals": 1})
    return replace(job, settings=small, tried=count, evaluate=tried.timed(job.evaluate), track=())


def _tell_idle_average(work: Workspace, job: TrainJob) -> None:
    """Say so where a stage ends before DWA has the two periods that it compares."""
    losses, every, steps = work.run.losses, work.run.comparators.dwa_every, count_steps(job)
    asked = losses.inner == "dwa" or (losses.outer == "dwa" and len(job.stage.outer_losses) > 1)
    if asked and steps <= 2 * every:
        info(
            f"{job.title}: DWA weighs all losses alike for its first {2 * every} steps, and there are {steps}: lower "
            "comparators.dwa_every, which is to be about an epoch"
        )


def _tell_learners(model: Mixture, stage: Stage, learner: str | None) -> None:
    names = [learner] if learner else list(model.bank.routed_experts)
    counts = {
        "experts": sum(p.numel() for n in names for p in model.bank.adapter_parameters(n).values()),
        "router": 0 if model.gate is None else sum(p.numel() for p in model.gate.parameters()),
        "heads": sum(p.numel() for p in model.heads.parameters()),
    }
    learns = ", ".join(f"{part} {counts[part]:,}" for part in stage.trains)
    frozen = sum(p.numel() for n, p in model.backbone.named_parameters() if "lora_" not in n)
    info(f"{stage.name}: weights that learn: {learns}; frozen backbone {frozen:,}")


def count_labels(rows: Dataset, labels: LabelSpace) -> dict[str, Tensor]:
    """Rows of each task's labels, (K,) in the order of the task's head."""
    tasks, chosen = np.asarray(rows["task"]), np.asarray(rows["label"])  # (N,) each
    found = {}
    for task, own in labels.tasks.items():
        names = labels.heads[labels.head_by_task[task]]
        here = chosen[(tasks == task) & (chosen >= 0)]  # (n,)
        places = torch.tensor([names.index(own[i]) for i in here], dtype=torch.long)  # (n,)
        found[task] = torch.bincount(places, minlength=len(names))  # (K,)
    return found


def warn_equal_class_weights(losses: LossSettings, counts: Mapping[str, Tensor]) -> None:
    """Say so where effective numbers weigh all classes of a task alike, though their rows differ."""
    if losses.classes != "effective":
        return
    for task, rows in counts.items():
        weights = effective_number_weights(rows, losses.effective_beta)[rows > 0]  # (K',)
        if len(weights) > 1 and rows[rows > 0].unique().numel() > 1 and weights.max() / weights.min() < 1.01:
            fewest = int(rows[rows > 0].min())
            info(
                f"{task}: class weights by effective number are all within 1 %; where the rarest class has {fewest} "
                f"rows, losses.effective_beta {losses.effective_beta:g} does nothing: try one nearer to 1"
            )
