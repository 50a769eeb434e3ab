"""Tests of routers that need no training: what experts' folders keep, how a merge starts from it, unfamiliar texts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Make
from mixtures import TEXTS, save_random_mixture
from safetensors.torch import load_file

from experts.atomic_io import read_json, write_manifest
from experts.errors import Fault
from experts.expert_io import ADAPTER, ADAPTER_CONFIG, PROTOTYPES, read_expert
from moe.checkpoints.mixture import read_mixture
from moe.evaluation.evaluate import evaluate_rows, routing_report
from moe.inference.bulk.shards import shard_schema
from moe.inference.stream import predict_texts, to_row
from moe.inference.torch_predictor import TorchPredictor
from moe.membership.update import UpdateTarget, add, remove
from moe.model.backbone import load_backbone
from moe.model.mixture import Mixture
from moe.model.mode import RoutingMode
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.steps import merge_experts, train_router
from router.gate_settings import GateSettings
from router.prior import NEVER, PrototypeSet, arrow_direction

QKV = ("query", "key", "value")


def trained(make_work: Make, **over: Any) -> Workspace:
    work = make_work(**over)
    if work.run.shared:
        train_shared(work)
    for domain in work.run.domains:
        train_domain(work, domain)
    return work


def merged(work: Workspace) -> Mixture:
    return read_mixture(merge_experts(work, overwrite=True))[0]


def prototypes_of(model: Mixture) -> PrototypeSet:
    assert model.gate is not None
    assert model.gate.prior is not None
    assert model.gate.prior.prototypes is not None
    return model.gate.prior.prototypes


def right_domain(work: Workspace, model: Mixture) -> float:
    rows = evaluate_rows(TorchPredictor(model, "{text}", 16), work.rows("test"))
    return routing_report(rows, model).accuracy


def test_expert_folder_has_a_hashed_prototype_of_its_rows_without_text(make_work: Make) -> None:
    work = trained(make_work)
    folder = work.expert_folder("news")
    assert PROTOTYPES in read_json(folder / "manifest.json")["sha256"]
    prototypes = read_expert(folder).prototypes
    assert {name: tuple(tensor.shape) for name, tensor in prototypes.items()} == {
        "mean": (32,),
        "directions": (len(prototypes["variances"]), 32),
        "variances": (len(prototypes["variances"]),),
        "noise": (),
        "rows": (),
    }
    assert int(prototypes["rows"]) == len(work.rows("train", ["news"]))


def test_centroid_router_finds_the_domain_without_training_and_random_does_not(make_work: Make) -> None:
    work = trained(make_work, gate={"init": "centroid"})
    assert right_domain(work, merged(work)) >= 0.9
    random = make_work()
    assert right_domain(random, merged(random)) < 0.9


def test_warm_start_goes_on_from_the_prototypes(make_work: Make) -> None:
    work = trained(make_work, gate={"init": "centroid", "temperature": 200.0})
    before = merged(work)
    train_router(work)
    after = read_mixture(work.out / "router-warmup")[0]
    assert right_domain(work, after) >= 0.9
    assert before.gate is not None
    assert after.gate is not None
    assert before.gate.prior is not None
    assert after.gate.prior is not None
    assert not torch.equal(before.gate.prior.weight, after.gate.prior.weight)
    assert torch.equal(prototypes_of(before).weight, prototypes_of(after).weight)


def test_router_is_trained_on_a_merge_with_another_start_than_the_config(make_work: Make) -> None:
    trained(make_work)
    merge_experts(make_work(gate={"init": "centroid"}))
    train_router(make_work())
    card = read_mixture(make_work().out / "router-warmup")[1]
    assert card.gate.init == "centroid"


def test_arrow_router_uses_the_first_singular_vector_of_the_first_attention_layer(make_work: Make) -> None:
    work = trained(make_work, gate={"init": "arrow"})
    model = merged(work)
    weights = load_file(work.expert_folder("news") / ADAPTER)
    layer = "base_model.model.encoder.layer.1.attention.self."
    updates = [(weights[f"{layer}{name}.lora_A.weight"], weights[f"{layer}{name}.lora_B.weight"]) for name in QKV]
    assert model.gate is not None
    assert model.gate.prior is not None
    cosine = model.gate.prior.weight[0] @ arrow_direction(updates).float()
    torch.testing.assert_close(cosine.abs(), torch.tensor(1.0), atol=1e-4, rtol=0)


def plain_adapter(source: Path, target: Path) -> Path:
    """Copy only PEFT's two files of an expert."""
    target.mkdir(parents=True)
    for name in (ADAPTER, ADAPTER_CONFIG):
        (target / name).write_bytes((source / name).read_bytes())
    return target


