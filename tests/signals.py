"""Signals at a given training step, for tests of interrupted stages."""

import os
import signal

import pytest

from moe.training.trainer import _StageTrainer

LONG_STAGE = {"stages": {"expert": {"steps": 12, "evals": 3}}}


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGINT) -> None:
    """Send a signal, by default that of Ctrl-C, to this process during a training step."""
    original = _StageTrainer.training_step

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == step:
            os.kill(os.getpid(), number)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(_StageTrainer, "training_step", interrupted)
