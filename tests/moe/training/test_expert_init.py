"""Tests of experts that start from the average of a mixture's nearest experts."""

import re
from pathlib import Path

import pytest
import torch
from conftest import LABELS, Make
from torch import Tensor

from experts.cards import EXPERTS
from experts.errors import Fault
from experts.expert_io import read_expert
from experts.lora_delta import LowRankUpdate
from experts.safetensors_io import load_tensors
from moe.checkpoints.mixture import mixture_digest
from moe.config.messages import ConfigFault
from moe.config.stages import EXPERT
from moe.membership.listing import list_experts
from moe.membership.update import UpdateTarget, add
from moe.model.mixture import Mixture
from moe.runs.workspace import Workspace
from moe.training.expert_steps import new_expert, train_domain, train_shared
from moe.training.steps import merge_experts

DOMAINS = {name: {"file": f"{name}.csv", "labels": list(LABELS)} for name in ("news", "forum", "macro")}


@pytest.fixture
def joining(make_work: Make) -> tuple[Make, Path]:
    """A factory of runs in whose folder news and forum are trained and merged, and the folder of their mixture."""
    work = make_work(domains=DOMAINS, heads={"merge": "per_expert"})
    for name in ("news", "forum"):
        train_domain(work, name)
    mixture = merge_experts(work, [work.expert_folder(name) for name in ("news", "forum")])

    def make(rank: int = 4, alpha: float = 8.0, domains: object = DOMAINS, **init: object) -> Workspace:
        settings = {"mixture": str(mixture)} | init
        return make_work(
            domains=domains,
            heads={"merge": "per_expert"},
            lora={"r": rank, "alpha": alpha},
            expert_init=settings,
            stages={"adapt": {"steps": 2, "evals": 1}},
        )

    return make, mixture


def start(work: Workspace, name: str = "macro") -> Mixture:
    domain = next(domain for domain in work.run.domain_list() if domain.name == name)
    return new_expert(work, EXPERT, domain, name, seed=work.run.seed).model


def dense(update: LowRankUpdate) -> dict[str, Tensor]:
    """Return each layer's update as a matrix (D_out, D_in)."""
    return {path: update.scaling * b @ a for path, (a, b) in update.layers.items()}


def trained(work: Workspace, name: str) -> dict[str, Tensor]:
    """Return the update of an expert, from its folder, as matrices."""
    expert, updates = read_expert(work.expert_folder(name)), {}
    assert expert.card is not None
    for path, spec in expert.card.layers.items():
        a, b = (expert.weights[f"base_model.model.{path}.lora_{kind}.weight"] for kind in "AB")
        updates[path] = spec.scaling * b @ a
    return updates


@pytest.mark.parametrize(("rank", "alpha"), [(8, 4.0), (11, 22.0)])
def test_expert_of_enough_rank_starts_as_the_mean_of_the_nearest(
    joining: tuple[Make, Path], rank: int, alpha: float
) -> None:
    work = joining[0](rank=rank, alpha=alpha)
    model = start(work)
    news, forum = (trained(work, name) for name in ("news", "forum"))
    for path, matrix in dense(model.bank.low_rank_update("macro")).items():
        torch.testing.assert_close(matrix, (news[path] + forum[path]) / 2)
    heads = [read_expert(work.expert_folder(name)).heads for name in ("news", "forum")]
    for key, tensor in model.heads.state_dict().items():
        torch.testing.assert_close(tensor, (heads[0][key] + heads[1][key]) / 2)


def test_expert_of_less_rank_starts_as_the_closest_update_of_its_rank(joining: tuple[Make, Path]) -> None:
    work = joining[0](rank=3)
    model = start(work)
    news, forum = (trained(work, name) for name in ("news", "forum"))
    for path, matrix in dense(model.bank.low_rank_update("macro")).items():
        mean = (news[path] + forum[path]) / 2
        u, values, v = torch.linalg.svd(mean, full_matrices=False)
        torch.testing.assert_close(matrix, u[:, :3] * values[:3] @ v[:3], atol=1e-6, rtol=1e-4)


def test_nearest_expert_by_prototypes_is_that_of_the_same_texts(joining: tuple[Make, Path]) -> None:
    for twin in ("news", "forum"):
        domains = DOMAINS | {"twin": {"file": f"{twin}.csv", "labels": list(LABELS)}}
        work = joining[0](domains=domains, nearest=1, by="prototypes")
        for path, matrix in dense(start(work, "twin").bank.low_rank_update("twin")).items():
            torch.testing.assert_close(matrix, trained(work, twin)[path])


def test_expert_of_another_rank_joins_the_mixture_and_names_its_start(joining: tuple[Make, Path]) -> None:
    work, mixture = joining[0](rank=6), joining[1]
    train_domain(work, "macro")
    origin = read_expert(work.expert_folder("macro")).card.init
    assert re.fullmatch(r"the average of (news, forum|forum, news) in moe-init", origin.source)
    assert origin.sha256 == mixture_digest(mixture)
    assert set(origin.data_sha256) == {"news", "forum"}
    out = work.out / "three"
    add(mixture, work.expert_folder("macro"), work.run, UpdateTarget(out))
    assert [row.rank for row in list_experts(out).experts] == [(4, 4), (4, 4), (6, 6)]
    assert load_tensors(out / EXPERTS / "macro" / "adapter_model.safetensors")


def test_domain_of_the_mixture_starts_fresh(joining: tuple[Make, Path]) -> None:
    model = start(joining[0](), "news")
    assert not any(p.any() for key, p in model.bank.adapter_parameters("news").items() if "lora_B" in key)


def test_mixture_on_another_shared_expert_is_refused(joining: tuple[Make, Path], make_work: Make) -> None:
    init = {"mixture": str(joining[1])}
    work = make_work("other", domains=DOMAINS, shared={"r": 2}, expert_init=init)
    train_shared(work)
    with pytest.raises(Fault, match=r"a mixture on the run's shared expert .* found one on none"):
        train_domain(work, "macro")
    assert not work.expert_folder("macro").exists()


def test_language_model_has_no_expert_init(make_work: Make) -> None:
    with pytest.raises(ConfigFault, match="expert_init is for classifiers"):
        make_work(language={}, expert_init={"mixture": "runs/x"})