def test_plain_adapter_joins_by_arrow_and_is_refused_by_the_others(make_work: Make, tmp_path: Path) -> None:
    work = trained(make_work)
    forum = plain_adapter(work.expert_folder("forum"), tmp_path / "adapters" / "forum")
    folders = [work.expert_folder("news"), forum]
    merge_experts(make_work("arrow", gate={"init": "arrow"}), folders)
    for router, remedy in (("centroid", "Use --router arrow"), ("phatgoose", "--set gate.expert_gate_steps=100")):
        with pytest.raises(Fault, match=remedy):
            merge_experts(make_work(router, gate={"init": router}), folders)


def test_expert_of_an_earlier_version_without_prototypes_is_refused_with_what_to_do(make_work: Make) -> None:
    work = trained(make_work, gate={"init": "centroid"})
    folder = work.expert_folder("forum")
    (folder / PROTOTYPES).unlink()
    write_manifest(folder)
    with pytest.raises(Fault, match=r"prototypes of training states.*--router random; or train the expert again"):
        merge_experts(work)


def test_prototypes_that_were_changed_are_refused(make_work: Make) -> None:
    work = trained(make_work, gate={"init": "centroid"})
    path = work.expert_folder("forum") / PROTOTYPES
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(Fault, match="changed or cut"):
        merge_experts(work)


def test_phatgoose_gates_are_trained_with_the_expert_and_change_nothing_else(make_work: Make) -> None:
    plain = trained(make_work)
    gated = trained(lambda **over: make_work("gated", **over), gate={"init": "phatgoose", "expert_gate_steps": 5})
    for name in ("news", "forum"):
        before, after = (read_expert(work.expert_folder(name)) for work in (plain, gated))
        assert before.digest == after.digest
        assert all(torch.equal(tensor, after.heads[key]) for key, tensor in before.heads.items())
        assert "gate" not in before.prototypes
        assert after.prototypes["gate"].any()
    model = merged(gated)
    assert model.gate is not None
    assert model.gate.prior is not None
    torch.testing.assert_close(model.gate.prior.weight.norm(dim=1), torch.ones(2), atol=1e-3, rtol=0)


@pytest.mark.parametrize("adapts", [False, True])
def test_added_expert_gets_the_router_of_a_merge_of_all_and_leaves_without_a_trace(
    make_work: Make, adapts: bool
) -> None:
    work = trained(make_work, gate={"init": "centroid", "unfamiliar": 0.1}, stages={"adapt": {"steps": 1}})
    together = merged(work)
    news, three, back = (work.out / name for name in ("news", "three", "back"))
    alone = merge_experts(work, [work.expert_folder("news")], overwrite=True).rename(news)
    add(alone, work.expert_folder("forum"), work.run if adapts else None, UpdateTarget(three))
    added = read_mixture(three)[0]
    assert together.gate is not None
    assert added.gate is not None
    for name, value in prototypes_of(together).state_dict().items():
        if name != "threshold":
            assert torch.equal(value, prototypes_of(added).state_dict()[name]), name
    if adapts:
        assert torch.equal(prototypes_of(added).threshold, prototypes_of(together).threshold)
    else:
        assert torch.equal(together.gate.prior.weight, added.gate.prior.weight)
        assert float(prototypes_of(added).threshold) == NEVER
    remove(three, "forum", UpdateTarget(back))
    assert (back / "router.safetensors").read_bytes() == (news / "router.safetensors").read_bytes()


