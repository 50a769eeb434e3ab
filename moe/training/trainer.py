"""The training loop of all stages, on transformers' Trainer: optimizer, batches, evaluation, checkpoints and logs."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback
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
    TRAINED,
    check_checkpoint,
    check_world_size,
    get_rng_state,
    last_complete_checkpoint,
    load_optimizer,
    rng_file,
    save_optimizer,
    set_rng_state,
    writing_checkpoint,
)
from moe.training.fsdp import clip_gradients, distribute_like, full_tensors, gather_experts, shard
from moe.training.gradient_cache import BackwardPass
from moe.training.holdout import HoldoutSampler
from moe.training.job import (
    MicroBatchCollator,
    TrainJob,
    TrainResult,
    batch_sampler,
    count_steps,
    parameter_groups,
    training_arguments,
    training_sampler,
)
from moe.training.objective import Objective
from router.loss_weighting import optimizer_state


def fit(model: Mixture, job: TrainJob) -> TrainResult:
    """Train one stage and leave the best weights in the model.

    Raises:
        Fault: if there are no rows, losses remain non-finite, memory runs out, or the disk is full.
        Interrupted: on Ctrl-C or SIGTERM, after saving a checkpoint.
    """
    if len(job.rows) == 0:
        raise Fault(f"training rows for {job.title}", "none", "check rejected.csv and the split settings")
    model.train()
    set_trainable(model, job.stage, job.expert, job.frozen)
    with distributed.main_process_first():
        (job.logs / PARQUET).unlink(missing_ok=True)  # exists only if the stage is finished
        last = last_complete_checkpoint(job.checkpoints) if job.resume else None
    if last is not None:
        check_world_size(last, distributed.world_size())
    if job.shard:
        shard(model)
    trainer = _StageTrainer(model, job)
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
            trainer.add_callback(ProgressBarCallback(meter, trainer.last_loss, trainer.describe))
            distributed.broadcast_params(model.trained_state().values())
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
    trainer.attention.restore()
    if trainer.stopper.signal is not None:
        raise Interrupted(trainer.stopper.signal)
    gather_experts(model)
    distributed.on_main(lambda: write_trajectory(job.logs))
    return TrainResult(steps=trainer.state.global_step, best=trainer.best_metrics(), history=trainer.history())


def set_trainable(model: Mixture, stage: Stage, expert: str | None, frozen: Sequence[str] = ()) -> None:
    """Set which parameters are trainable, and whether the router or a constant route is used.

    Gates are detached if the router is trained without the experts, and each domain has only one.

    Args:
        expert: the expert to train, in stages without a router.
        frozen: experts that are not trained in stages with a router.
    """
    names = (expert,) if expert else tuple(name for name in model.bank.adapters if name not in frozen)
    model.bank.train_only(*(names if "experts" in stage.trains else ()))
    model.active_expert = None if stage.routed else expert
    model.heads.requires_grad_("heads" in stage.trains)
    if model.gate is not None:
        model.gate.requires_grad_("router" in stage.trains)
    one_expert_each = all(domain.experts == 1 for domain in model.domains)
    model.detach_gates = stage.routed and "experts" not in stage.trains and one_expert_each


class _StageTrainer(Trainer):
    """transformers' training loop with our backward pass, batches and evaluation; checkpoints omit the backbone."""

    def __init__(self, model: Mixture, job: TrainJob) -> None:
        self.settings, self.compute_validation_metrics, self.metric = job.settings, job.evaluate, job.metric
        self.objective: Objective = job.objective
        self.stopper = StopOnSignal()
        guard = NonFiniteGuard(job.title, job.settings.nonfinite)
        self.attention = AttentionSwitch(model.backbone)
        device = next(model.backbone.parameters()).device
        self.timer = StepTimer(device)
        self.rates: dict[str, float] = {}
        self.sampler = training_sampler(job)
        if job.objective.needs_holdout:
            batches = batch_sampler(job, holdout=True)
            job.objective.context.holdout = HoldoutSampler(model, job.rows, batches, job.collate)
        self.total_steps = count_steps(job)
        super().__init__(
            model=model,
            args=training_arguments(model, job, self.total_steps),
            train_dataset=job.rows,
            eval_dataset=job.rows.select([]),  # `evaluate` below does not read it
            data_collator=MicroBatchCollator(job.collate, job.settings.batch_size),  # type: ignore[arg-type]
            callbacks=[
                self.stopper,
                guard,
                Patience(job.settings.patience),
                *([] if not distributed.is_main() else _log_callbacks(job, self.timer)),
                self.timer,  # the last one, so that the time to write the log is not counted
            ],
        )
        self.remove_callback(PrinterCallback)
        # `moe.training.gradient_cache` sums the gradients of all processes, so DDP's wrapper is not needed.
        self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)
        self.accelerator.clip_grad_norm_ = clip_gradients
        self.backward_pass = BackwardPass(model, self._forward, job.objective, guard.check)
        if distributed.rank():
            torch.manual_seed(job.seed + distributed.rank())  # different dropout in each process

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Loader of this process's rows of each step, which Accelerate moves to the device."""
        loader: DataLoader[Any] = DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_sampler=self.sampler,
            collate_fn=self.data_collator,
        )
        prepared: DataLoader[Any] = prepare_data_loader(
            loader, self.args.device, num_processes=1, process_index=0, put_on_device=True
        )
        return prepared

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create AdamW with a learning rate for each part."""
        if self.optimizer is None:
            assert isinstance(self.model, Mixture)
            groups = parameter_groups(self.model, self.settings)
            self.optimizer = torch.optim.AdamW(groups, weight_decay=self.settings.weight_decay)
        return self.optimizer

    def _forward(self, batch: Batch) -> MixtureOutput:
        self.attention.select(batch["input_ids"].shape[1])
        output: MixtureOutput = self.model_wrapped(**model_inputs(batch))
        return output

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Compute the gradient of a step's micro-batches; no gradient if the loss is not finite."""
        assert self.optimizer is not None
        self.rates = {f"lr/{group['name']}": group["lr"] for group in self.optimizer.param_groups}
        model.train()
        try:
            with self.compute_loss_context_manager():
                return self.backward_pass(inputs)
        except SkipStep:
            model.zero_grad(set_to_none=True)
            return torch.zeros((), device=self.args.device)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return the job's validation metrics."""
        self.attention.restore()
        computed = distributed.broadcast_object(self.compute_validation_metrics())
        metrics = {f"eval_{name}": value for name, value in computed.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add losses, their weights, mean gates, learning rates, time and memory to what the Trainer logs."""
        if not any(key.startswith(("eval_", "train_")) for key in logs):
            logs = logs | self.objective.logs | self.rates | self.timer.read()
        super().log(logs, *args, **kwargs)

    def load_if_finished(self, folder: Path) -> bool:
        """Load the best weights if the stage had ended with this checkpoint, but its output was not yet written."""
        state = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME))
        if state.global_step < self.total_steps and evaluations_without_gain(state) < self.settings.patience:
            return False
        self.state = state
        self._load_best_model()
        return True

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(str(self.args.output_dir))
        assert isinstance(self.model, Mixture)
        assert self.optimizer is not None
        # Gathered in all processes, and written by `_save` and `_save_optimizer_and_scheduler` on rank 0.
        self.full_state = full_tensors(self.model.trained_state()), full_tensors(optimizer_state(self.optimizer))
        with writing_checkpoint(folder, self.state.global_step) if distributed.is_main() else nullcontext():
            super()._save_checkpoint(model, trial)
            distributed.barrier()
        best = self.state.best_model_checkpoint
        protected = str(folder / Path(best).name) if best else None
        distributed.on_main(lambda: rotate_checkpoints(str(folder), self.settings.keep, protected))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / TRAINED, self.full_state[0])
        save_tensors(folder / OBJECTIVE, self.objective.state_dict(), finite=False)  # NaN: not yet measured

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        assert self.lr_scheduler is not None
        if distributed.is_main():
            save_optimizer(Path(output_dir), self.full_state[1], self.lr_scheduler)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            assert self.optimizer is not None
            assert self.lr_scheduler is not None
            load_optimizer(Path(checkpoint), self.optimizer, self.lr_scheduler)

    def _save_rng_state(self, output_dir: str) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_tensors(Path(output_dir) / rng_file(distributed.rank()), get_rng_state(), finite=False)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            set_rng_state(load_tensors(Path(checkpoint) / rng_file(distributed.rank()), finite=False))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._load_weights(Path(resume_from_checkpoint))
        self.objective.load_state_dict(load_tensors(Path(resume_from_checkpoint) / OBJECTIVE, finite=False))

    def _load_best_model(self) -> None:
        if self.stopper.signal is None:
            self._load_weights(Path(str(self.args.output_dir)) / Path(str(self.state.best_model_checkpoint)).name)

    def _load_weights(self, folder: Path) -> None:
        assert isinstance(self.model, Mixture)
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
