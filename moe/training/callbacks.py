"""What goes on beside a training loop: progress bar, clock, JSON log, and signals after which it saves before it stops.

The loop itself is `moe.training.trainer`'s.
"""

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
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from moe import distributed
from moe.console import Meter
from moe.profiling import MIB, peak_mib_since_start


class StopOnSignal(TrainerCallback):
    """Turns Ctrl-C and SIGTERM into: finish the step, measure if that is due, save, stop.

    `asked` is the signal's number.
    """

    def __init__(self) -> None:
        self.asked: int | None = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Save and stop, if asked; all processes at the same step."""
        self.asked = distributed.all_reduce_max(self.asked or 0) or None
        if self.asked is not None:
            control.should_save = control.should_training_stop = True
        return control


class Patience(EarlyStoppingCallback):
    """transformers' early stopping, whose count goes on where a stopped run goes on."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up the count of the checkpoint."""
        super().on_train_begin(args, state, control, **kwargs)
        self.early_stopping_patience_counter = evaluations_without_gain(state)


def evaluations_without_gain(state: TrainerState) -> int:
    """How many evaluations in a row brought nothing, as a checkpoint tells."""
    states = state.stateful_callbacks
    saved = states.get(Patience.__name__) if isinstance(states, dict) else None
    return int(saved["attributes"]["early_stopping_patience_counter"]) if isinstance(saved, dict) else 0


class ProgressBarCallback(TrainerCallback):
    """Moves the progress bar, and has the last step measured too.

    Args:
        meter: the bar.
        loss: gives the loss of the last step.
        score: tells the validation metric that counts.
    """

    def __init__(self, meter: Meter, loss: Callable[[], float], score: Callable[[Mapping[str, float]], str]) -> None:
        self.meter, self.loss, self.score = meter, loss, score

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Advance; at the end ask for an evaluation and a checkpoint."""
        self.meter.advance(1, f"loss {self.loss():.3f}")
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True
        return control

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **_: Any
    ) -> None:
        """Show the score."""
        if metrics:
            self.meter.advance(0, self.score(metrics))


class StepTimer(TrainerCallback):
    """Seconds and memory of each step. It starts anew after every log line, evaluation and checkpoint.

    The loop logs a step once its loss and gradient norm are read, so a GPU has finished it by then.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.since = device, perf_counter()

    def read(self) -> dict[str, float]:
        """`seconds` of the step that ends now, and `memory_mib`, the peak so far."""
        return {"seconds": perf_counter() - self.since, **peak_memory(self.device)}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start; what an earlier stage took of the GPU's memory is not this one's."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.since = perf_counter()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start anew."""
        self.since = perf_counter()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start anew."""
        self.since = perf_counter()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start anew."""
        self.since = perf_counter()


def peak_memory(device: torch.device) -> dict[str, float]:
    """`memory_mib` (MiB): the GPU's peak of allocated memory, else the peak resident set of the whole process."""
    if device.type == "cuda":
        return {"memory_mib": torch.cuda.max_memory_allocated(device) / MIB}
    peak = peak_mib_since_start()
    return {} if peak is None else {"memory_mib": peak}


class JsonLog(TrainerCallback):
    """One JSON object a logged step, for whoever reads logs with programs.

    Args:
        path: of the file, which is added to.
        device: whose memory is logged: `cuda` is the GPU's, `cpu` the process's.
    """

    def __init__(self, path: Path, device: str) -> None:
        self.path, self.device = path, device

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """End a line that was cut when the stage was killed, so that the next one stands by itself."""
        if self.path.is_file() and _is_cut(self.path):
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
        """Write what the Trainer logs, and the step; a figure that is not finite becomes null."""
        line = {"step": state.global_step, **{name: _finite(value) for name, value in (logs or {}).items()}}
        if "memory_mib" in line:
            line["device"] = self.device
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def _is_cut(path: Path) -> bool:
    with path.open("rb") as stream:
        end = stream.seek(0, 2)
        stream.seek(max(0, end - 1))
        return stream.read(1) not in (b"", b"\n")


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def graceful_interrupt(stopper: StopOnSignal) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks the loop to save and stop, a second one stops at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        if stopper.asked is not None:
            raise KeyboardInterrupt
        stopper.asked = number

    try:
        before = {one: signal.signal(one, ask) for one in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, where signals cannot be caught
        yield
        return
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