def test_threshold_marks_the_share_of_validation_rows_that_the_settings_name(make_work: Make) -> None:
    work = trained(make_work, gate={"init": "centroid", "unfamiliar": 0.25})
    predictor = TorchPredictor(merged(work), "{text}", 16)
    unfamiliar = predictor.score(list(work.rows("validation")["text"])).unfamiliar
    assert unfamiliar is not None
    assert abs(unfamiliar.mean() - 0.25) < 0.08
    none = make_work(gate={"init": "centroid", "unfamiliar": 0.0})
    assert float(prototypes_of(merged(none)).threshold) == NEVER


def test_merge_without_validation_rows_marks_no_text(make_work: Make, tmp_path: Path) -> None:
    trained(make_work)
    (tmp_path / "empty").mkdir()
    elsewhere = make_work("merged", gate={"init": "centroid"}, data={"folder": str(tmp_path / "empty")})
    folders = [make_work().expert_folder(name) for name in ("news", "forum")]
    model = read_mixture(merge_experts(elsewhere, folders))[0]
    assert float(prototypes_of(model).threshold) == NEVER


def test_unfamiliar_text_goes_to_the_shared_expert_alone_and_is_marked(make_work: Make) -> None:
    work = make_work()
    folder = save_random_mixture(
        work.out / "mixture", load_backbone(work.run.backbone), work, gate=GateSettings(init="centroid"), shared=True
    )
    model = read_mixture(folder)[0]
    prototypes_of(model).threshold.fill_(NEVER)
    predictor = TorchPredictor(model, "{text}", 16, states=True)
    shared = predictor.with_mode(RoutingMode(without=("news", "forum"))).score(TEXTS).states
    routed = predictor.score(TEXTS)
    assert routed.unfamiliar is not None
    assert shared is not None
    assert routed.states is not None
    assert not routed.unfamiliar.any()
    assert abs(routed.states - shared).max() > 1e-4
    prototypes_of(model).threshold.fill_(-NEVER)
    alone = predictor.score(TEXTS)
    assert alone.unfamiliar is not None
    assert alone.states is not None
    assert alone.unfamiliar.all()
    assert abs(alone.states - shared).max() < 1e-5
    row = to_row(predict_texts(TEXTS[:1], predictor)[0], predictor.experts)
    assert row["unfamiliar"] is True
    assert "unfamiliar" in shard_schema(predictor).names
    pinned = predictor.score(TEXTS, pin=["news"] * 3).states
    assert pinned is not None
    assert abs(pinned - shared).max() > 1e-4
    hard = TorchPredictor(model, "{text}", 16, routing="hard").score(TEXTS).unfamiliar
    assert hard is not None
    assert hard.all()


def test_rows_of_a_familiar_text_have_no_mark(make_work: Make) -> None:
    work = trained(make_work, gate={"init": "centroid", "unfamiliar": 0.0})
    predictor = TorchPredictor(merged(work), "{text}", 16)
    assert "unfamiliar" not in to_row(predict_texts(TEXTS[:1], predictor)[0], predictor.experts)


def test_added_expert_gets_its_own_prototype_and_its_removal_gives_back_the_router(make_work: Make) -> None:
    labels = ["negative", "neutral", "positive"]
    domains = {name: {"file": f"{name}.csv", "labels": labels} for name in ("news", "forum", "macro")}
    work = trained(make_work, gate={"init": "centroid"})
    before = merge_experts(work)
    three = make_work(gate={"init": "centroid"}, domains=domains)
    train_domain(three, "macro")
    wider, back = work.out / "wider", work.out / "back"
    add(before, three.expert_folder("macro"), None, UpdateTarget(wider))
    assert right_domain(three, read_mixture(wider)[0]) >= 0.85
    remove(wider, "macro", UpdateTarget(back))
    assert (back / "router.safetensors").read_bytes() == (before / "router.safetensors").read_bytes()
