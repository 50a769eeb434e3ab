"""Costs of the stages of a run from the measurements of a dry run, and of what follows them, for `moe plan`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np
import torch

from moe.config.stages import JOINT, PRETRAIN, SHARED, STAGES, WARMUP
from moe.console import suppress_output
from moe.data.collator import Collator
from moe.model.backbone import load_tokenizer, read_backbone_config
from moe.model.device import choose_device, compute_dtype
from moe.plan.cost_model import RunCost, StageCost, StepCost
from moe.plan.dry_run import DryRunStats, StageSize, estimate_tokens
from moe.profiling import MIB
from moe.runs.layout import MIXTURES
from moe.runs.workspace import Workspace

Tokens = Mapping[str, Mapping[str, np.ndarray]]
"""Tokens of each row, (N,), by split and domain."""
_HELD_OUT = ("test", "validation")


@dataclass(frozen=True)
class StageEstimate:
    """Estimated size, time and memory of one stage.

    Args:
        stage: name of the stage, the key of its settings.
        name: the trained expert, or the stage's folder.
        weights: parameters of the entire model.
        learned: trainable parameters.
        steps: optimizer steps.
        evaluations: evaluations on the validation rows.
        seconds_per_evaluation: seconds of one.
        at_most: whether patience may end the stage sooner.
        measured: name of the stage that was measured; another one's costs are scaled by tokens.
        peak_mib: peak memory in MiB; None if it cannot be measured.
        memory: its parts in MiB: `program`, `weights`, `gradients`, `optimizer`, `activations` with everything else
            (if the peak is known), and `cache`, the trunk's states.
        seconds_per_step: mean seconds of an optimizer step.
        seconds: of the whole stage.
    """

    stage: str
    name: str
    weights: int
    learned: int
    steps: int
    evaluations: int
    seconds_per_evaluation: float
    at_most: bool
    measured: str
    peak_mib: float | None
    memory: Mapping[str, float]
    seconds_per_step: float
    seconds: float


@dataclass(frozen=True)
class MeasuredStage:
    """A stage that was run briefly, or one that is scaled from it.

    Args:
        stats: measurements of the dry run.
        cost: of the full stage.
        learned: trainable parameters.
        peak_mib, memory: see `StageEstimate`.
    """

    stats: DryRunStats
    cost: StageCost
    learned: int
    peak_mib: float | None
    memory: Mapping[str, float]

    def estimate(self, cost: StageCost) -> StageEstimate:
        """Return the estimate of the stage.

        Args:
            cost: of the stage as a part of the run, in which it may read the trunk's states from disk.
        """
        return StageEstimate(
            stage=cost.stage,
            name=cost.name,
            weights=self.stats.model_size[0],
            learned=self.learned,
            steps=cost.size.steps,
            evaluations=cost.evaluations,
            seconds_per_evaluation=cost.evaluation,
            at_most=cost.at_most,
            measured=self.stats.name,
            peak_mib=self.peak_mib,
            memory=self.memory,
            seconds_per_step=cost.seconds_per_step,
            seconds=cost.seconds,
        )


@dataclass(frozen=True)
class EvaluationEstimate:
    """Estimated cost of evaluating the finished models.

    Args:
        rows: test rows.
        models: models that are evaluated.
        seconds: of all evaluations, those of the mixtures on the validation rows included.
    """

    rows: int
    models: int
    seconds: float


def token_counts(work: Workspace) -> Tokens:
    """Tokens of the labelled rows; empty for a language model, whose corpora are packed."""
    run = work.run
    if run.language is not None:
        return {}
    names = list(run.domains)
    length = run.backbone.resolved_length
    collator = Collator(load_tokenizer(run.backbone), run.template, length, run.label_space(), names)
    return {
        split: {name: estimate_tokens(work.rows(split, [name]), collator) for name in names}
        for split in ("train", "validation", "test")
    }


def measured_stage(
    work: Workspace,
    stats: DryRunStats,
    steps: Sequence[tuple[int, float]],
    load: float,
    peak_mib: float | None,
    program_mib: float,
) -> MeasuredStage:
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
    return MeasuredStage(
        stats,
        cost,
        learned=stats.trainable,
        peak_mib=None if peak_mib is None else peak_mib + mapped,
        memory=_memory_by_part(stats, peak_mib, program_mib) | {"cache": mapped},
    )


def _memory_by_part(stats: DryRunStats, peak_mib: float | None, program_mib: float) -> dict[str, float]:
    """MiB by part: gradients of trainable parameters are float32, and AdamW has two moments for each."""
    parts = {
        "program": 0.0 if torch.cuda.is_available() else program_mib,
        "weights": stats.model_size[1] / MIB,
        "gradients": 4 * stats.trainable / MIB,
        "optimizer": 8 * stats.trainable / MIB,
    }
    return parts if peak_mib is None else parts | {"activations": max(0.0, peak_mib - sum(parts.values()))}


def domains_of(work: Workspace, expert: str) -> Iterator[str]:
    """Yield the domain of an expert; nothing for the shared expert and for mixtures."""
    return (domain.name for domain in work.run.domain_list() if expert in domain.expert_names)


def scaled_stage(source: MeasuredStage, name: str, size: StageSize, share: float) -> MeasuredStage:
    """A stage with the costs of another one per token.

    Args:
        share: its validation tokens relative to those of the other one.
    """
    evaluation = source.cost.evaluation * share
    cost = replace(source.cost, name=name, size=size, evaluation=evaluation, evaluations=size.evaluations)
    return replace(source, cost=cost)


def final_evaluation(run: Workspace, measured: Mapping[str, MeasuredStage], tokens: Tokens) -> EvaluationEstimate:
    """Cost of evaluating every finished model on the test rows, and the mixtures on the validation rows."""
    if run.run.language is not None:
        return EvaluationEstimate(rows=0, models=0, seconds=0.0)
    test, validation = ({name: int(counts.sum()) for name, counts in tokens[split].items()} for split in _HELD_OUT)
    rates = {name: each.stats.seconds_per_evaluated_token for name, each in measured.items()}
    mixture = mean((rates[WARMUP.folder], rates[JOINT.folder]))
    single = max((rate for name, rate in rates.items() if name not in MIXTURES), default=mixture)
    trained_shared = int(run.run.shared is not None and not run.frozen_experts)
    pooled = int(len(test) > 1)
    passes = single * (1 + trained_shared + pooled) + mixture * (len(MIXTURES) + 1)  # the last one: other routes
    trunk = run.run.backbone.trunk_depth / read_backbone_config(run.run.backbone).num_hidden_layers
    passes = passes * (1 - trunk) + mixture * trunk  # the models share the states of their trunk
    return EvaluationEstimate(
        rows=sum(len(counts) for counts in tokens["test"].values()),
        models=len(test) + trained_shared + pooled + len(MIXTURES),
        seconds=passes * sum(test.values()) + mixture * len(MIXTURES) * sum(validation.values()),
    )


def run_cost(run: Workspace, stages: Sequence[StageCost], rest: float, tokens: Tokens) -> RunCost:
    """Cost of the whole run, with the trunk's states from disk if the run caches them."""
    config, backbone = read_backbone_config(run.run.backbone), run.run.backbone
    dtype = compute_dtype(backbone.dtype, choose_device(backbone.device))
    lengths = np.concatenate(list(tokens["train"].values())) if tokens else np.zeros(0, int)  # (N,)
    train, validation = (_rows_by_task(run, split) if tokens else {} for split in ("train", "validation"))
    cost = RunCost(
        stages=stages,
        rest=rest,
        layers=config.num_hidden_layers,
        trunk_depth=backbone.trunk_depth,
        fixed_shape=run.run.shared is not None and run.run.shared.init is not None,
        cached=False,
        cache_bytes=int(lengths.sum()) * config.hidden_size * dtype.itemsize,
        max_length=backbone.resolved_length,
        lengths=lengths,
        settings={stage.stage: getattr(run.run.stages, stage.stage) for stage in stages if stage.stage in STAGES},
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
