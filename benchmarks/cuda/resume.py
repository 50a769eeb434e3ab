"""Resuming: a joint stage that is stopped and resumed on the GPU ends with the weights of an undisturbed one."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from models import Bench
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from moe.config.stages import JOINT
from moe.errors import Interrupted
from moe.runs.workspace import Workspace
from moe.training.stage import run_stage
from moe.training.steps import load_mixture_stage

STEPS = {"full": 24, "toy": 6}
DROPOUT = 0.2
"""So that the state of the device's random numbers has to be restored, too."""


class StopOnce(TrainerCallback):
    """Stops a stage at a step, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Send the signal."""
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def measure_resume(bench: Bench) -> Iterator[dict[str, Any]]:
    """Train undisturbed twice, then with a stop at half of the steps, and compare the weights.

    The two undisturbed stages show what the GPU's own order of additions changes.
    """
    undisturbed, again = train(bench, "undisturbed", stop=False), train(bench, "again", stop=False)
    resumed = train(bench, "resumed", stop=True)
    control, difference = largest_difference(undisturbed, again), largest_difference(undisturbed, resumed)
    yield {
        "precision": bench.precisions[0].name,
        "steps": STEPS[bench.size],
        "undisturbed_twice": control,
        "resumed": difference,
        "passed": difference <= max(2 * control, 0.0 if control == 0 else 1e-4),
    }


def train(bench: Bench, name: str, *, stop: bool) -> dict[str, Tensor]:
    """Return the trained weights of a joint stage of the random mixture."""
    steps = STEPS[bench.size]
    run = bench.run_settings(
        f"stages.joint.steps={steps}",
        "stages.joint.evals=1",  # so that the last step's weights are compared
        "stages.joint.batch_size=16",
        "data.near_duplicates=null",
        "backbone.dtype=float32",
        dropout=DROPOUT,
    )
    work = Workspace(run, bench.folder / f"resume-{bench.size}-{name}", bench.folder / f"rows-{bench.size}")
    if not stop:
        return run_joint_stage(bench, work, resume=False)
    try:
        run_joint_stage(bench, replace(work, callbacks=(StopOnce(steps // 2),)), resume=False)
    except Interrupted:
        return run_joint_stage(bench, work, resume=True)
    raise AssertionError("the stage was not stopped")


def run_joint_stage(bench: Bench, work: Workspace, *, resume: bool) -> dict[str, Tensor]:
    """Train the joint stage, and return the weights that it trains, on the CPU."""
    model, _, data = load_mixture_stage(work, bench.save_classifier("soft", dropout=DROPOUT))
    assert model.backbone.device.type == bench.device
    torch.manual_seed(work.run.seed)
    run_stage(work, model, JOINT, data, seed=work.run.seed, name=JOINT.folder, resume=resume)
    return {key: tensor.detach().cpu().clone() for key, tensor in model.trained_state().items()}


def largest_difference(expected: dict[str, Tensor], measured: dict[str, Tensor]) -> float:
    """Return the largest difference of a weight."""
    assert expected.keys() == measured.keys()
    return max(float((measured[key].float() - tensor.float()).abs().max()) for key, tensor in expected.items())
