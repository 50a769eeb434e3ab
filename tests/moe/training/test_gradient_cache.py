"""Tests of the backward pass: micro-batches give the loss weights and gradients of a single batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Make, merged_settings
from corpora import make_question_workspace
from distributed import NO_DROPOUT, assert_same_training, batch_settings
from mixtures import random_mixture
from torch import Tensor

from moe.config.stages import JOINT, LossSettings
from moe.data.collator import Batch, Collator, model_inputs
from moe.model.backbone import load_backbone
from moe.model.mixture import Mixture
from moe.model.mode import RoutingMode
from moe.model.outputs import MixtureOutput
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain
from moe.training.gradient_cache import BackwardPass
from moe.training.language.instruct import instruct
from moe.training.language.pretrain import pretrain
from moe.training.loss.global_batch import LossContext
from moe.training.loss.objective import Objective
from moe.training.steps import merge_experts, train_router
from moe.training.trainer import set_trainable
from router.registry import DAOSettings


def train_all_steps(work: Workspace) -> Workspace:
    for domain in ("news", "forum"):
        train_domain(work, domain)
    merge_experts(work)
    train_router(work)
    return work


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param({}, id="dao"),
        pytest.param(
            {"losses": {"classes": "effective", "inner": "pcgrad", "outer": "constant", "balance": "usage"}},
            id="pcgrad",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {
                "losses": {"inner": "gradnorm", "outer": "gradnorm", "balance": "text"},
                "stages": {"warmup": {"lr": 0.01}},
            },
            id="gradnorm",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"dao": {"imbalance": "learn"}, "domains": {"news": {"experts": 2}}, "heads": {"merge": "per_expert"}},
            id="learned, two of a domain, own heads",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_micro_batches_train_like_a_single_batch(make_work: Make, setting: dict[str, Any]) -> None:
    single = train_all_steps(make_work("whole", **merged_settings(NO_DROPOUT | batch_settings(8, 1), setting)))
    parts = train_all_steps(make_work("parts", **merged_settings(NO_DROPOUT | batch_settings(2, 4), setting)))
    assert_same_training(single, parts, ("forum", "router-warmup", "moe-joint"))


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["text", "token"])
def test_micro_batches_of_a_language_model_train_like_a_single_batch(tmp_path: Path, unit: str) -> None:
    works = []
    few = {"stages": {"pretrain": {"steps": 6}, "instruct": {"steps": 6, "lr": 0.003}}}
    for name, over in (("whole", batch_settings(8, 1)), ("parts", batch_settings(2, 4))):
        gate = {"gate": {"dropout": 0.0, "unit": unit}}
        work = make_question_workspace(
            tmp_path / name, **merged_settings(merged_settings(NO_DROPOUT | gate, few), over)
        )
        pretrain(work)
        merge_experts(work)
        train_router(work)
        instruct(work)
        works.append(work)
    assert_same_training(*works, ("news", "router-warmup", "moe-joint", "moe-instruct"))


def make_model_and_batches(work: Workspace) -> tuple[Mixture, list[Batch]]:
    model = random_mixture(load_backbone(work.run.backbone), work)
    set_trainable(model, JOINT, None)
    collate = Collator(model.loaded_backbone.tokenizer, "{text}", 16, model.labels, [d.name for d in model.domains])
    rows = work.rows("train")
    return model, [collate([rows[i], rows[len(rows) - 1 - i]]) for i in range(4)]


def make_backward_pass(model: Mixture, outputs: list[MixtureOutput]) -> BackwardPass:
    context, mask = LossContext.of(model), model.domain_expert_mask
    objective = Objective(JOINT, LossSettings(), DAOSettings(), model.labels, mask, seed=0, context=context)

    def forward(batch: Batch, backbone_grad: bool) -> MixtureOutput:
        outputs.append(model(**model_inputs(batch), mode=RoutingMode(backbone_grad=backbone_grad)))
        return outputs[-1]

    return BackwardPass(model, forward, objective, lambda *_: None)


def test_both_passes_of_gradient_caching_use_the_same_dropout(make_work: Make) -> None:
    model, batches = make_model_and_batches(make_work(heads={"dropout": 0.5}, gate={"dropout": 0.5}))
    outputs: list[MixtureOutput] = []
    model.train()
    make_backward_pass(model, outputs)(batches)
    assert len(outputs) == 8
    for first, second in zip(outputs[:4], outputs[4:], strict=True):
        assert first.routing is not None
        assert second.routing is not None
        torch.testing.assert_close(first.routing.probs, second.routing.probs, rtol=0, atol=0)
        for head, logits in first.logits.items():
            torch.testing.assert_close(logits, second.logits[head])


def test_first_pass_of_gradient_caching_has_no_graph_of_the_backbone(make_work: Make) -> None:
    model, batches = make_model_and_batches(make_work())
    model.train()
    out = model(**model_inputs(batches[0]), mode=RoutingMode(backbone_grad=False))
    assert out.pooled.grad_fn is None
    assert out.routing is not None
    assert out.routing.probs.requires_grad
    assert all(logits.requires_grad for logits in out.logits.values())
    assert model(**model_inputs(batches[0])).pooled.grad_fn is not None


def test_expert_unused_in_a_single_micro_batch_keeps_its_gradient(make_work: Make) -> None:
    model, batches = make_model_and_batches(make_work())
    masks: list[Tensor] = [torch.tensor([[True, False]]), torch.tensor([[False, True]])]
    backward = make_backward_pass(model, [])
    model.train()
    remaining = iter([*masks, *masks])  # both micro-batches run twice

    def forward(batch: Batch, backbone_grad: bool) -> MixtureOutput:
        mode = RoutingMode(backbone_grad=backbone_grad)
        return model(**model_inputs(batch), allowed=next(remaining).expand(2, -1), mode=mode)

    object.__setattr__(backward, "forward", forward)
    backward(batches[:2])
    for name in model.bank.routed_experts:
        assert all(p.grad is not None for p in model.bank.adapter_parameters(name).values())
    model.zero_grad()
    remaining = iter([masks[0]] * 4)
    backward(batches[:2])
    names = model.bank.routed_experts
    unused = {name: all(p.grad is None for p in model.bank.adapter_parameters(name).values()) for name in names}
    assert unused == {"news": False, "forum": True}
