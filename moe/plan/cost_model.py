"""Cost of a run's stages, computed from a few measured parts, and the settings that would make the run shorter."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import nnls

from moe.config.stages import EXPERT, SHARED, StageSettings
from moe.plan.dry_run import StageSize
from moe.runs.layout import POOLED

GIB = 2**30
_MIN_SAVED = 0.05
"""Least share of the run's time that a listed change saves."""
_MAX_LISTED = 6


@dataclass(frozen=True)
class StepCost:
    """Seconds of an optimizer step by part.

    Args:
        fixed: seconds of a step, whatever its batch.
        forward: seconds of the forward pass per token of the batch, with padding.
        backward: seconds of the backward pass per token.
        skipped: share of the forward pass that cached states save.
    """

    fixed: float
    forward: float
    backward: float
    skipped: float = 0.0

    @classmethod
    def fit(cls, tokens: Sequence[float], seconds: Sequence[float], forward: float | None = None) -> "StepCost":
        """Fit measured steps by non-negative least squares.

        Args:
            tokens: of each step (n,).
            seconds: of each step (n,).
            forward: seconds of an evaluation per token; by default a third of a step, as in most models.
        """
        columns = np.stack([np.ones(len(tokens)), np.asarray(tokens, dtype=float)], axis=1)  # (n, 2)
        if np.ptp(columns[:, 1]) < 0.05 * columns[:, 1].max():  # batches of one size do not separate the two parts
            fixed, per_token = 0.0, float(np.sum(seconds) / columns[:, 1].sum())
        else:
            fixed, per_token = map(float, nnls(columns, np.asarray(seconds, dtype=float))[0])
        forward = per_token / 3 if forward is None else min(forward, per_token)
        return cls(fixed, forward, per_token - forward)

    def seconds(self, tokens: float) -> float:
        """Seconds of a step.

        Args:
            tokens: of its batch, with padding.
        """
        return self.fixed + (self.forward * (1 - self.skipped) + self.backward) * tokens


@dataclass(frozen=True)
class StageCost:
    """Estimated cost of one stage.

    Args:
        stage: name of the stage, the key of its settings.
        name: the trained expert, or the stage's folder.
        size: what it reads.
        step: cost of a step.
        evaluation: seconds of one evaluation.
        evaluations: number of evaluations.
        load: seconds to load, prepare and write.
        at_most: whether it may end early.
    """

    stage: str
    name: str
    size: StageSize
    step: StepCost
    evaluation: float
    evaluations: int
    load: float
    at_most: bool

    @property
    def seconds_per_step(self) -> float:
        """Mean seconds of a step."""
        return self.step.seconds(self.size.tokens_per_step())

    @property
    def seconds(self) -> float:
        """Seconds of the whole stage."""
        return self.size.steps * self.seconds_per_step + self.evaluations * self.evaluation + self.load


