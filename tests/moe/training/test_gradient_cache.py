"""Claims about a step's gradient: micro-batches weigh, measure and teach what their whole batch would."""

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
from moe.model.mixture import Mixture, MixtureOutput
from moe.runs.workspace import Workspace
from moe.training.gradient_cache import BackwardPass
from moe.training.instruct import instruct
from moe.training.objective import Objective, LossContext
from moe.training.pretrain import pretrain
from moe.training.steps import merge_experts, train_domain, train_router
from moe.training.trainer import set_trainable
from router.dao import DAOSettings


def trained(work: Workspace) -> Workspace:
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
def test_micro_batches_train_what_whole_batches_do(make_work: Make, setting: dict[str, Any]) -> None:
    whole = trained(make_work("whole", **merged_settings(NO_DROPOUT | batch_settings(8, 1), setting)))
    parts = trained(make_work("parts", **merged_settings(NO_DROPOUT | batch_settings(2, 4), setting)))
    assert_same_training(whole, parts, ("forum", "router-warmup", "moe-joint"))


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["text", "token"])
def test_micro_batches_of_a_language_model_train_what_whole_batches_do(tmp_path: Path, unit: str) -> None:
    works = []
    few = {"stages": {"pretrain": {"steps": 6}, "instruct": {"steps": 6, "lr": 0.003}}}
    for name, over in (("whole", batch_settings(8, 1)), ("parts", batch_settings(2, 4))):
        gate = {"gate": {"dropout": 0.0, "unit": unit}}
        work = make_question_workspace(tmp_path / name, **merged_settings(merged_settings(NO_DROPOUT | gate, few), over))
        pretrain(work)
        merge_experts(work)
        train_router(work)
        instruct(work)
        works.append(work)
    assert_same_training(*works, ("news", "router-warmup", "moe-joint", "moe-instruct"))


def ready(work: Workspace) -> tuple[Mixture, list[Batch]]:
    model = random_mixture(load_backbone(work.run.backbone), work)
    set_trainable(model, JOINT, None)
    collate = Collator(model.loaded_backbone.tokenizer, "{text}", 16, model.labels, [d.name for d in model.domains])
    rows = work.rows("train")
    return model, [collate([rows[i], rows[len(rows) - 1 - i]]) for i in range(4)]


def backward(model: Mixture, outputs: list[MixtureOutput]) -> BackwardPass:
    objective = Objective(JOINT, LossSettings(), DAOSettings(), model.labels, model.domain_expert_mask, 0, context=LossContext.of(model))

    def forward(batch: Batch) -> MixtureOutput:
        outputs.append(model(**model_inputs(batch)))
        return outputs[-1]

    return BackwardPass(model, forward, objective, lambda *_: None)


def test_rows_seen_twice_meet_the_same_dropout_twice(make_work: Make) -> None:
    model, batches = ready(make_work(heads={"dropout": 0.5}, gate={"dropout": 0.5}))
    outputs: list[MixtureOutput] = []
    model.train()
    backward(model, outputs)(batches)
    assert len(outputs) == 8
    for first, second in zip(outputs[:4], outputs[4:], strict=True):
        assert first.routing is not None
        assert second.routing is not None
        torch.testing.assert_close(first.routing.probs, second.routing.probs, rtol=0, atol=0)
        for head, logits in first.logits.items():
            torch.testing.assert_close(logits, second.logits[head])


def test_the_first_look_keeps_no_graph_of_the_backbone(make_work: Make) -> None:
    model, batches = ready(make_work())
    model.train()
    with model.no_backbone_grad():
        out = model(**model_inputs(batches[0]))
    assert out.pooled.grad_fn is None
    assert out.routing is not None
    assert out.routing.probs.requires_grad
    assert all(one.requires_grad for one in out.logits.values())
    assert model(**model_inputs(batches[0])).pooled.grad_fn is not None


def test_an_expert_idle_in_one_part_alone_keeps_its_gradient(make_work: Make) -> None:
    model, batches = ready(make_work())
    own: list[Tensor] = [torch.tensor([[True, False]]), torch.tensor([[False, True]])]
    outputs: list[MixtureOutput] = []
    one = backward(model, outputs)
    model.train()
    asked = iter([*own, *own])
    object.__setattr__(one, "forward", lambda batch: model(**model_inputs(batch), allowed=next(asked).expand(2, -1)))
    one(batches[:2])
    for name in model.bank.routed_experts:
        assert all(p.grad is not None for p in model.bank.adapter_parameters(name).values())
    model.zero_grad()
    asked = iter([own[0]] * 4)
    one(batches[:2])
    idle = {name: all(p.grad is None for p in model.bank.adapter_parameters(name).values()) for name in model.bank.routed_experts}
    assert idle == {"news": False, "forum": True}
