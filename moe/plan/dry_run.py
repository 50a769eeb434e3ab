"""Dry runs of stages: a few steps on representative batches, a few validation rows, and measurements of both."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from torch import nn
from torch.utils.data import Sampler

from moe.config.stages import Stage
from moe.data.collator import Collate, Collator
from moe.data.sampler import DomainBatchSampler, row_lengths
from moe.model.mixture import Mixture
from moe.runs.workspace import Workspace
from moe.training.expert_steps import NewExpert
from moe.training.job import TrainJob, TrainResult, batch_sampler, count_steps
from moe.training.stage import TrainingData, stage_job
from moe.training.steps import LoadData, keeps_mixture_start, load_mixture_stage, save_mixture_stage
from moe.training.trainer import fit, set_trainable
from moe.training.trunk_cache import TrunkCache

_LENGTH_SAMPLE = 256
"""Texts that are tokenized to estimate how many tokens a character is."""


class BatchSubset(Sampler[list[int]]):
    """A few representative batches of an epoch: the most expensive one first, then others at even distances in cost.

    Args:
        sampler: gives the batches of the epoch.
        count: number of batches, if the epoch has as many.
        lengths: length of each row (N,) that determines its cost; by default the sampler's own.
    """

    def __init__(self, sampler: DomainBatchSampler, count: int, lengths: np.ndarray | None = None) -> None:
        costs = sampler.lengths if lengths is None else lengths
        batches = sorted(sampler, key=lambda rows: len(rows) * int(costs[rows].max()))
        others = range(count - 1)
        indices = [int((i + 0.5) / len(others) * len(batches)) for i in others]
        self.batches = [batches[-1], *(batches[i] for i in indices)][: len(batches)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


@dataclass(frozen=True)
class StageSize:
    """What a stage reads: its steps, and the tokens of its batches.

    Args:
        steps: optimizer steps of the full stage.
        evaluations: evaluations of the full stage, with one before its first step if it may keep its start.
        rows: number of training rows.
        tokens: all their tokens, as far as they are read.
        batch_rows: (M,), rows of each batch of an epoch.
        batch_lengths: (M,), tokens of the longest row of each batch.
    """

    steps: int
    evaluations: int
    rows: int
    tokens: int
    batch_rows: np.ndarray = field(repr=False)
    batch_lengths: np.ndarray = field(repr=False)

    def tokens_per_step(self, max_length: int | None = None) -> float:
        """Mean number of tokens of a batch, with its padding.

        Args:
            max_length: tokens at which texts are truncated; by default as in the run.
        """
        lengths = self.batch_lengths if max_length is None else np.minimum(self.batch_lengths, max_length)
        return float((self.batch_rows * lengths).mean())


@dataclass
class DryRunStats:
    """Measurements of one stage.

    Args:
        stage: name of the stage.
        name: the trained expert, or the stage's folder.
        model_size: parameters of the entire model, and their bytes.
        trainable: number of trainable parameters.
        size: of the full stage.
        batch_tokens: tokens, with padding, of each step of the dry run.
        row_share: fraction of the validation rows that an evaluation of the dry run used.
        like: by domain, the size of stages that this one stands for.
        cached_bytes: bytes of trunk states that the full stage caches on disk and maps into memory.
        may_end_early: whether the stage has more evaluations than it may be without improvement.
        evaluated_tokens: tokens of the validation rows that an evaluation of the dry run used; 0 if unknown.
        evaluation_seconds: duration of each evaluation of the dry run.
    """

    stage: str
    name: str
    model_size: tuple[int, int]
    trainable: int
    size: StageSize
    batch_tokens: list[int]
    row_share: float
    like: dict[str, StageSize] = field(default_factory=dict)
    cached_bytes: int = 0
    may_end_early: bool = False
    evaluated_tokens: int = 0
    evaluation_seconds: list[float] = field(default_factory=list)

    @property
    def seconds_per_evaluated_token(self) -> float:
        """Mean seconds of an evaluation per token; 0 if the number of tokens is unknown."""
        if not self.evaluated_tokens or not self.evaluation_seconds:
            return 0.0
        return sum(self.evaluation_seconds) / len(self.evaluation_seconds) / self.evaluated_tokens

    def timed(self, evaluate: Callable[[], dict[str, float]]) -> Callable[[], dict[str, float]]:
        """Return the evaluation function, with its duration recorded in `evaluation_seconds`."""

        def run() -> dict[str, float]:
            start = time.perf_counter()
            metrics = evaluate()
            self.evaluation_seconds.append(time.perf_counter() - start)
            return metrics

        return run


@dataclass
class DryRun:
    """Runs a few steps of each stage, and records their measurements.

    Args:
        steps: fewest and most optimizer steps of a stage; the first batch, the most expensive one, gives the peak
            memory.
        seconds: time for the steps of a stage, within which more of them are run.
        rows: most rows of each validation set.
        caches_trunk: whether the full stages read the trunk's states of labelled rows from disk.
        stages: measurements of the stages so far.
        seconds_per_token: of the steps of the slowest stage so far; none before the first.
    """

    steps: tuple[int, int] = (3, 9)
    seconds: float = 4.0
    rows: int = 64
    caches_trunk: bool = False
    stages: list[DryRunStats] = field(default_factory=list)
    seconds_per_token: float | None = None

    def train_expert(self, expert: NewExpert, like: Mapping[str, Dataset] | None = None) -> None:
        """Measure the stage of an expert, and write the expert's folder.

        Args:
            like: training rows of the experts that this one stands for, by domain.
        """
        model, data, name = expert.model, expert.data, expert.name
        job = stage_job(expert.work, model, expert.stage, data, seed=expert.seed, name=name, expert=name)
        expert.save(self._fit(model, job, data, expert.keep_start, like or {}))

    def train_mixture(self, work: Workspace, stage: Stage, before: Path, load_data: LoadData | None = None) -> None:
        """Measure a stage of the mixture in a folder, and write the resulting mixture's folder.

        Args:
            load_data: see `moe.training.steps.train_stage`.
        """
        model, card, data = load_mixture_stage(work, before, load_data)
        job = stage_job(work, model, stage, data, seed=work.run.seed, name=stage.folder)
        result = self._fit(model, job, data, keeps_mixture_start(work, stage), {})
        save_mixture_stage(work, stage, model, card, result, name=stage.folder, overwrite=False)

    def _fit(
        self, model: Mixture, job: TrainJob, data: TrainingData, keep_start: bool, like: Mapping[str, Dataset]
    ) -> TrainResult:
        """Run a few steps of a stage and one evaluation on a few rows, and append the measurements to `stages`.

        Args:
            job: the full stage.
            data: from which the job was made.
            keep_start: whether the full stage also evaluates before its first step.
        """
        cached_bytes = 0
        if self.caches_trunk and isinstance(data.collate, Collator):
            cached_bytes = TrunkCache(model, data.collate, job.checkpoints).measure(job.rows)
        set_trainable(model, job.stage, job.expert, job.frozen, job.scope)
        tokens, sampler = estimate_tokens(job.rows, job.collate), batch_sampler(job)  # tokens: (N,)
        size = stage_size(job, tokens, keep_start)
        count = min(self.step_count(size.tokens_per_step()), len(sampler))
        batches = BatchSubset(sampler, count, tokens)
        held_out = {name: spread_by_length(rows, self.rows) for name, rows in data.held_out.items()}
        stats = DryRunStats(
            stage=job.stage.name,
            name=job.title,
            model_size=model_size(model),
            trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
            size=size,
            batch_tokens=[len(rows) * int(tokens[rows].max()) for rows in batches],
            row_share=sum(map(len, held_out.values())) / sum(map(len, data.held_out.values())),
            like={
                name: stage_size(replace(job, rows=rows), estimate_tokens(rows, job.collate), keep_start)
                for name, rows in like.items()
            },
            cached_bytes=cached_bytes,
            may_end_early=size.evaluations - int(keep_start) > job.settings.patience,
        )
        self.stages.append(stats)
        settings = job.settings.model_copy(update={"steps": count, "evals": 1})
        evaluate = stats.timed(replace(data, held_out=held_out).evaluate)
        return fit(model, replace(job, settings=settings, batches=batches, evaluate=evaluate, track=()))

    def step_count(self, tokens: float) -> int:
        """Return the number of steps that fit into `seconds`, estimated from earlier stages.

        Args:
            tokens: mean number of tokens of a step.
        """
        fewest, most = self.steps
        fitting = fewest if self.seconds_per_token is None else int(self.seconds / (self.seconds_per_token * tokens))
        return min(max(fewest, fitting), most)


def spread_by_length(rows: Dataset, count: int) -> Dataset:
    """Return at most `count` rows, at equal distances in length."""
    count = min(count, len(rows))
    order = np.argsort(np.nan_to_num(row_lengths(rows).astype(float)), kind="stable")
    positions = ((np.arange(count) + 0.5) / max(1, count) * len(rows)).astype(int)
    return rows.select(np.sort(order[positions]).tolist())


def stage_size(job: TrainJob, tokens: np.ndarray, keep_start: bool) -> StageSize:
    """Size of a full stage.

    Args:
        tokens: of each training row (N,).
        keep_start: whether it also evaluates before its first step.
    """
    steps = count_steps(job)
    interval = max(1, math.ceil(steps / job.settings.evals))
    rows, lengths = batch_sizes(batch_sampler(job), tokens)  # (M,) each
    return StageSize(
        steps=steps,
        evaluations=math.ceil(steps / interval) + int(keep_start),
        rows=len(job.rows),
        tokens=int(tokens.sum()),
        batch_rows=rows,
        batch_lengths=lengths,
    )


def estimate_tokens(rows: Dataset, collate: Collate) -> np.ndarray:
    """Return the number of tokens of each row (N,) as far as they are read, estimated from those of a sample."""
    lengths = row_lengths(rows)  # (N,), tokens if the rows hold some
    if not isinstance(collate, Collator) or not len(rows):
        return lengths
    sample = np.linspace(0, len(rows) - 1, min(len(rows), _LENGTH_SAMPLE)).round().astype(int)
    texts = rows.select(sample.tolist())
    tokens = collate.lengths(texts["text"], texts["target"])  # (n,)
    special = 2
    complete = tokens < collate.max_length  # texts that are not truncated
    complete = complete if complete.any() else np.ones_like(complete)
    per_character = (tokens[complete] - special).clip(min=0).sum() / max(1, lengths[sample][complete].sum())
    estimate: np.ndarray = np.minimum(special + per_character * lengths, collate.max_length).round().astype(int)
    return estimate


def batch_sizes(sampler: DomainBatchSampler, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows, and the tokens of the longest row, of each batch of an epoch, (M,) each.

    Args:
        tokens: of each row (N,).
    """
    batches: Sequence[list[int]] = list(sampler)
    return np.array([len(rows) for rows in batches]), np.array([int(tokens[rows].max()) for rows in batches])


def model_size(model: nn.Module) -> tuple[int, int]:
    """Return the number of a model's parameters, and the bytes of parameters and buffers; quantized ones as stored."""
    tensors = [*model.parameters(), *model.buffers()]
    count = sum(parameter.numel() for parameter in model.parameters())
    return count, sum(tensor.numel() * tensor.element_size() for tensor in tensors)
