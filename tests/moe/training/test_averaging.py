"""Tests of weight averages: their values, that they are evaluated and saved, and that training does not change."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Make
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from moe.config.stages import StageSettings
from moe.training.averaging import WeightAverage
from moe.training.expert_steps import train_domain
from moe.training.trainer import _StageTrainer


def averaged(settings: StageSettings, values: list[float]) -> tuple[WeightAverage, nn.Linear]:
    """Average of a layer whose weight has each of some values after a step."""
    layer = nn.Linear(2, 2, bias=False)
    average = WeightAverage(layer, settings, steps=len(values))
    for step, value in enumerate(values):
        nn.init.constant_(layer.weight, value)
        average.on_optimizer_step(TrainingArguments(), TrainerState(global_step=step), TrainerControl())
    return average, layer


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"average": "ema", "ema_decay": 0.5}, ((0 + 2) / 2 + 4) / 2),
        ({"average": "swa", "swa_start": 0.0}, 2.0),
        ({"average": "swa", "swa_start": 0.34}, 3.0),
    ],
)
def test_average_follows_its_formula(settings: dict[str, Any], expected: float) -> None:
    average, layer = averaged(StageSettings(**settings), [0.0, 2.0, 4.0])
    assert torch.allclose(average.averages["weight"], torch.tensor(expected))
    with average.applied():
        assert torch.allclose(layer.weight, torch.tensor(expected))
    assert torch.equal(layer.weight, torch.full((2, 2), 4.0)), "the last weights are restored"


def test_no_average_has_no_state_and_no_file(tmp_path: Path) -> None:
    average, layer = averaged(StageSettings(), [0.0, 2.0])
    average.save(tmp_path)
    assert not average.averages
    assert not list(tmp_path.iterdir())
    with average.applied():
        assert torch.equal(layer.weight, torch.full((2, 2), 2.0))


@pytest.mark.parametrize("settings", [{"average": "ema", "ema_decay": 0.5}, {"average": "swa", "swa_start": 0.0}])
def test_saved_expert_is_the_average_of_the_steps_that_training_without_it_takes(
    make_work: Make, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    steps: dict[str, list[dict[str, torch.Tensor]]] = {}
    finish = _StageTrainer._finish_step

    def record(self: _StageTrainer) -> None:
        weights = {name: tensor.detach().clone() for name, tensor in self.model.trained_state().items()}
        steps.setdefault(str(self.args.output_dir), []).append(weights)
        finish(self)

    monkeypatch.setattr(_StageTrainer, "_finish_step", record)
    plain, work = make_work("plain"), make_work("averaged", stages={"expert": settings})
    for each in (plain, work):
        train_domain(each, "news")
    before, after = steps.values()
    assert all(torch.equal(value, after[i][name]) for i, each in enumerate(before) for name, value in each.items())
    average = dict(before[0])
    for i, weights in enumerate(before[1:], 1):
        share = 0.5 if settings["average"] == "ema" else 1 / (i + 1)
        average = {name: torch.lerp(value, weights[name], share) for name, value in average.items()}
    saved = load_file(work.expert_folder("news") / "adapter_model.safetensors")
    prefix = "experts/news/"
    expected = {name.removeprefix(prefix): value for name, value in average.items() if name.startswith(prefix)}
    assert saved.keys() == expected.keys()
    assert all(torch.allclose(saved[name], value, atol=1e-7) for name, value in expected.items())
