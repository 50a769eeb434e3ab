"""The training loop of all stages, on accelerate and with transformers' callbacks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from time import time
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import (
    DefaultFlowCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    get_scheduler,
    set_seed,
)
from transformers.integrations.integration_utils import get_reporting_integration_callbacks
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import speed_metrics

from moe import distributed
from moe.training.checkpoints import STATE


class TrainingLoop(ABC):
    """Runs optimizer steps, one batch each, until `args.max_steps` or until a callback stops it.

    Args:
        model: on its device; in bfloat16 (`args.bf16`) its forward pass runs under autocast.
        args: number of steps, schedule, clipping, and how often to evaluate and save.
        optimizer: of the trainable weights.
        loader: yields this process's batches of one epoch; its batch sampler has `set_epoch`.
        callbacks: called in this order, after the default flow and the trackers of `args.report_to`.

    Attributes:
        state: steps, history and best metric, as in a checkpoint.
        forward_model: the model as steps must call it.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        optimizer: torch.optim.Optimizer,
        loader: DataLoader[Any],
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        set_seed(args.seed)
        self.model, self.args, self.optimizer, self.control = model, args, optimizer, TrainerControl()
        device = args.device  # initializes the process group
        accelerator = Accelerator(mixed_precision="bf16" if args.bf16 else "no", cpu=args.use_cpu)
        self.forward_model = accelerator.prepare_model(model, evaluation_mode=True)  # no DDP: see gradient_cache
        self.loader = prepare_data_loader(loader, device, num_processes=1, process_index=0, put_on_device=True)
        self.schedule: LRScheduler = get_scheduler(
            args.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=args.get_warmup_steps(args.max_steps),
            num_training_steps=args.max_steps,
        )
        trackers = [tracker() for tracker in get_reporting_integration_callbacks(args.report_to)]
        self.callbacks: list[TrainerCallback] = [DefaultFlowCallback(), *trackers, *callbacks]
        self.state = self._new_state()

    @abstractmethod
    def training_step(self, model: nn.Module, inputs: Any) -> Tensor:
        """Compute the gradient of one batch, and return its loss; no gradient skips the step."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Log and return validation metrics, `args.metric_for_best_model` among them."""

    @abstractmethod
    def save_checkpoint(self) -> None:
        """Write a checkpoint of the current step, with `write_state`."""

    @abstractmethod
    def load_checkpoint(self, folder: Path) -> None:
        """Restore weights, optimizer and schedule, but not the random number generators."""

    @abstractmethod
    def load_random_state(self, folder: Path) -> None:
        """Restore the random number generators."""

    @abstractmethod
    def load_best(self) -> None:
        """Load the weights of the best evaluation."""

    def train(self, resume_from_checkpoint: Path | None = None) -> None:
        """Train, from the start or from a checkpoint, then load the best weights."""
        self.state, start = self._new_state(), time()
        if resume_from_checkpoint is not None:
            self.state = TrainerState.load_from_json(str(resume_from_checkpoint / STATE))
            self.load_checkpoint(resume_from_checkpoint)
        self.state.compute_steps(self.args, self.args.max_steps)
        self.state.max_steps, first, losses = self.args.max_steps, self.state.global_step, 0.0
        self.state.is_world_process_zero = self.state.is_local_process_zero = distributed.is_main_process()
        self.control.should_training_stop = False
        self.model.zero_grad()
        self.notify("on_train_begin")
        while not self.control.should_training_stop and self.state.global_step < self.args.max_steps:
            epoch, skipped = divmod(self.state.global_step, len(self.loader))
            resumed = resume_from_checkpoint if self.state.global_step == first else None
            losses += self._run_epoch(epoch, skipped, resumed)
        steps = self.state.global_step - first
        self.log(speed_metrics("train", start, num_steps=steps) | {"train_loss": losses / max(steps, 1)})
        self.load_best()
        self.notify("on_train_end")

    def _run_epoch(self, epoch: int, skipped: int, resumed: Path | None) -> float:
        """Train an epoch, but for batches trained before a checkpoint, and return the sum of the losses."""
        loader = skip_first_batches(self.loader, skipped) if skipped else self.loader
        if resumed is not None and not skipped:
            self.load_random_state(resumed)
        self.control.should_epoch_stop = False
        self.notify("on_epoch_begin")
        loader.set_epoch(epoch)
        if (sampler := getattr(loader.batch_sampler, "batch_sampler", None)) is not None:  # the loader skips batches
            sampler.set_epoch(epoch)
        batches, count, total = iter(loader), len(self.loader), 0.0
        for step in range(skipped, count):
            inputs = next(batches)
            if resumed is not None and step == skipped > 0:
                self.load_random_state(resumed)
            total += self._run_step(inputs)
            self.state.epoch = epoch + (step + 1) / count
            self._finish_step()
            if self.control.should_training_stop or self.control.should_epoch_stop:
                break
        self.notify("on_epoch_end")
        return total

    def _run_step(self, inputs: Any) -> float:
        """Take one optimizer step, and return its loss."""
        self.control.should_log = self.control.should_evaluate = self.control.should_save = False
        self.notify("on_step_begin")
        loss = self.training_step(self.forward_model, inputs)
        norm = distributed.clip_gradients(self.model.parameters(), self.args.max_grad_norm or float("inf"))
        self.notify("on_pre_optimizer_step", grad_norm=norm)
        self.optimizer.step()
        self.notify("on_optimizer_step")
        rate = float(self.schedule.get_last_lr()[0])
        self._logs = {"loss": float(loss), "grad_norm": float(norm), "learning_rate": rate}
        self.schedule.step()
        self.model.zero_grad()
        self.state.global_step += 1
        return self._logs["loss"]

    def _finish_step(self) -> None:
        """Log, evaluate and save, if that is due."""
        self.notify("on_step_end")
        if self.control.should_log:
            self.log(self._logs)
        if self.control.should_evaluate:
            self._record_best(self.evaluate())
        if self.control.should_save:
            self.save_checkpoint()
            self.control.should_save = False
            self.notify("on_save")

    def _record_best(self, metrics: dict[str, float]) -> None:
        value, best = metrics[str(self.args.metric_for_best_model)], self.state.best_metric
        if best is None or (value > best if self.args.greater_is_better else value < best):
            self.state.best_metric, self.state.best_global_step = value, self.state.global_step

    def log(self, logs: dict[str, float]) -> None:
        """Add logs to the state's history, and pass them to the callbacks."""
        logs = logs | ({} if self.state.epoch is None else {"epoch": self.state.epoch})
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.control.should_log = False
        self.notify("on_log", logs=logs)

    def notify(self, event: str, **values: Any) -> None:
        """Call an event of all callbacks."""
        values |= {"model": self.model, "optimizer": self.optimizer, "lr_scheduler": self.schedule}
        values["train_dataloader"] = self.loader
        for callback in self.callbacks:
            control = getattr(callback, event)(self.args, self.state, self.control, **values)
            self.control = control or self.control

    def write_state(self, folder: Path) -> None:
        """Write the state to a checkpoint, those of callbacks that have one included."""
        states: Any = self.state.stateful_callbacks  # by name, once the state is made
        parts = [part for part in (*self.callbacks, self.control) if isinstance(part, ExportableState)]
        states |= {type(part).__name__: part.state() for part in parts}
        self.state.save_to_json(str(folder / STATE))

    def _new_state(self) -> TrainerState:
        parts = (*self.callbacks, self.control)
        stateful: list[Any] = [part for part in parts if isinstance(part, ExportableState)]
        return TrainerState(stateful_callbacks=stateful)
