"""A stage to train as data, and what the training loop needs for it: arguments, parameter groups and batches."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback, TrainingArguments

from moe import distributed
from moe.config.stages import Stage, StageSettings
from moe.data.collator import Collate, MicroBatchCollator
from moe.data.distilled.columns import TEACHER
from moe.data.distilled.soft_labels import DISTILLED
from moe.data.sampler import DomainBatchSampler, arrow_column, row_lengths
from moe.model.mixture import Mixture
from moe.runs.selection_metric import MACRO_F1, SelectionMetric
from moe.trackers import TENSORBOARD, Tracker, external_trackers
from moe.training.loss.objective import Objective

Evaluate = Callable[[], dict[str, float]]


@dataclass(frozen=True)
class TrainResult:
    """Result of a stage.

    Args:
        steps: optimizer steps taken.
        best: validation metrics of the best weights.
        history: metrics of every evaluation, in order; the first one is that of the start, if it was measured.
        kept_start: whether the best weights are those of the start.
    """

    steps: int
    best: dict[str, float]
    history: list[dict[str, float]]
    kept_start: bool = False


@dataclass(frozen=True)
class NewExpertScope:
    """The part of heads and router that is trained when an expert joins a mixture.

    Args:
        heads: prefixes of the names of the heads' parameters that are trained.
        experts: routed experts whose rows of the router's last layer are trained; None trains the whole router.
    """

    heads: tuple[str, ...]
    experts: tuple[str, ...] | None = None


@dataclass(frozen=True)
class TrainJob:
    """One stage to train.

    Args:
        stage: its trainable parts, routing and losses.
        settings: its settings.
        objective: its loss.
        rows: training rows.
        collate: makes batches of rows.
        evaluate: returns validation metrics of the model in its current state, `metric` among them.
        checkpoints: folder of checkpoints while the stage runs.
        logs: folder of the JSON log and TensorBoard's files.
        seed: of the order of rows and of dropout.
        title: shown to users.
        expert: the expert to train, in stages without a router.
        resume: resume from the last checkpoint.
        metric: the validation metric that selects the best weights.
        recompute: use activation checkpointing.
        shard: shard the backbone over processes.
        batches: rows of each step of an epoch; by default those of `batch_sampler`.
        track: trackers to which steps are logged.
        run_name: name of the stage in the trackers; the title by default.
        frozen: experts that the stage does not train.
        scope: the part of heads and router that it trains; all of them by default.
        callbacks: called by the training loop, besides its own.
    """

    stage: Stage
    settings: StageSettings
    objective: Objective
    rows: Dataset
    collate: Collate
    evaluate: Evaluate
    checkpoints: Path
    logs: Path
    seed: int
    title: str
    expert: str | None = None
    resume: bool = False
    metric: SelectionMetric = MACRO_F1
    recompute: bool = False
    shard: bool = False
    batches: Sampler[list[int]] | None = None
    track: tuple[Tracker, ...] = (TENSORBOARD,)
    run_name: str = ""
    frozen: tuple[str, ...] = ()
    scope: NewExpertScope | None = None
    callbacks: tuple[TrainerCallback, ...] = ()


def build_optimizer(model: Mixture, settings: StageSettings) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters: experts, router and heads, each with its own learning rate."""
    parts: dict[str, tuple[float, Iterable[nn.Parameter]]] = {
        "experts": (settings.lr, model.expert_parameters().values()),
        "router": (settings.router_lr, () if model.gate is None else model.gate.parameters()),
        "heads": (settings.head_lr, model.heads.parameters()),
    }
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.requires_grad], "lr": rate, "name": name}
        for name, (rate, parameters) in parts.items()
    ]
    for group in groups:
        if group["name"] == "router" and model.gate is not None and model.gate.trains_some_rows:
            group["weight_decay"] = 0.0  # which would also change the rows that are not trained
    return torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=settings.weight_decay)


def count_steps(job: TrainJob) -> int:
    """Number of optimizer steps of the stage."""
    return job.settings.count_steps(len(batch_sampler(job)))


def batch_sampler(job: TrainJob, holdout: bool = False) -> DomainBatchSampler:
    """Sampler of this process's rows of each step.

    Args:
        holdout: sample smaller batches in another order, for held-out batches.
    """
    groups = np.asarray(arrow_column(job.rows, "domain").dictionary_encode().indices)
    if TEACHER in job.rows.column_names:  # labelled rows of a domain retain a share beside many unlabelled ones
        groups = 2 * groups + np.asarray(pc.equal(arrow_column(job.rows, "origin"), DISTILLED))
    settings, world_size = job.settings, distributed.world_size()
    size, seed = settings.batch_size * settings.accumulate, job.seed
    if holdout:  # a held-out batch runs in a single pass, which batch_size limits
        size, seed = max(1, min(settings.batch_size, size // 4)), job.seed + 1
    return DomainBatchSampler(
        groups,
        row_lengths(job.rows),
        size * world_size,
        settings.sampling_temperature,
        seed,
        shard=(distributed.rank(), world_size),
    )


def training_arguments(model: Mixture, job: TrainJob, steps: int) -> TrainingArguments:
    """Arguments of the training loop for a stage of `steps` optimizer steps."""
    settings, checkpoints, seed = job.settings, job.checkpoints, job.seed
    interval = max(1, math.ceil(steps / settings.evals))
    device = next(model.backbone.parameters()).device
    half = next(model.backbone.parameters()).dtype == torch.bfloat16 or hasattr(model.backbone, "hf_quantizer")
    return TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.lr,
        lr_scheduler_type=settings.schedule,
        warmup_steps=round(settings.warmup * steps) if settings.warmup < 1 else int(settings.warmup),
        max_grad_norm=settings.max_grad_norm,
        eval_strategy="steps",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{job.metric.name}",
        greater_is_better=job.metric.higher,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=external_trackers(job.track),
        run_name=job.run_name or job.title,
        disable_tqdm=True,
        remove_unused_columns=False,
        bf16=half,
        use_cpu=device.type == "cpu",
        seed=seed,
        data_seed=seed,
        dataloader_pin_memory=device.type != "cpu",
    )


def training_loader(job: TrainJob) -> DataLoader[Any]:
    """Loader of this process's rows of each step, split into micro-batches."""
    return DataLoader(
        job.rows,
        batch_sampler=batch_sampler(job) if job.batches is None else job.batches,
        collate_fn=MicroBatchCollator(job.collate, job.settings.batch_size),
    )
