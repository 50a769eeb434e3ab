"""Ctrl-C or another signal at a chosen step, for tests of what a stopped stage leaves behind."""

import os
import signal

import pytest

from moe.training.trainer import _StageTrainer

LONG = {"stages": {"expert": {"steps": 12, "evals": 3}}}


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGINT) -> None:
    """Press Ctrl-C, or send another signal, while this step runs."""
    plain = _StageTrainer.training_step

    def pressed(self, *args, **kwargs):
        if self.state.global_step == step:
            os.kill(os.getpid(), number)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(_StageTrainer, "training_step", pressed)
