"""Training of one stage: what is trainable, the loop with its backward pass, evaluation, checkpoints and logs."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerState
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer_utils import rotate_checkpoints

from experts.atomic_io import os_errors_as_faults
from experts.safetensors_io import load_tensors, save_tensors
from moe import distributed
from moe.config.stages import Stage
from moe.console import progress_bar
from moe.data.collator import Batch, model_inputs
from moe.errors import Fault, Interrupted
from moe.model.backbone_ops import AttentionSwitch, activation_checkpointing
from moe.model.mixture import Mixture
from moe.model.mode import RoutingMode
from moe.model.outputs import MixtureOutput
from moe.profiling import oom_guard
from moe.runs.training_log import LOG, PARQUET, write_trajectory
from moe.trackers import tracker_run, uses_tensorboard
from moe.training.callbacks import (
    JsonLog,
    NonFiniteGuard,
    Patience,
    ProgressBarCallback,
    SkipStep,
    StepTimer,
    StopOnSignal,
    evaluations_without_gain,
    graceful_interrupt,
)
from moe.training.checkpoints import (
    OBJECTIVE,
    STATE,
    TRAINED,
    check_checkpoint,
    check_world_size,
    checkpoint_path,
    get_rng_state,
    last_complete_checkpoint,
    load_optimizer,
    rng_file,
    save_optimizer,
    set_rng_state,
    writing_checkpoint,
)
from moe.training.fsdp import distribute_like, full_tensors, gather_experts, shard
from moe.training.gradient_cache import BackwardPass
from moe.training.job import (
    NewExpertScope,
    TrainJob,
    TrainResult,
    batch_sampler,
    build_optimizer,
    count_steps,
    training_arguments,
    training_loader,
)
from moe.training.loop import TrainingLoop
from moe.training.loss.holdout import HoldoutSampler
from router.losses import optimizer_state


def fit(model: Mixture, job: TrainJob) -> TrainResult:
    """Train one stage and leave the best weights in the model.

    Raises:
        Fault: if there are no rows, losses remain non-finite, memory runs out, or the disk is full.
        Interrupted: on Ctrl-C or SIGTERM, after saving a checkpoint.
    """
    if len(job.rows) == 0:
        raise Fault(f"training rows for {job.title}", "none", "check rejected.csv and the split settings")
    model.train()
    mode = set_trainable(model, job.stage, job.expert, job.frozen, job.scope)
    with distributed.main_process_first():
        (job.logs / PARQUET).unlink(missing_ok=True)  # exists only if the stage is finished
        last = last_complete_checkpoint(job.checkpoints) if job.resume else None
    if last is not None:
        check_world_size(last, distributed.world_size())
    if job.shard:
        shard(model)
    trainer = _StageTrainer(model, mode, job)
    if last is None or not trainer.load_if_finished(last):
        advice = f"lower stages.{job.stage.name}.batch_size (and raise accumulate by as much) or backbone.max_length"
        recompute = activation_checkpointing(model.backbone, model.bank.trunk_depth) if job.recompute else nullcontext()
        with (
            graceful_interrupt(trainer.stopper),
            os_errors_as_faults(job.logs),
            oom_guard(advice),
            recompute,
            tracker_run(job.track),
            progress_bar(job.title, trainer.total_steps, "step") as meter,
        ):
            trainer.callbacks.append(ProgressBarCallback(meter, trainer.last_loss, trainer.describe))
            distributed.broadcast_parameters(model.trained_state().values())
            trainer.train(resume_from_checkpoint=last)
    trainer.attention.restore()
    if trainer.stopper.signal is not None:
        raise Interrupted(trainer.stopper.signal)
    gather_experts(model)
    distributed.on_main_process(lambda: write_trajectory(job.logs))
    return TrainResult(steps=trainer.state.global_step, best=trainer.best_metrics(), history=trainer.history())


def set_trainable(
    model: Mixture,
    stage: Stage,
    expert: str | None,
    frozen: Sequence[str] = (),
    scope: NewExpertScope | None = None,
) -> RoutingMode:
    """Set which parameters are trainable, and return how the stage routes: by the router, or to one expert.

    Gates are detached if the router is trained without the experts, and each domain has only one.

    Args:
        expert: the expert to train, in stages without a router.
        frozen: experts that are not trained in stages with a router.
        scope: the part of heads and router that is trained; all of them by default.
    """
    names = (expert,) if expert else tuple(name for name in model.bank.adapters if name not in frozen)
    model.bank.train_only(*(names if "experts" in stage.trains else ()))
    model.heads.requires_grad_("heads" in stage.trains and scope is None)
    if scope is not None and "heads" in stage.trains:
        for key, parameter in model.heads.named_parameters():
            parameter.requires_grad_(key.startswith(scope.heads))
    if model.gate is not None:
        model.gate.requires_grad_("router" in stage.trains)
        if scope is not None and scope.experts is not None:
            model.gate.train_rows([model.bank.routed_experts.index(name) for name in scope.experts])
    one_expert_each = all(domain.experts == 1 for domain in model.domains)
    detached = stage.routed and "experts" not in stage.trains and one_expert_each
    return RoutingMode(active_expert=None if stage.routed else expert, detach_gates=detached)


class _StageTrainer(TrainingLoop):
    """The loop with our backward pass, batches and evaluation; checkpoints omit the backbone."""

    model: Mixture

    def __init__(self, model: Mixture, mode: RoutingMode, job: TrainJob) -> None:
        self.mode, self.settings, self.metric = mode, job.settings, job.metric
        self.objective, self.compute_validation_metrics = job.objective, job.evaluate
        self.stopper, self.attention = StopOnSignal(), AttentionSwitch(model.backbone)
        guard = NonFiniteGuard(job.title, job.settings.nonfinite)
        self.timer, self.total_steps = StepTimer(next(model.backbone.parameters()).device), count_steps(job)
        self.rates: dict[str, float] = {}
        if job.objective.needs_holdout:
            batches = batch_sampler(job, holdout=True)
            job.objective.context.holdout = HoldoutSampler(model, mode, job.rows, batches, job.collate)
        super().__init__(
            model,
            training_arguments(model, job, self.total_steps),
            build_optimizer(model, self.settings),
            training_loader(job),
            callbacks=[
                self.stopper,
                guard,
                Patience(job.settings.patience),
                *job.callbacks,
                *([] if not distributed.is_main_process() else _log_callbacks(job, self.timer)),
                self.timer,  # the last one, so that the time to write the log is not counted
            ],
        )
        self.backward_pass = BackwardPass(model, self._forward, job.objective, guard.check)
        if distributed.rank():
            torch.manual_seed(job.seed + distributed.rank())  # different dropout in each process

    def _forward(self, batch: Batch, backbone_grad: bool = True) -> MixtureOutput:
        self.attention.select(batch["input_ids"].shape[1])
        mode = replace(self.mode, backbone_grad=backbone_grad)
        output: MixtureOutput = self.forward_model(**model_inputs(batch), mode=mode)
        return output

    def training_step(self, model: nn.Module, inputs: Sequence[Batch]) -> Tensor:
        """Compute the gradient of a step's micro-batches; no gradient if the loss is not finite."""
        self.rates = {f"lr/{group['name']}": group["lr"] for group in self.optimizer.param_groups}
        model.train()
        try:
            return self.backward_pass(inputs)
        except SkipStep:
            model.zero_grad(set_to_none=True)
            return torch.zeros(())

    def evaluate(self) -> dict[str, float]:
        """Return the job's validation metrics."""
        self.attention.restore()
        computed = distributed.broadcast_object(self.compute_validation_metrics())
        metrics = {f"eval_{name}": value for name, value in computed.items()}
        self.log(metrics)
        self.notify("on_evaluate", metrics=metrics)
        return metrics

    def log(self, logs: dict[str, float]) -> None:
        """Add losses, their weights, mean gates, learning rates, time and memory to what the loop logs."""
        if not any(key.startswith(("eval_", "train_")) for key in logs):
            logs = logs | self.objective.logs | self.rates | self.timer.read()
        super().log(logs)

    def load_if_finished(self, folder: Path) -> bool:
        """Load the best weights if the stage had ended with this checkpoint, but its output was not yet written."""
        state = TrainerState.load_from_json(str(folder / STATE))
        if state.global_step < self.total_steps and evaluations_without_gain(state) < self.settings.patience:
            return False
        self.state = state
        self.load_best()
        return True

    def save_checkpoint(self) -> None:
        """Write a checkpoint, and delete old ones."""
        folder, step = Path(str(self.args.output_dir)), self.state.global_step
        # Gathered in all processes, and written on rank 0.
        weights, moments = full_tensors(self.model.trained_state()), full_tensors(optimizer_state(self.optimizer))
        with writing_checkpoint(folder, step) if distributed.is_main_process() else nullcontext():
            path = checkpoint_path(folder, step)
            path.mkdir(parents=True, exist_ok=True)
            if distributed.is_main_process():
                save_tensors(path / TRAINED, weights)
                save_tensors(path / OBJECTIVE, self.objective.state_dict(), finite=False)  # NaN: not yet measured
                save_optimizer(path, moments, self.schedule)
            save_tensors(path / rng_file(distributed.rank()), get_rng_state(), finite=False)
            best = checkpoint_path(folder, self.state.best_global_step or step)
            self.state.best_model_checkpoint = str(best)
            if distributed.is_main_process():
                self.write_state(path)
            distributed.barrier()
        distributed.on_main_process(
            lambda: rotate_checkpoints(str(folder), self.settings.keep, str(folder / best.name))
        )

    def load_checkpoint(self, folder: Path) -> None:
        """Restore weights, losses, optimizer and schedule."""
        self._load_weights(folder)
        self.objective.load_state_dict(load_tensors(folder / OBJECTIVE, finite=False))
        load_optimizer(folder, self.optimizer, self.schedule)

    def load_random_state(self, folder: Path) -> None:
        """Restore the random number generators of this process."""
        set_rng_state(load_tensors(folder / rng_file(distributed.rank()), finite=False))

    def load_best(self) -> None:
        """Load the weights of the best evaluation, unless a signal stopped the stage."""
        if self.stopper.signal is None and self.state.best_model_checkpoint is not None:
            self._load_weights(Path(str(self.args.output_dir)) / Path(self.state.best_model_checkpoint).name)

    def _load_weights(self, folder: Path) -> None:
        check_checkpoint(folder)
        current, saved = self.model.trained_state(), load_tensors(folder / TRAINED)
        self.model.load_trained_state({name: distribute_like(value, current[name]) for name, value in saved.items()})

    def last_loss(self) -> float:
        """Loss of the last step."""
        return self.objective.logs.get("loss", math.nan)

    def describe(self, metrics: Mapping[str, float]) -> str:
        """Format the selection metric of an evaluation."""
        return self.metric.describe({name.removeprefix("eval_"): value for name, value in metrics.items()})

    def history(self) -> list[dict[str, float]]:
        """Metrics and step of every evaluation; keys are sorted, as in entries read from a checkpoint."""
        entries = [entry for entry in self.state.log_history if f"eval_{self.metric.name}" in entry]
        return [{key.removeprefix("eval_"): float(entry[key]) for key in sorted(entry)} for entry in entries]

    def best_metrics(self) -> dict[str, float]:
        """Metrics of the evaluation with the best weights."""
        return max(self.history(), key=self.metric.score, default={})


def _log_callbacks(job: TrainJob, timer: StepTimer) -> list[TrainerCallback]:
    """Callbacks that write log files, for rank 0."""
    log = JsonLog(job.logs / LOG, timer)
    return [log, TensorBoardCallback(_summary_writer(job.logs))] if uses_tensorboard(job.track) else [log]


def _summary_writer(logs: Path) -> Any:
    from torch.utils.tensorboard.writer import SummaryWriter  # slow to import, and needed only here

    return SummaryWriter(str(logs))
