"""What goes on beside a training loop: the progress bar, the JSON log, and Ctrl-C that saves before it stops.

The loop itself is `moe.train`'s.
"""

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from moe.progress import Meter


class Stopper(TrainerCallback):
    """Turns Ctrl-C into: finish the step, save, stop."""

    def __init__(self) -> None:
        self.asked = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Save and stop, if asked."""
        if self.asked:
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False
        return control


class Watcher(TrainerCallback):
    """Moves the progress bar, and has the last step measured too.

    Args:
        meter: the bar.
        stopper: who was asked to stop.
        loss: gives the loss of the last step.
    """

    def __init__(self, meter: Meter, stopper: Stopper, loss: Callable[[], float]) -> None:
        self.meter, self.stopper, self.loss = meter, stopper, loss

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Advance; at the end ask for an evaluation and a checkpoint."""
        self.meter.advance(1, f"loss {self.loss():.3f}")
        if state.global_step >= state.max_steps and not self.stopper.asked:
            control.should_evaluate = control.should_save = True
        return control

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **_: Any
    ) -> None:
        """Show the score."""
        if metrics:
            self.meter.advance(0, f"macro-F1 {metrics['eval_macro_f1']:.3f}")


class JsonLog(TrainerCallback):
    """One JSON object a logged step, for whoever reads logs with programs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write what the Trainer logs, and the step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")


@contextmanager
def calm_interrupt(stopper: Stopper) -> Iterator[None]:
    """The first Ctrl-C asks the loop to save and stop, the second one stops at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        if stopper.asked:
            raise KeyboardInterrupt
        stopper.asked = True

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread, where signals cannot be caught
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
