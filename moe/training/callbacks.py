"""Callbacks of the training loop: stop signals, early stopping, non-finite steps, progress bar, timing, JSON log."""

import gc
import json
import math
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any

import torch
from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from moe import distributed
from moe.console import Meter, info
from moe.errors import Fault
from moe.profiling import SINCE_START, peak_mib, reset_peak


class StopOnSignal(TrainerCallback):
    """On Ctrl-C or SIGTERM, finish the step, evaluate if that is due, save a checkpoint and stop.

    Attributes:
        signal: number of the signal received; None if there was none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Save and stop after a signal, all processes at the same step."""
        self.signal = distributed.all_reduce_max(self.signal or 0) or None
        if self.signal is not None:
            control.should_save = control.should_training_stop = True
        return control


class Patience(EarlyStoppingCallback):
    """transformers' early stopping, with a counter that a resumed run continues."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore the counter from the checkpoint."""
        EarlyStoppingCallback.on_train_begin(self, args, state, control, **kwargs)
        self.early_stopping_patience_counter = evaluations_without_gain(state)


def evaluations_without_gain(state: TrainerState) -> int:
    """Number of consecutive evaluations without improvement, according to a checkpoint."""
    states = state.stateful_callbacks
    saved = states.get(Patience.__name__) if isinstance(states, dict) else None
    return int(saved["attributes"]["early_stopping_patience_counter"]) if isinstance(saved, dict) else 0


class ProgressBarCallback(TrainerCallback):
    """Advances the progress bar, and requests an evaluation and a checkpoint at the last step.

    Args:
        meter: the bar.
        loss: returns the loss of the last step.
        describe: formats the selection metric of an evaluation.
    """

    def __init__(self, meter: Meter, loss: Callable[[], float], describe: Callable[[Mapping[str, float]], str]) -> None:
        self.meter, self.loss, self.describe = meter, loss, describe

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Advance the bar; at the last step, request an evaluation and a checkpoint."""
        self.meter.advance(1, f"loss {self.loss():.3f}")
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True
        return control

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **_: Any
    ) -> None:
        """Show the selection metric."""
        if metrics:
            self.meter.advance(0, self.describe(metrics))


class StepTimer(TrainerCallback):
    """Time and memory of each step; the timer restarts after every log line, evaluation and checkpoint.

    The loop logs a step after reading its loss and gradient norm, so a GPU has finished the step by then.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.since = device, perf_counter()
        self.memory_of = SINCE_START

    def read(self) -> dict[str, float]:
        """`seconds` of the step that has just ended, and the stage's peak memory so far in `memory_mib`.

        That is the memory allocated on the GPU, or the resident set of the process.
        """
        peak = peak_mib(self.device)
        return {"seconds": perf_counter() - self.since, **({} if peak is None else {"memory_mib": peak})}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the timer, and reset the peak memory, which may be that of an earlier stage."""
        gc.collect()
        self.memory_of = reset_peak(self.device)
        self.since = perf_counter()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Restart the timer."""
        self.since = perf_counter()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Restart the timer."""
        self.since = perf_counter()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Restart the timer."""
        self.since = perf_counter()


class JsonLog(TrainerCallback):
    """Writes one JSON object per logged step.

    Args:
        path: of the log, to which lines are appended.
        timer: measures the memory; `memory_of` is `stage`, or `process` where the system cannot reset the peak of what
            ran before the stage.
    """

    def __init__(self, path: Path, timer: StepTimer) -> None:
        self.path, self.timer = path, timer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """End a line that was cut off when the process was killed, so that the next one is valid JSON."""
        if self.path.is_file() and _ends_mid_line(self.path):
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write("\n")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write the step and what the loop logs; a non-finite number becomes null."""
        line = {"step": state.global_step, **{name: _finite_or_none(value) for name, value in (logs or {}).items()}}
        if "memory_mib" in line:
            line["memory_of"] = "process" if self.timer.memory_of == SINCE_START else "stage"
            line["device"] = "cuda" if self.timer.device.type == "cuda" else "cpu"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def _ends_mid_line(path: Path) -> bool:
    with path.open("rb") as stream:
        end = stream.seek(0, 2)
        stream.seek(max(0, end - 1))
        return stream.read(1) not in (b"", b"\n")


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def graceful_interrupt(stopper: StopOnSignal) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM stop training after a checkpoint, and the second one at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stopper.signal is not None:
            raise KeyboardInterrupt
        stopper.signal = number

    try:
        handlers = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, where signal handlers cannot be set
        yield
        return
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class SkipStep(Exception):
    """The loss of a step is not finite, so its backward pass must not run."""


class NonFiniteGuard(TrainerCallback):
    """Skips optimizer steps whose loss or gradient is not finite; fails after more than `max_consecutive` in a row.

    Args:
        title: name of the stage, for messages.
        max_consecutive: number of consecutive steps that may be skipped.

    Attributes:
        cause: the first non-finite loss of the current step, or "a gradient"; None if all are finite.
        consecutive: number of steps skipped in a row.
        steps: number of steps skipped in all.
    """

    def __init__(self, title: str, max_consecutive: int) -> None:
        self.title, self.max_consecutive = title, max_consecutive
        self.cause: str | None = None
        self.consecutive = self.steps = 0

    def check(self, loss: torch.Tensor, losses: Mapping[str, float]) -> None:
        """Record the first of a step's losses that is not finite.

        Raises:
            SkipStep: if their sum is not finite.
        """
        total = float(loss.detach())
        nonfinite = [f"{name} {value}" for name, value in {**losses, "loss": total}.items() if not math.isfinite(value)]
        if nonfinite:
            self.cause = nonfinite[0]
        if not math.isfinite(total):
            raise SkipStep

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        grad_norm: torch.Tensor | None = None,
        **_: Any,
    ) -> None:
        """Discard gradients that are not finite, so that the weights do not change."""
        assert model is not None
        assert grad_norm is not None
        if not torch.isfinite(grad_norm):
            self.cause = self.cause or "a gradient"
            model.zero_grad(set_to_none=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Count and report a skipped step.

        Raises:
            Fault: if more than `max_consecutive` steps in a row were skipped.
        """
        if self.cause is None:
            self.consecutive = 0
            return
        cause, self.cause = self.cause, None
        self.consecutive, self.steps = self.consecutive + 1, self.steps + 1
        if self.consecutive > self.max_consecutive:
            raise Fault(
                expected="a finite loss and gradient",
                found=f"{cause} at step {state.global_step} of {self.title}, {self.consecutive} steps in a row",
                remedy="lower the stage's lr and check the data for extreme scores, then resume from the last "
                "checkpoint with --resume",
            )
        info(f"{self.title}: skipped step {state.global_step}, because {cause} is not finite")
