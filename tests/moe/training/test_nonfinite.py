"""Claims about numbers that are not finite: such a step changes nothing and is told; too many stop the stage."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Make
from corpora import asking
from safetensors.torch import load_file
from torch import Tensor

from moe.errors import Fault
from moe.model.lm_head import LMHead
from moe.runs.workspace import Workspace
from moe.training.objective import Objective
from moe.training.pretrain import pretrain
from moe.training.steps import train_domain

Spoil = Callable[[Tensor, Tensor], Tensor]


def nan_loss(total: Tensor, state: Tensor) -> Tensor:
    return total * math.nan


def nan_gradient(total: Tensor, state: Tensor) -> Tensor:
    return total + (state.sum() * 0.0).sqrt()  # 0, with a slope of ∞ · 0


def spoil(monkeypatch: pytest.MonkeyPatch, how: Spoil, steps: set[int]) -> None:
    """Spoil the losses of these steps, counted from 1 over all calls."""
    plain, calls = Objective.over, iter(range(1, 1000))

    def spoiled(self, parts, language=None):
        total = plain(self, parts, language)
        out = parts[0][0]
        state = (
            out.pooled if out.polarity is None or len(parts) == 1 else out.polarity
        )  # micro-batches go on from there
        return how(total, state) if next(calls) in steps else total

    monkeypatch.setattr(Objective, "over", spoiled)


def weights(work: Workspace) -> dict[str, Tensor]:
    return load_file(work.expert_folder("news") / "adapter_model.safetensors")


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("how", [nan_loss, nan_gradient])
def test_a_step_without_finite_numbers_changes_no_weight_and_is_told(
    how: Spoil, accumulate: int, make_work: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"steps": 4, "evals": 1, "schedule": "constant_with_warmup", "warmup": 0}
    stages = {"expert": few | {"accumulate": accumulate, "batch_size": 8 // accumulate}}
    short = make_work("short", stages={"expert": stages["expert"] | {"steps": 3}})
    train_domain(short, "news")
    work = make_work("spoiled", stages=stages)
    spoil(monkeypatch, how, {4})
    train_domain(work, "news")
    assert "news: step 4 passed over" in capsys.readouterr().err
    before, after = weights(short), weights(work)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("how", [nan_loss, nan_gradient])
def test_good_steps_between_bad_ones_keep_the_stage_going(
    how: Spoil, make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(stages={"expert": {"steps": 8, "evals": 1, "nonfinite": 1}})
    spoil(monkeypatch, how, {1, 3, 5, 7})
    train_domain(work, "news")
    assert all(tensor.isfinite().all() for tensor in weights(work).values())


@pytest.mark.parametrize("how", [nan_loss, nan_gradient])
def test_too_many_in_a_row_stop_it_and_resume_goes_on_from_the_last_checkpoint(
    how: Spoil, make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(stages={"expert": {"steps": 12, "evals": 3, "nonfinite": 2}})
    with monkeypatch.context() as patch:
        spoil(patch, how, {6, 7, 8})
        with pytest.raises(Fault, match=r"at step 8 of news, 3 in a row.*--resume"):
            train_domain(work, "news")
    assert not work.expert_folder("news").exists()
    assert [path.name for path in work.checkpoints("news").iterdir()] == ["checkpoint-4"]
    train_domain(work, "news", resume=True)
    assert all(tensor.isfinite().all() for tensor in weights(work).values())


def test_a_score_loss_that_is_not_finite_is_left_out_and_counted(
    make_work: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = make_work(stages={"expert": {"steps": 3, "evals": 1}}, losses={"inner": "constant"})
    plain = Objective._sentiment_losses

    def spoiled(self, whole, learn=True):
        losses, rows = plain(self, whole, learn)
        return losses | {"polarity": losses["polarity"] * math.inf}, rows

    monkeypatch.setattr(Objective, "_sentiment_losses", spoiled)
    train_domain(work, "news")
    told = capsys.readouterr().err
    assert [f"step {i} passed over, polarity inf" in told for i in (1, 2, 3)] == [True] * 3


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_language_model_s_step_is_passed_over_whole_with_micro_batches_gone_back_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    few = {"steps": 4, "evals": 1, "schedule": "constant_with_warmup", "warmup": 0, "lr": 0.01}
    pretrained = few | {"accumulate": accumulate, "batch_size": 8 // accumulate}
    works = [
        asking(tmp_path / name, stages={"pretrain": pretrained | {"steps": n}}) for name, n in (("a", 3), ("b", 4))
    ]
    pretrain(works[0], "news")
    plain, calls = LMHead.losses, iter(range(1, 1000))

    def spoiled(self, states, labels):
        found = plain(self, states, labels)
        bad = torch.is_grad_enabled() and next(calls) == 4 * accumulate  # the last part of the last step
        return found * math.nan if bad else found

    monkeypatch.setattr(LMHead, "losses", spoiled)
    pretrain(works[1], "news")
    for name, tensor in weights(works[0]).items():
        torch.testing.assert_close(weights(works[1])[name], tensor, rtol=0, atol=0)
