"""Claims about a language model's router: trained as the classifier's is, on documents of every role."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import make

from experts.atomic_io import read_json
from experts.errors import Fault
from experts.lora import find_layer_stack
from moe.checkpoints.mixture import read_mixture
from moe.inference.loading import load_model
from moe.runs.workspace import Workspace
from moe.training.pretrain import pretrain
from moe.training.steps import merge_experts, train_domain, train_router

FEW: dict[str, Any] = {"batch_size": 8, "evals": 1, "router_lr": 0.01, "lr": 0.003}
STAGES = {"warmup": FEW | {"steps": 40}, "joint": FEW | {"steps": 6}}
GATES = [("soft", "text"), ("team", "token")]


@pytest.fixture(scope="module", params=GATES, ids=["soft texts", "team tokens"])
def team(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Three experts, two of one role, merged and routed."""
    kind, unit = request.param
    work = make(tmp_path_factory.mktemp(unit), stages=STAGES, gate={"kind": kind, "unit": unit})
    pretrain(work)
    merge_experts(work)
    train_router(work)
    return work


def metrics(work: Workspace, stage: str) -> dict[str, float]:
    return read_json(work.out / stage / "metrics.json")["best"]


def test_the_router_names_the_role_of_a_text_and_the_team_foresees_all_roles(team: Workspace) -> None:
    warm = metrics(team, "router-warmup")
    assert warm["routing"] > 0.9
    experts = [read_json(team.expert_folder(name) / "metrics.json")["best"] for name in ("news", "forum", "macro")]
    for one in experts:
        mean = sum(one[f"perplexity_{name}"] for name in ("news", "forum", "macro")) / 3
        assert warm["perplexity"] < mean, "no lone expert is as good on all roles together"


def test_the_warm_start_changes_the_router_alone_and_the_joint_stage_the_experts_too(team: Workspace) -> None:
    states = [read_mixture(team.out / name)[0].trained_state() for name in ("moe-init", "router-warmup", "moe-joint")]
    changed = [{key.split("/")[0] for key in a if not torch.equal(a[key], b[key])} for a, b in pairwise(states)]
    assert changed[0] == {"router"}
    assert changed[1] == {"router", "experts"}


def test_every_step_of_every_stage_is_in_the_logs_with_its_losses(team: Workspace) -> None:
    lines = [json.loads(line) for line in (team.logs("moe-joint") / "log.jsonl").read_text().splitlines()]
    step = next(line for line in lines if "language" in line)
    assert {"language", "domain", "balance", "weight/domain", "share_0", "outer/lambda_language"} <= step.keys()
    assert "sentiment" not in step


def test_a_router_whose_gates_let_no_gradient_through_learns_from_the_trunk_alone(team: Workspace) -> None:
    model, _ = read_mixture(team.out / "moe-init")
    after = find_layer_stack(model.backbone)[1][-1]
    calls: list[int] = []
    after.register_forward_hook(lambda *_: calls.append(1))
    ids = torch.randint(4, 20, (2, 6))
    for detached in (True, False):
        model.train()
        model.detach_gates = detached
        calls.clear()
        out = model(ids, torch.ones_like(ids))
        assert bool(calls) is not detached
        assert out.routing is not None
        assert out.routing.probs.requires_grad
        assert out.routing.gates.requires_grad is not detached


def test_the_verdict_compares_perplexities_and_keeps_the_lowest(team: Workspace) -> None:
    result = read_json(team.out / "result.json")
    assert "best by validation perplexity" in result["verdict"]
    lowest = min(result["validation"], key=lambda name: result["validation"][name]["perplexity"])
    assert result["best"] == lowest
    assert read_mixture(team.out / lowest)[1].language


def test_an_expert_for_labels_does_not_join_a_language_models_team(tmp_path: Path) -> None:
    work = make(tmp_path, stages={"pretrain": {"steps": 2, "evals": 1}})
    (folder,) = pretrain(work, "news")
    labels = {name: {"labels": ["down", "up"], "file": f"{name}.txt"} for name in ("news", "forum", "macro")}
    plain = make(tmp_path, domains=labels, language=None)
    with pytest.raises(Fault, match=r"language False, as the config says"):
        merge_experts(plain, [folder])


def test_commands_for_labels_refuse_a_language_model_in_a_sentence(team: Workspace) -> None:
    for folder in (team.out / "moe-joint", team.expert_folder("news")):
        with pytest.raises(Fault, match=r"a model that gives labels.*a language model's"):
            load_model(folder)
    with pytest.raises(Fault, match=r"labelled rows.*moe pretrain"):
        train_domain(team, "news", overwrite=True)
