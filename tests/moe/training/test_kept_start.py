"""Tests of stages that start trained: they keep their start if no evaluation is better."""

import json
from collections.abc import Iterator

import pytest
import torch
from conftest import Make
from safetensors.torch import load_file

from experts.expert_io import read_expert
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.steps import merge_experts, train_router

WORSE = {"macro_f1": 0.1, "accuracy": 0.1}
BETTER = {"macro_f1": 0.9, "accuracy": 0.9}


def evaluations(monkeypatch: pytest.MonkeyPatch, *metrics: dict[str, float]) -> None:
    """Let the evaluations of the following stages return these metrics, over and over."""

    def cycle() -> Iterator[dict[str, float]]:
        while True:
            yield from metrics

    answers = cycle()
    monkeypatch.setattr("moe.training.expert_steps.validate", lambda *_, **__: next(answers))


@pytest.fixture
def work(make_work: Make) -> Workspace:
    """A run whose shared expert is trained."""
    work = make_work(shared={"r": 4, "alpha": 8})
    train_shared(work)
    return work


def test_expert_keeps_its_start_if_every_evaluation_is_worse(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluations(monkeypatch, BETTER, WORSE)  # the start, then the only evaluation
    expert = read_expert(train_domain(work, "news")[0])
    assert expert.card is not None
    assert expert.card.kept_start
    assert expert.card.metrics["macro_f1"] == BETTER["macro_f1"]
    assert not any(tensor.any() for key, tensor in expert.weights.items() if ".lora_B" in key)
    assert work.shared_folder is not None
    shared = read_expert(work.shared_folder)
    assert all(torch.equal(tensor, shared.heads[key]) for key, tensor in expert.heads.items())


def test_expert_keeps_what_it_learned_if_an_evaluation_is_better(
    work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluations(monkeypatch, WORSE, BETTER)
    expert = read_expert(train_domain(work, "news")[0])
    assert expert.card is not None
    assert not expert.card.kept_start
    assert any(tensor.any() for key, tensor in expert.weights.items() if ".lora_B" in key)


def test_evaluation_of_the_start_is_the_first_of_the_history_and_of_the_log(
    work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluations(monkeypatch, WORSE, BETTER)
    folder = train_domain(work, "news")[0]
    history = json.loads((folder / "metrics.json").read_text())["history"]
    assert [entry["step"] for entry in history] == [0, 6]
    first = json.loads((work.logs("news") / "log.jsonl").read_text().splitlines()[0])
    assert first == {"step": 0, "epoch": 0.0, "eval_macro_f1": 0.1, "eval_accuracy": 0.1}


def test_experts_that_kept_their_start_can_be_merged(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluations(monkeypatch, BETTER, WORSE)
    for domain in work.run.domains:
        train_domain(work, domain)
    assert (merge_experts(work) / "mixture.json").is_file()


def test_joint_stage_keeps_the_warm_start_if_every_evaluation_is_worse(
    work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for domain in work.run.domains:
        train_domain(work, domain)
    merge_experts(work)
    evaluations(monkeypatch, BETTER, BETTER, WORSE)  # of the warm start, then of the joint stage's start and end
    verdict = train_router(work)
    for name in ("router.safetensors", "heads.safetensors"):
        warm, joint = (load_file(work.out / folder / name) for folder in ("router-warmup", "moe-joint"))
        assert warm.keys() == joint.keys()
        assert all(torch.equal(tensor, joint[key]) for key, tensor in warm.items())
    assert "the joint phase brought nothing" in verdict
    assert json.loads((work.out / "result.json").read_text())["best"] == "router-warmup"
