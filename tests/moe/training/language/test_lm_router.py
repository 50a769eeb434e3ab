"""Tests of a language model's router, which is trained like a classifier's, on documents of all roles."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import make_lm_workspace

from experts.atomic_io import read_json
from experts.errors import Fault
from experts.lora import find_layer_stack
from moe.checkpoints.mixture import read_mixture
from moe.inference.load_mixture import load_mixture
from moe.model.mode import RoutingMode
from moe.runs.model_ref import resolve
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain
from moe.training.language.pretrain import pretrain
from moe.training.steps import merge_experts, train_router

FEW: dict[str, Any] = {"batch_size": 8, "evals": 1, "router_lr": 0.01, "lr": 0.003}
STAGES = {"warmup": FEW | {"steps": 40}, "joint": FEW | {"steps": 6}}
GATES = [("soft", "text"), ("team", "token")]


@pytest.fixture(scope="module", params=GATES, ids=["soft texts", "team tokens"])
def team(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Trained mixture of three experts, two of them in one role."""
    kind, unit = request.param
    work = make_lm_workspace(tmp_path_factory.mktemp(unit), stages=STAGES, gate={"kind": kind, "unit": unit})
    pretrain(work)
    merge_experts(work)
    train_router(work)
    return work


def metrics(work: Workspace, stage: str) -> dict[str, float]:
    return read_json(work.out / stage / "metrics.json")["best"]


def test_router_finds_the_role_of_a_text_and_beats_each_expert_on_all_roles(team: Workspace) -> None:
    warm = metrics(team, "router-warmup")
    assert warm["routing"] > 0.9
    for expert in ("news", "forum", "macro"):
        best = read_json(team.expert_folder(expert) / "metrics.json")["best"]
        mean = sum(best[f"perplexity_{name}"] for name in ("news", "forum", "macro")) / 3
        assert warm["perplexity"] < mean, "no single expert is as good on all roles together"


def test_warm_up_trains_only_the_router_and_the_joint_stage_the_experts_too(team: Workspace) -> None:
    states = [read_mixture(team.out / name)[0].trained_state() for name in ("moe-init", "router-warmup", "moe-joint")]
    changed = [{key.split("/")[0] for key in a if not torch.equal(a[key], b[key])} for a, b in pairwise(states)]
    assert changed[0] == {"router"}
    assert changed[1] == {"router", "experts"}


def test_log_has_the_losses_and_weights_of_every_step(team: Workspace) -> None:
    lines = [json.loads(line) for line in (team.logs("moe-joint") / "log.jsonl").read_text().splitlines()]
    step = next(line for line in lines if "language" in line)
    assert {"language", "domain", "balance", "weight/domain", "share_0", "outer/lambda_language"} <= step.keys()
    assert "sentiment" not in step


def test_router_with_detached_gates_is_trained_from_the_trunk_alone(team: Workspace) -> None:
    model, _ = read_mixture(team.out / "moe-init")
    last_layer = find_layer_stack(model.backbone)[1][-1]
    calls: list[int] = []
    last_layer.register_forward_hook(lambda *_: calls.append(1))
    ids = torch.randint(4, 20, (2, 6))
    for detached in (True, False):
        model.train()
        calls.clear()
        out = model(ids, torch.ones_like(ids), mode=RoutingMode(detach_gates=detached))
        assert bool(calls) is not detached
        assert out.routing is not None
        assert out.routing.probs.requires_grad
        assert out.routing.gates.requires_grad is not detached


def test_best_mixture_has_the_lowest_perplexity(team: Workspace) -> None:
    result = read_json(team.out / "result.json")
    assert "best by validation perplexity" in result["verdict"]
    lowest = min(result["validation"], key=lambda name: result["validation"][name]["perplexity"])
    assert result["best"] == lowest
    assert read_mixture(team.out / lowest)[1].language


def test_merge_refuses_experts_of_a_language_model_in_a_classifier(tmp_path: Path) -> None:
    work = make_lm_workspace(tmp_path, stages={"pretrain": {"steps": 2, "evals": 1}})
    (folder,) = pretrain(work, "news")
    labels = {name: {"labels": ["down", "up"], "file": f"{name}.txt"} for name in ("news", "forum", "macro")}
    plain = make_lm_workspace(tmp_path, domains=labels, language=None)
    with pytest.raises(Fault, match=r"language False, as in the config"):
        merge_experts(plain, [folder])


def test_classification_refuses_a_language_model(team: Workspace) -> None:
    for folder in (team.out / "moe-joint", team.expert_folder("news")):
        with pytest.raises(Fault, match=r"a classification model.*a language model at"):
            load_mixture(resolve(folder))
    with pytest.raises(Fault, match=r"labelled rows.*moe pretrain"):
        train_domain(team, "news", overwrite=True)