@dataclass(frozen=True)
class RunCost:
    """Estimated cost of a run, and what changes of settings depend on.

    Args:
        stages: in order.
        rest: seconds of everything else: the start, and the evaluation of the finished models.
        layers: number of the backbone's layers.
        trunk_depth: number of them without experts.
        fixed_shape: whether a trained expert that the run starts from determines trunk and length.
        cached: whether stages read the trunk's states of training rows from disk.
        cache_bytes: bytes that these states take or would take.
        max_length: tokens at which texts are truncated.
        lengths: (N,), tokens of each training row.
        settings: of the stages, by name.
        train_rows: training rows of each task.
        validation_rows: validation rows of each task.
    """

    stages: Sequence[StageCost]
    rest: float
    layers: int
    trunk_depth: int
    fixed_shape: bool
    cached: bool
    cache_bytes: int
    max_length: int
    lengths: np.ndarray = field(repr=False)
    settings: Mapping[str, StageSettings] = field(default_factory=dict, repr=False)
    train_rows: Mapping[str, int] = field(default_factory=dict)
    validation_rows: Mapping[str, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Seconds of the whole run."""
        return sum(stage.seconds for stage in self.stages) + self.rest

    def with_trunk(self, depth: int, cached: bool) -> "RunCost":
        """Return the cost with another trunk: its layers need no backward pass, and if cached no forward pass."""
        above = (self.layers - depth) / max(1, self.layers - self.trunk_depth)
        stages = []
        for i, stage in enumerate(self.stages):
            in_trunk = depth / self.layers if cached else 0.0
            step = replace(stage.step, backward=stage.step.backward * above, skipped=in_trunk)
            fill = step.forward * in_trunk * float(self.lengths.sum()) if not i and not self.cached else 0.0  # once
            stages.append(replace(stage, step=step, load=stage.load + fill))
        return replace(self, stages=stages, trunk_depth=depth, cached=cached)

    def with_max_length(self, max_length: int) -> "RunCost":
        """Return the cost with texts truncated earlier."""
        share = float(np.minimum(self.lengths, max_length).sum() / max(1, self.lengths.sum()))
        stages = []
        for stage in self.stages:
            shorter = stage.size.tokens_per_step(max_length) / stage.size.tokens_per_step()
            step = replace(stage.step, forward=stage.step.forward * shorter, backward=stage.step.backward * shorter)
            stages.append(replace(stage, step=step, evaluation=stage.evaluation * share))
        return replace(self, stages=stages, max_length=max_length)

    def with_setting(self, name: str, key: str, value: float) -> "RunCost":
        """Return the cost with another length of a stage.

        Args:
            name: of the stage.
            key: of its settings: `steps`, `epochs`, `min_steps` or `max_steps`.
            value: of the setting.
        """
        settings = {**self.settings, name: self.settings[name].model_copy(update={key: value})}
        return replace(self, settings=settings)._with_counted_steps({})

    def with_train_rows(self, most: int) -> "RunCost":
        """Return the cost with at most so many training rows of each task."""
        total = sum(self.train_rows.values())
        share = sum(min(rows, most) for rows in self.train_rows.values()) / max(1, total)
        own = {name: min(rows, most) / rows for name, rows in self.train_rows.items() if rows}
        return self._with_counted_steps({stage.name: own.get(stage.name, share) for stage in self.stages})

    def without_pooled(self) -> "RunCost":
        """Return the cost without the pooled LoRA."""
        return replace(self, stages=[stage for stage in self.stages if stage.stage != POOLED])

    def _with_counted_steps(self, shares: Mapping[str, float]) -> "RunCost":
        """Return the cost with the steps that the settings give.

        Args:
            shares: by stage, share of its rows that are left; all of the others'.
        """
        stages = []
        for stage in self.stages:
            if stage.stage in self.settings:
                batches = math.ceil(len(stage.size.batch_rows) * shares.get(stage.name, 1.0))
                stage = _with_steps(stage, self.settings[stage.stage].count_steps(batches))
            stages.append(stage)
        before, after = _steps_before_merge(self.stages), _steps_before_merge(stages)
        stages = [  # the pooled LoRA reads as many rows as the stages before the merge
            _with_steps(stage, max(1, round(stage.size.steps * after / max(1, before))))
            if stage.stage == POOLED
            else stage
            for stage in stages
        ]
        return replace(self, stages=stages)

    def with_validation_rows(self, most: int) -> "RunCost":
        """Return the cost with at most so many validation rows of each task."""
        total = sum(self.validation_rows.values())
        share = sum(min(rows, most) for rows in self.validation_rows.values()) / max(1, total)
        stages = []
        for stage in self.stages:
            own = self.validation_rows.get(stage.name)
            stages.append(replace(stage, evaluation=stage.evaluation * (min(own, most) / own if own else share)))
        return replace(self, stages=stages)


def _with_steps(stage: StageCost, steps: int) -> StageCost:
    return replace(stage, size=replace(stage.size, steps=steps))


def _steps_before_merge(stages: Sequence[StageCost]) -> int:
    return sum(stage.size.steps for stage in stages if stage.stage in (SHARED.name, EXPERT.name))


@dataclass(frozen=True)
class Saving:
    """A change of settings that makes a run shorter.

    Args:
        change: settings as in the config.
        seconds: of the run with the change.
        saved: seconds that the change saves.
        note: what the change costs; empty if nothing.
    """

    change: str
    seconds: float
    saved: float
    note: str


def savings(cost: RunCost) -> list[Saving]:
    """Return the changes of settings that would make a run shorter, the most effective first."""
    listed = [
        Saving(change, changed.seconds, saved=cost.seconds - changed.seconds, note=note)
        for change, changed, note in _changes(cost)
    ]
    effective = [saving for saving in listed if saving.saved >= _MIN_SAVED * cost.seconds]
    return sorted(effective, key=lambda saving: saving.seconds)[:_MAX_LISTED]


def _changes(cost: RunCost) -> Iterator[tuple[str, RunCost, str]]:
    deeper, disk = math.ceil(cost.layers / 2), f"{_format_bytes(cost.cache_bytes)} of disk"
    can_cache = not cost.cached and len(cost.lengths) > 0  # a language model's run has no such cache
    if cost.trunk_depth < deeper and not cost.fixed_shape:
        yield f"backbone.trunk_depth: {deeper}", cost.with_trunk(deeper, cost.cached), "experts fit less"
        if can_cache:
            change = f"backbone.trunk_depth: {deeper} with stages.cache_trunk: true"
            yield change, cost.with_trunk(deeper, True), f"experts fit less; {disk}"
    elif can_cache and cost.trunk_depth:
        yield "stages.cache_trunk: true", cost.with_trunk(cost.trunk_depth, True), disk
    for name in (name for name in cost.settings if any(stage.stage == name for stage in cost.stages)):
        key, value = _length(cost, name)
        half = value / 2 if key == "epochs" else max(1, round(value / 2))
        yield f"stages.{name}.{key}: {half:g}", cost.with_setting(name, key, half), ""
    if any(stage.stage == POOLED for stage in cost.stages):
        yield "moe run --no-pooled", cost.without_pooled(), "no comparison with one LoRA for all domains"
    if (shorter := _shorter(cost)) and not cost.fixed_shape:
        cut = float((cost.lengths > shorter).mean())
        yield f"backbone.max_length: {shorter}", cost.with_max_length(shorter), f"truncates {cut:.0%} of training texts"
    if most := _halving_cap(cost.train_rows):
        yield f"max_train_rows: {most} for every task", cost.with_train_rows(most), ""
    if most := _halving_cap(cost.validation_rows):
        yield f"max_validation_rows: {most} for every task", cost.with_validation_rows(most), "noisier selection"


def _format_bytes(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{max(1, round(1024 * count / GIB))} MiB"


def _length(cost: RunCost, name: str) -> tuple[str, float]:
    """The setting that determines the steps of most stages of a name, and its value."""
    settings = cost.settings[name]
    if settings.steps is not None:
        return "steps", settings.steps
    steps = [stage.size.steps for stage in cost.stages if stage.stage == name]
    if 2 * sum(count <= settings.min_steps for count in steps) > len(steps):
        return "min_steps", settings.min_steps
    if settings.max_steps is not None and 2 * sum(count >= settings.max_steps for count in steps) > len(steps):
        return "max_steps", settings.max_steps
    return "epochs", settings.epochs


def _shorter(cost: RunCost) -> int | None:
    """Half of the longest text's tokens, as a multiple of 8; none if texts are short already."""
    longest = int(cost.lengths.max()) if len(cost.lengths) else 0
    shorter = longest // 2 // 8 * 8
    return shorter if 16 <= shorter < cost.max_length else None


def _halving_cap(rows: Mapping[str, int]) -> int | None:
    """Rows per task at which about half of all rows are left, rounded to two digits; none if there are few."""
    total, low, high = sum(rows.values()), 0, max(rows.values(), default=0)
    while high - low > 1:
        middle = (low + high) // 2
        if 2 * sum(min(count, middle) for count in rows.values()) < total:
            low = middle
        else:
            high = middle
    cap = int(float(f"{high:.2g}"))
    return cap if cap >= 50 else None
