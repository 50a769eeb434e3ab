"""Tests of reproducibility: the bytes of every stage do not depend on what an earlier command has left on disk."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import Make
from mixtures import random_mixture
from process_kill import finished_files
from signals import interrupt_at

from moe.errors import Interrupted
from moe.model.backbone import load_backbone
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.pooled import train_pooled
from moe.training.steps import merge_experts, train_router

DROPOUT = {
    "backbone": {"dropout": 0.1},
    "lora": {"dropout": 0.2},
    "heads": {"merge": "averaged", "dropout": 0.1},
    "gate": {"dropout": 0.3, "queries": 0},
    "shared": {"r": 4, "alpha": 8},
    "stages": {"cache_trunk": True, "shared": {"evals": 2}, "expert": {"evals": 2}, "warmup": {"accumulate": 2}},
}
"""Settings of a run that draws random numbers wherever it can, with all stages and the trunk cache."""

STEPS = (
    lambda work, resume=False: train_shared(work, resume=resume),
    lambda work, resume=False: train_domain(work, "news", resume=resume),
    lambda work, resume=False: train_domain(work, "forum", resume=resume),
    lambda work, resume=False: merge_experts(work, resume=resume),
    lambda work, resume=False: train_router(work, resume=resume),
    lambda work, resume=False: train_pooled(work, resume=resume),
)


def trained_files(folder: Path) -> dict[str, bytes]:
    """Bytes of the weights and JSON files of every step, by path; of what may be erased, nothing."""
    erasable = ("cache/", "levels.json")
    return {name: content for name, content in finished_files(folder).items() if not name.startswith(erasable)}


def differences(folder: Path, expected: dict[str, bytes]) -> list[str]:
    files = trained_files(folder)
    assert files.keys() == expected.keys()
    return [name for name, content in files.items() if content != expected[name]]


@pytest.mark.parametrize(
    "erased",
    [
        pytest.param((), marks=pytest.mark.slow),
        ("cache",),
        pytest.param(("data",), marks=pytest.mark.slow),
        pytest.param(("cache", "data", "levels.json"), marks=pytest.mark.slow),
    ],
    ids=lambda names: "+".join(names) or "nothing",
)
def test_steps_give_the_same_bytes_in_one_process_and_one_by_one_without_files_of_earlier_steps(
    make_work: Make, tmp_path: Path, erased: tuple[str, ...]
) -> None:
    work = make_work("together", **DROPOUT)
    for step in STEPS:
        step(work)
    for step in STEPS:
        for path in (tmp_path / "apart" / name for name in erased):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        step(make_work("apart", **DROPOUT))
    assert differences(tmp_path / "apart", trained_files(work.out)) == []


@pytest.mark.slow
@pytest.mark.parametrize("erased", ["cache", None])
def test_every_stage_resumed_with_or_without_the_cache_gives_the_bytes_of_an_uninterrupted_run(
    make_work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, erased: str | None
) -> None:
    work = make_work("undisturbed", **DROPOUT)
    for step in STEPS:
        step(work)
    for step in STEPS:
        with monkeypatch.context() as patch:
            interrupt_at(patch, 3)
            while True:
                try:
                    step(make_work("stopped", **DROPOUT), resume=True)
                except Interrupted:
                    patch.undo()
                else:
                    break
            if erased:
                shutil.rmtree(tmp_path / "stopped" / erased, ignore_errors=True)
    assert differences(tmp_path / "stopped", trained_files(work.out)) == []


def gates_in_training(work: Workspace, known: bool) -> torch.Tensor:
    """Gates (B, E) of a mixture in training over cached trunk states, the trunk having run before or not."""
    model, other = (random_mixture(load_backbone(work.run.backbone), work) for _ in range(2))
    with torch.no_grad():
        model.gate.net[-1].weight.normal_(generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 5, 6, 7, 2]] * 8)  # (B, T)
    states, _ = (model if known else other).encode_trunk(ids, torch.ones_like(ids))  # (B, T, D)
    assert model.trunk.output_format_known == known
    torch.manual_seed(0)
    return model.train()(ids, torch.ones_like(ids), trunk=states).routing.gates


def test_first_pass_over_cached_states_draws_the_same_random_numbers_as_a_later_one(make_work: Make) -> None:
    work = make_work()
    assert torch.equal(gates_in_training(work, known=True), gates_in_training(work, known=False))


def test_trunk_without_the_router_draws_no_random_numbers_and_keeps_the_route(make_work: Make) -> None:
    work = make_work()
    model = random_mixture(load_backbone(work.run.backbone), work).train()
    ids = torch.tensor([[1, 5, 6, 7, 2]])  # (B, T)
    model(ids, torch.ones_like(ids))
    before, gates = torch.get_rng_state(), model.bank.route.gates
    states, routing = model.encode_trunk(ids, torch.ones_like(ids), route=False)
    assert routing is None
    assert states.shape[:2] == ids.shape
    assert torch.equal(torch.get_rng_state(), before)
    assert model.bank.route.gates is gates
