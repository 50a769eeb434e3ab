"""Tests of a stage's optimizer: which parameters have which learning rate."""

from conftest import Make
from mixtures import random_mixture

from moe.config.stages import JOINT, StageSettings
from moe.model.backbone import load_backbone
from moe.training.job import build_optimizer
from moe.training.trainer import set_trainable


def test_loraplus_gives_b_a_multiple_of_the_rate_of_a_and_leaves_router_and_heads_alone(make_work: Make) -> None:
    work = make_work()
    model = random_mixture(load_backbone(work.run.backbone), work)
    set_trainable(model, JOINT, None)
    rates = {"lr": 1e-3, "router_lr": 2e-3, "head_lr": 3e-3}
    plain = build_optimizer(model, StageSettings(**rates))
    faster = build_optimizer(model, StageSettings(**rates, loraplus_lr_ratio=16))
    assert [(group["name"], group["lr"]) for group in plain.param_groups] == [
        ("experts", 1e-3),
        ("router", 2e-3),
        ("heads", 3e-3),
    ]
    groups = {group["name"]: group for group in faster.param_groups}
    assert {name: group["lr"] for name, group in groups.items()} == {
        "experts": 1e-3,
        "experts_b": 16e-3,
        "router": 2e-3,
        "heads": 3e-3,
    }
    side_b = {id(p) for key, p in model.expert_parameters().items() if ".lora_B." in key}
    assert {id(p) for p in groups["experts_b"]["params"]} == side_b
    assert not side_b & {id(p) for p in groups["experts"]["params"]}
    assert sum(len(group["params"]) for group in faster.param_groups) == sum(
        len(group["params"]) for group in plain.param_groups
    )
