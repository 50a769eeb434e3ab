"""Tests of a stage's optimizer: which parameters have which learning rate."""

from conftest import Make
from mixtures import random_mixture

from moe.config.stages import JOINT, StageSettings
from moe.model.backbone import load_backbone
from moe.training.job import build_optimizer
from moe.training.trainer import set_trainable


def test_experts_router_and_heads_have_their_own_rates(make_work: Make) -> None:
    work = make_work()
    model = random_mixture(load_backbone(work.run.backbone), work)
    set_trainable(model, JOINT, None)
    groups = build_optimizer(model, StageSettings(lr=1e-3, router_lr=2e-3, head_lr=3e-3)).param_groups
    assert [(group["name"], group["lr"]) for group in groups] == [("experts", 1e-3), ("router", 2e-3), ("heads", 3e-3)]
    parts = (model.expert_parameters().values(), model.gate.parameters(), model.heads.parameters())
    expected = [{id(p) for p in part if p.requires_grad} for part in parts]
    assert [{id(p) for p in group["params"]} for group in groups] == expected
