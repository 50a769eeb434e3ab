"""Tests of the training loop: interruption and resumption, early stopping, and missing rows."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Make, merged_settings
from safetensors.torch import load_file
from signals import LONG_STAGE, interrupt_at

from experts.atomic_io import read_json
from experts.expert_io import read_expert
from moe import distributed
from moe.checkpoints.expert import load_single_expert
from moe.config.stages import EXPERT
from moe.errors import Fault, Interrupted
from moe.evaluation.evaluate import validate
from moe.model.mixture import Mixture
from moe.training.expert_steps import train_domain
from moe.training.job import TrainJob
from moe.training.trainer import fit

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "micro-batches": {"stages": {"recompute": True, "expert": {"accumulate": 2}}},
    "look-ahead": {"dao": {"objective": "validation"}},
}
"""Settings of stages, by name."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_resume_after_ctrl_c_gives_the_weights_of_an_undisturbed_run(
    make_work: Make, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    settings = merged_settings(LONG_STAGE, VARIANTS[variant])
    undisturbed = make_work("whole", **settings)
    train_domain(undisturbed, "news")
    work = make_work("stopped", **settings)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(Interrupted):
            train_domain(work, "news")
    assert [p.name for p in work.checkpoints("news").glob("checkpoint-*") if p.name.endswith("-6")]
    assert not work.expert_folder("news").exists()
    train_domain(work, "news", resume=True)
    expected, resumed = (
        load_file(run.expert_folder("news") / "adapter_model.safetensors") for run in (undisturbed, work)
    )
    for key, tensor in expected.items():
        assert torch.equal(resumed[key], tensor)
    assert not work.checkpoints("news").exists()


@torch.no_grad()
def predicted(model: Mixture) -> torch.Tensor:
    """Class logits (B, K) of some token ids."""
    ids = torch.arange(5, 21).view(4, 4)  # (B, T)
    (logits,) = model.eval()(ids, torch.ones_like(ids)).logits.values()
    return logits


@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_expert_is_the_evaluated_model_in_the_files_of_any_other(
    make_work: Make, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    evaluated: list[torch.Tensor] = []

    def record(model: Mixture, *arguments: Any) -> dict[str, float]:
        evaluated.append(predicted(model))
        return validate(model, *arguments)

    monkeypatch.setattr("moe.training.expert_steps.validate", record)
    work = make_work("run", **merged_settings(LONG_STAGE, VARIANTS[variant]))
    train_domain(work, "news")
    folder = work.expert_folder("news")
    model, _ = load_single_expert(folder)
    best = int(read_json(folder / "metrics.json")["best"]["step"]) // 4 - 1
    torch.testing.assert_close(predicted(model), evaluated[best])
    assert not any(torch.allclose(predicted(model), evaluated[other]) for other in {0, 1, 2} - {best})
    shapes = {key: tensor.shape for key, tensor in read_expert(folder).weights.items()}
    assert shapes == {key: parameter.shape for key, parameter in model.bank.adapter_parameters("news").items()}


def test_early_stopping_restores_the_weights_of_the_best_evaluation(
    make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.9, 0.4, 0.3, 0.2, 0.1])
    monkeypatch.setattr("moe.training.expert_steps.validate", lambda *_: {"macro_f1": next(scores)})
    work = make_work(stages={"expert": {"steps": 12, "evals": 6, "patience": 2}})
    train_domain(work, "news")
    card = read_expert(work.expert_folder("news")).card
    assert card is not None
    assert card.metrics["macro_f1"] == 0.9
    assert card.steps == 8, "stopped two evaluations after the best"


def test_fit_refuses_a_stage_without_training_rows(make_work: Make, tmp_path: Path) -> None:
    work = make_work(domains={"news": {"split": {"own": False, "ratios": [1, 0, 0]}}})
    object.__setattr__(work, "_prepared", {})
    rows = work.rows("train", ["news"])
    assert len(rows) == 90
    empty = rows.select([])
    with pytest.raises(Fault, match="training rows"):
        fit(None, TrainJob(EXPERT, None, None, empty, None, None, tmp_path, tmp_path, 0, "news"))


def test_step_measures_the_norm_of_its_gradients_once(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[torch.Tensor] = []
    measure = distributed.gradient_norm

    def counted(parameters: Iterable[torch.nn.Parameter]) -> torch.Tensor:
        norms.append(measure(parameters))
        return norms[-1]

    monkeypatch.setattr(distributed, "gradient_norm", counted)
    train_domain(make_work(), "news")
    assert len(norms) == 6, "one for each step"
