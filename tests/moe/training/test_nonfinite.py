"""Tests of the non-finite guard: such a step changes no weight and is reported; too many in a row stop the stage."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Make
from corpora import make_question_workspace
from safetensors.torch import load_file
from torch import Tensor

from moe.errors import Fault
from moe.model.lm_head import LMHead
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain
from moe.training.language.pretrain import pretrain
from moe.training.loss.objective import Objective

Spoil = Callable[[Tensor, Tensor], Tensor]


def nan_loss(total: Tensor, state: Tensor) -> Tensor:
    return total * math.nan


def nan_gradient(total: Tensor, state: Tensor) -> Tensor:
    return total + (state.sum() * 0.0).sqrt()  # 0, with a slope of ∞ · 0


def spoil(monkeypatch: pytest.MonkeyPatch, how: Spoil, steps: set[int]) -> None:
    """Make the losses of these steps non-finite; steps are counted from 1 over all calls."""
    original, calls = Objective.compute, iter(range(1, 1000))

    def spoiled(self, micro_batches, language_loss=None):
        total = original(self, micro_batches, language_loss)
        output = micro_batches[0][0]
        # With several micro-batches the first pass has a graph at the outputs only.
        state = output.pooled if output.polarity is None or len(micro_batches) == 1 else output.polarity
        return how(total, state) if next(calls) in steps else total

    monkeypatch.setattr(Objective, "compute", spoiled)


def weights(work: Workspace) -> dict[str, Tensor]:
    return load_file(work.expert_folder("news") / "adapter_model.safetensors")


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("how", [nan_loss, nan_gradient])
def test_nonfinite_step_changes_no_weight_and_is_reported(
    how: Spoil, accumulate: int, make_work: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"steps": 4, "evals": 1, "schedule": "constant_with_warmup", "warmup": 0}
    stages = {"expert": few | {"accumulate": accumulate, "batch_size": 8 // accumulate}}
    short = make_work("short", stages={"expert": stages["expert"] | {"steps": 3}})
    train_domain(short, "news")
    work = make_work("spoiled", stages=stages)
    spoil(monkeypatch, how, {4})
    train_domain(work, "news")
    assert "news: skipped step 4" in capsys.readouterr().err
    before, after = weights(short), weights(work)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("how", [nan_loss, nan_gradient])
def test_nonfinite_steps_between_finite_ones_do_not_stop_the_stage(
    how: Spoil, make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(stages={"expert": {"steps": 8, "evals": 1, "nonfinite": 1}})
    spoil(monkeypatch, how, {1, 3, 5, 7})
    train_domain(work, "news")
    assert all(tensor.isfinite().all() for tensor in weights(work).values())


@pytest.mark.parametrize("how", [nan_loss, nan_gradient])
def test_too_many_nonfinite_steps_stop_the_stage_which_can_be_resumed(
    how: Spoil, make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(stages={"expert": {"steps": 12, "evals": 3, "nonfinite": 2}})
    with monkeypatch.context() as patch:
        spoil(patch, how, {6, 7, 8})
        with pytest.raises(Fault, match=r"at step 8 of news, 3 steps in a row.*--resume"):
            train_domain(work, "news")
    assert not work.expert_folder("news").exists()
    assert [path.name for path in work.checkpoints("news").iterdir()] == ["checkpoint-4"]
    train_domain(work, "news", resume=True)
    assert all(tensor.isfinite().all() for tensor in weights(work).values())


def test_nonfinite_polarity_loss_is_excluded_and_reported(
    make_work: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = make_work(stages={"expert": {"steps": 3, "evals": 1}}, losses={"inner": "constant"})
    original = Objective._sentiment_losses

    def spoiled(self, batch, update=True):
        losses, rows = original(self, batch, update)
        return losses | {"polarity": losses["polarity"] * math.inf}, rows

    monkeypatch.setattr(Objective, "_sentiment_losses", spoiled)
    train_domain(work, "news")
    output = capsys.readouterr().err
    assert all(f"skipped step {i}, because polarity inf" in output for i in (1, 2, 3))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_nonfinite_step_of_a_language_model_is_skipped_with_all_its_micro_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    few = {"steps": 4, "evals": 1, "schedule": "constant_with_warmup", "warmup": 0, "lr": 0.01}
    pretrained = few | {"accumulate": accumulate, "batch_size": 8 // accumulate}
    works = [
        make_question_workspace(tmp_path / name, stages={"pretrain": pretrained | {"steps": n}})
        for name, n in (("a", 3), ("b", 4))
    ]
    pretrain(works[0], "news")
    original, calls = LMHead.token_losses, iter(range(1, 1000))

    def spoiled(self, states, labels):
        losses = original(self, states, labels)
        is_last = torch.is_grad_enabled() and next(calls) == 4 * accumulate  # last micro-batch of the last step
        return losses * math.nan if is_last else losses

    monkeypatch.setattr(LMHead, "token_losses", spoiled)
    pretrain(works[1], "news")
    for name, tensor in weights(works[0]).items():
        torch.testing.assert_close(weights(works[1])[name], tensor, rtol=0, atol=0)
