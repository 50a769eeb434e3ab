"""One stage of a run: its settings, loss, checkpoints and logs, put together for the training loop."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from experts.domain import LabelSpace
from moe import distributed
from moe.config.stages import LossSettings, Stage
from moe.console import info
from moe.data.collator import Collate
from moe.kinds.registry import task_kind
from moe.model.mixture import Mixture
from moe.runs.selection_metric import MACRO_F1, SelectionMetric
from moe.runs.training_log import log_start
from moe.runs.workspace import Workspace
from moe.trackers import check_trackers
from moe.training.job import NewExpertScope, TrainJob, TrainResult, batch_sampler, count_steps
from moe.training.loss.distillation import TeachingLoss
from moe.training.loss.global_batch import LossContext
from moe.training.loss.objective import Objective
from moe.training.trainer import fit
from router.losses import effective_number_weights


@dataclass(frozen=True)
class TrainingData:
    """Training rows of a stage, and how the model is evaluated on others.

    Args:
        rows: training rows, with their `domain`.
        collate: makes batches of rows.
        held_out: rows to evaluate the model on, in one or several sets by name.
        evaluate_on: returns metrics of the model in its current state on such rows, `metric` among them.
        metric: the validation metric that selects the best weights.
        counts: training rows of each task's labels; see `Objective`.
    """

    rows: Dataset
    collate: Collate
    held_out: Mapping[str, Dataset]
    evaluate_on: Callable[[Mapping[str, Dataset]], dict[str, float]]
    metric: SelectionMetric = MACRO_F1
    counts: Mapping[str, Tensor] = field(default_factory=dict)

    def evaluate(self) -> dict[str, float]:
        """Return validation metrics of the model in its current state."""
        return self.evaluate_on(self.held_out)


def run_stage(
    work: Workspace,
    model: Mixture,
    stage: Stage,
    data: TrainingData,
    seed: int,
    name: str,
    resume: bool,
    expert: str | None = None,
    keep_start: bool = False,
    scope: NewExpertScope | None = None,
) -> TrainResult:
    """Train one stage and leave the best weights in the model.

    Args:
        name: name of the folders of checkpoints and logs.
        expert: the expert to train, in stages without a router.
        keep_start: whether the weights at the start are a candidate too: they are kept if no evaluation is better.
        scope: the part of heads and router that is trained; all of them by default.

    Raises:
        Fault: if a tracker's library is missing, or `moe.training.trainer.fit` raises one.
    """
    check_trackers(work.run.track)
    if not resume:
        for folder in (work.checkpoints(name), work.logs(name)):
            distributed.on_main_process(partial(shutil.rmtree, folder, ignore_errors=True))
    _report_trainable(model, stage, name, expert, scope)
    if "domain" in data.rows.column_names:
        for line in work.cut_lines(dict.fromkeys(data.rows["domain"])):
            work.note(line)
    job = stage_job(work, model, stage, data, seed=seed, name=name, resume=resume, expert=expert)
    job = replace(job, scope=scope)
    _warn_idle_dwa(work, job)
    _report_limited_epochs(job)
    return _fit_from_start(model, job) if keep_start else fit(model, job)


def stage_job(
    work: Workspace,
    model: Mixture,
    stage: Stage,
    data: TrainingData,
    seed: int,
    name: str,
    resume: bool = False,
    expert: str | None = None,
) -> TrainJob:
    """Return a stage of a run with its loss and settings, for `moe.training.trainer.fit`.

    Args:
        name: name of the folders of checkpoints and logs.
        expert: the expert to train, in stages without a router.
    """
    run, names = work.run, [domain.name for domain in model.domains]
    objective = Objective(
        stage,
        run.losses,
        run.dao,
        labels=model.labels,
        domain_expert_mask=model.domain_expert_mask,
        seed=seed,
        context=LossContext.of(model),
        comparators=run.comparators,
        counts=data.counts,
        teaching=None if run.distill is None else TeachingLoss(run.distill, model.labels, names),
    )
    return TrainJob(
        stage=stage,
        settings=getattr(run.stages, stage.name),
        objective=objective,
        rows=data.rows,
        collate=data.collate,
        evaluate=data.evaluate,
        checkpoints=work.checkpoints(name),
        logs=work.logs(name),
        seed=seed,
        title=name,
        expert=expert,
        resume=resume,
        metric=data.metric,
        recompute=run.stages.recompute,
        shard=run.stages.shard,
        track=run.track,
        run_name=f"{work.out.resolve().name}/{name}",
        frozen=work.frozen_experts,
        callbacks=work.callbacks,
    )


def _fit_from_start(model: Mixture, job: TrainJob) -> TrainResult:
    """Train, and restore the weights at the start if no evaluation was better than theirs."""
    metrics = distributed.broadcast_object(job.evaluate())
    distributed.on_main_process(lambda: log_start(job.logs, metrics))
    weights = {key: tensor.detach().clone() for key, tensor in model.trained_state().items()}
    result = fit(model, job)
    history = [{"step": 0.0, "epoch": 0.0, **metrics}, *result.history]
    if job.metric.score(result.best) > job.metric.score(metrics):
        return replace(result, history=history)
    model.load_trained_state(weights)
    info(
        f"{job.title}: no evaluation was better than the start ({job.metric.describe(metrics)}; best "
        f"{job.metric.format_value(result.best)}): the weights at the start are kept"
    )
    return replace(result, best=history[0], history=history, kept_start=True)


def _warn_idle_dwa(work: Workspace, job: TrainJob) -> None:
    """Warn if a stage ends before DWA has the two averaging periods that it compares."""
    losses, every, steps = work.run.losses, work.run.comparators.dwa_every, count_steps(job)
    uses_dwa = losses.inner == "dwa" or (losses.outer == "dwa" and len(job.stage.outer_losses) > 1)
    if uses_dwa and steps <= 2 * every:
        info(
            f"{job.title}: DWA weights all losses equally in its first {2 * every} steps, but the stage has only "
            f"{steps}: set comparators.dwa_every to about one epoch"
        )


def _report_limited_epochs(job: TrainJob) -> None:
    """Say so if `max_steps`, which a default may set, ends the stage before its `epochs`."""
    settings, stage = job.settings, job.stage.name
    if settings.max_steps is None:  # spares the sampler, which reads the length of every row
        return
    if (epochs := settings.limited_epochs(len(batch_sampler(job)))) is not None:
        info(
            f"{job.title}: max_steps {settings.max_steps} ends the stage after {epochs:.2f} of {settings.epochs:g} "
            f"epochs: raise stages.{stage}.max_steps to train longer"
        )


def _report_trainable(
    model: Mixture, stage: Stage, name: str, expert: str | None, scope: NewExpertScope | None
) -> None:
    experts = [expert] if expert else list(model.bank.routed_experts)
    heads = [p for key, p in model.heads.named_parameters() if scope is None or key.startswith(scope.heads)]
    counts = {
        "experts": sum(p.numel() for each in experts for p in model.bank.adapter_parameters(each).values()),
        "router": 0 if model.gate is None else sum(p.numel() for p in model.gate.parameters()),
        "heads": sum(p.numel() for p in heads),
    }
    trainable = ", ".join(f"{part} {counts[part]:,}" for part in stage.trains)
    if scope is not None and scope.experts is not None:
        trainable += f" (of the router, the rows of {', '.join(scope.experts)})"
    frozen = sum(p.numel() for key, p in model.backbone.named_parameters() if "lora_" not in key)
    info(f"{name}: trainable parameters: {trainable}; frozen backbone: {frozen:,}")


def count_labels(rows: Dataset, labels: LabelSpace) -> dict[str, Tensor]:
    """Number of rows of each label of the tasks with labels, (K,) in the order of the task's head."""
    row_tasks, row_labels = np.asarray(rows["task"]), np.asarray(rows["label"])  # (N,) each
    counts = {}
    for task, head in labels.head_by_task.items():
        task_labels, head_labels = labels.tasks[task], labels.heads[head]
        own = task_kind(labels.kind(task)).label_counts(row_labels[row_tasks == task], len(task_labels))  # (K_t,)
        by_label = dict(zip(task_labels, own.tolist(), strict=True))
        counts[task] = torch.tensor([by_label.get(label, 0) for label in head_labels])  # (K,)
    return counts


def warn_equal_class_weights(losses: LossSettings, counts: Mapping[str, Tensor]) -> None:
    """Warn if effective numbers weight all classes of a task equally, although their numbers of rows differ."""
    if losses.classes != "effective":
        return
    for task, rows in counts.items():
        weights = effective_number_weights(rows, losses.effective_beta)[rows > 0]  # (K',)
        if len(weights) > 1 and rows[rows > 0].unique().numel() > 1 and weights.max() / weights.min() < 1.01:
            fewest = int(rows[rows > 0].min())
            info(
                f"{task}: effective-number class weights differ by less than 1 %; with {fewest} rows in the rarest "
                f"class, losses.effective_beta = {losses.effective_beta:g} has no effect: set it closer to 1"
            )
