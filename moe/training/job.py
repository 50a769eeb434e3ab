"""One stage to train, as data; and what of it transformers' Trainer is told: its arguments, optimizer groups, batches.

The loop that runs it is `moe.training.trainer`'s.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import TrainingArguments

from moe import distributed
from moe.config.stages import Stage, StageSettings
from moe.data.collator import Batch, Collate
from moe.data.sampler import DomainBatchSampler, arrow_column, row_lengths
from moe.model.mixture import Mixture
from moe.runs.dry_run import BatchSubset
from moe.runs.selection_metric import MACRO_F1, SelectionMetric
from moe.trackers import TENSORBOARD, Tracker, external_trackers
from moe.training.objective import Objective

Evaluate = Callable[[], dict[str, float]]


@dataclass(frozen=True)
class TrainResult:
    """A finished stage: optimizer steps taken, the best validation metrics and every evaluation on the way."""

    steps: int
    best: dict[str, float]
    history: list[dict[str, float]]


@dataclass(frozen=True)
class TrainJob:
    """One stage to train.

    Args:
        stage: its row of the table.
        settings: its numbers.
        objective: its loss.
        rows: training rows.
        collate: makes batches of them.
        evaluate: gives validation metrics, the goal among them, of the model as it is.
        checkpoints: folder for transformers' checkpoints while the stage runs.
        logs: folder for TensorBoard's and our JSONL log.
        title: shown to people.
        learner: the one expert that learns, in stages with a fixed route.
        resume: go on from the last checkpoint.
        goal: the metric by which the best weights are kept.
        recompute: layers are run again on the way back.
        shard: the backbone is shared out over processes.
        tried: only so many of its steps are run, which stand for all.
        track: who else is told of every step.
        name: what they call the stage.
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
    learner: str | None = None
    resume: bool = False
    goal: SelectionMetric = MACRO_F1
    recompute: bool = False
    shard: bool = False
    tried: int | None = None
    track: tuple[Tracker, ...] = (TENSORBOARD,)
    name: str = ""


def parameter_groups(model: Mixture, settings: StageSettings) -> list[dict[str, Any]]:
    """AdamW's groups: experts, router, heads, each with its own rate."""
    parts: dict[str, tuple[float, Iterator[nn.Parameter]]] = {
        "experts": (settings.lr, iter(model.expert_parameters().values())),
        "router": (settings.router_lr, iter(()) if model.gate is None else model.gate.parameters()),
        "heads": (settings.head_lr, model.heads.parameters()),
    }
    groups = [
        {"params": [p for p in parameters if p.requires_grad], "lr": rate, "name": name}
        for name, (rate, parameters) in parts.items()
    ]
    return [group for group in groups if group["params"]]


def count_steps(job: TrainJob) -> int:
    """How many steps the stage takes."""
    return job.settings.steps or max(1, round(job.settings.epochs * len(batch_sampler(job))))


def batch_sampler(job: TrainJob, ahead: bool = False) -> DomainBatchSampler:
    """This process's rows of each step; `ahead`, of smaller batches in another order."""
    domains = np.asarray(arrow_column(job.rows, "domain").dictionary_encode().indices)
    one, shard = job.settings, (distributed.rank(), distributed.world_size())
    size, seed = one.batch_size * one.accumulate, job.seed
    if ahead:  # no more than one pass may hold
        size, seed = max(1, min(one.batch_size, size // 4)), job.seed + 1
    return DomainBatchSampler(
        domains, row_lengths(job.rows), size * distributed.world_size(), one.sampling_temperature, seed, shard=shard
    )


def training_sampler(job: TrainJob) -> DomainBatchSampler | BatchSubset:
    """The batches that are run: all, or the few that stand for them."""
    return batch_sampler(job) if job.tried is None else BatchSubset(batch_sampler(job), job.tried)


@dataclass(frozen=True)
class MicroBatchCollator:
    """Rows of a step → its micro-batches, as alike in size as they can be.

    Args:
        collate: makes a batch of rows.
        most: rows a micro-batch.
    """

    collate: Collate
    most: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[Batch]:
        """Collate in order, so that texts of like length stay together."""
        places = np.array_split(np.arange(len(rows)), math.ceil(len(rows) / self.most))
        return [self.collate([rows[i] for i in some]) for some in places]


def training_arguments(model: Mixture, job: TrainJob, total: int) -> TrainingArguments:
    """What the Trainer is told of a stage of so many steps."""
    settings, checkpoints, seed = job.settings, job.checkpoints, job.seed
    every = max(1, math.ceil(total / settings.evals))
    device = next(model.backbone.parameters()).device
    half = next(model.backbone.parameters()).dtype == torch.bfloat16 or hasattr(model.backbone, "hf_quantizer")
    return TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=total,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.lr,
        lr_scheduler_type=settings.schedule,
        warmup_steps=round(settings.warmup * total) if settings.warmup < 1 else int(settings.warmup),
        max_grad_norm=settings.max_grad_norm,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{job.goal.name}",
        greater_is_better=job.goal.higher,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=external_trackers(job.track),
        run_name=job.name or job.title,
        disable_tqdm=True,
        remove_unused_columns=False,
        bf16=half,
        use_cpu=device.type == "cpu",
        seed=seed,
        data_seed=seed,
        dataloader_pin_memory=device.type != "cpu",
    )
