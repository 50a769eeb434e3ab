"""Tests of adding, removing and swapping experts: the others predict as before, router and heads are adapted."""

from pathlib import Path

import corpora
import numpy as np
import pytest
import torch
from conftest import LABELS, Make
from mixtures import TEXTS

from experts.atomic_io import MANIFEST, read_json, write_json, write_manifest
from experts.errors import Fault
from experts.expert_io import ADAPTER, CARD
from experts.safetensors_io import load_tensors, save_tensors
from moe.checkpoints.mixture import read_card, read_mixture
from moe.config.run import RunSettings
from moe.evaluation.evaluate import evaluate_rows
from moe.inference.calibration import TaskCalibration, read_calibration, write_calibration
from moe.inference.torch_predictor import TorchPredictor
from moe.integrity import verify
from moe.membership.listing import list_experts
from moe.membership.update import UpdateTarget, add, remove, swap
from moe.model.mode import RoutingMode
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.language.pretrain import pretrain
from moe.training.steps import merge_experts
from router.gate_transfer import MAX_INITIAL_WEIGHT

THREE = {name: {"file": f"{name}.csv", "labels": list(LABELS)} for name in ("news", "forum", "macro")}


def scores(folder: Path, without: tuple[str, ...] = ()):
    model, card = read_mixture(folder)
    return TorchPredictor(model, card.template, 16, mode=RoutingMode(without=without)).score(TEXTS)


@pytest.fixture
def merged(make_work: Make, heads: str) -> Workspace:
    """A run with three trained experts, of which two are merged."""
    work = make_work(heads={"merge": heads}, domains=THREE)
    for name in work.run.domains:
        train_domain(work, name)
    merge_experts(work, [work.expert_folder(name) for name in ("news", "forum")])
    return work


def adapting(run: RunSettings, **changed: float) -> RunSettings:
    """Return the run with a changed adaptation stage; by default it trains next to nothing."""
    stage = run.stages.warmup.model_copy(update={"steps": 1, "router_lr": 1e-12, "head_lr": 1e-12} | changed)
    return run.model_copy(update={"stages": run.stages.model_copy(update={"adapt": stage})})


@pytest.mark.parametrize("heads", ["per_expert", "averaged"])
def test_added_expert_leaves_the_other_predictions_nearly_unchanged(merged: Workspace) -> None:
    old, out = merged.out / "moe-init", merged.out / "three"
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    report = add(old, merged.expert_folder("macro"), adapting(merged.run), UpdateTarget(out))
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before
    assert verify(out).faults == 0
    assert verify(out).folders[0].remarks == []
    assert set(report.adaptation.figures) == {"news", "forum", "macro"}
    assert report.adaptation.figures["macro"].before is None
    earlier, now = scores(old), scores(out)
    assert now.routing_weights[:, 2].max() <= MAX_INITIAL_WEIGHT * 1.001
    np.testing.assert_allclose(
        now.routing_weights[:, :2] / now.routing_weights[:, :2].sum(1, keepdims=True),
        earlier.routing_weights,
        atol=1e-5,
    )
    for name, logits in earlier.logits.items():
        np.testing.assert_allclose(now.logits[name], logits, atol=0.05)


@pytest.mark.parametrize("heads", ["per_expert"])
def test_adding_an_expert_trains_router_and_heads_and_no_expert(merged: Workspace) -> None:
    run = adapting(merged.run, steps=100, router_lr=0.02, head_lr=0.001)
    out = merged.out / "three"
    add(merged.out / "moe-init", merged.expert_folder("macro"), run, UpdateTarget(out))
    for name in ("news", "forum", "macro"):
        own, merged_file = (folder / ADAPTER for folder in (merged.expert_folder(name), out / "experts" / name))
        assert own.read_bytes() == merged_file.read_bytes()
    card = read_card(out)
    assert (card.routed, card.stage, card.steps) == (("news", "forum", "macro"), "moe-adapted", 100)
    assert card.metrics["routing"] > 0.8
    rows = {row.name: row for row in list_experts(out).experts}
    assert rows["macro"].trained == "6 steps alone"
    assert (merged.out / "logs" / "three" / "trajectory.parquet").is_file()
    assert not (merged.out / "checkpoints" / "three").exists()


@pytest.mark.parametrize("heads", ["per_expert", "averaged"])
def test_removed_expert_equals_an_ablated_one(merged: Workspace) -> None:
    merge_experts(merged, [merged.expert_folder(name) for name in THREE], overwrite=True)
    full = merged.out / "moe-init"
    report = remove(full, "forum", UpdateTarget(merged.out / "two"))
    assert (report.tasks_gone, report.answered_by) == (["forum"], [])
    assert verify(merged.out / "two").faults == 0
    assert read_card(merged.out / "two").routed == ("news", "macro")
    ablated, reduced = scores(full, ("forum",)), scores(merged.out / "two")
    remaining = ablated.routing_weights[:, [0, 2]]
    np.testing.assert_allclose(reduced.routing_weights, remaining / remaining.sum(1, keepdims=True), atol=1e-6)
    for name, logits in ablated.logits.items():
        np.testing.assert_allclose(reduced.logits[name], logits, atol=1e-5)


def train_much(run: RunSettings, **stages: object) -> RunSettings:
    """Return the run with an adaptation that changes what it trains, and weight decay."""
    run = adapting(run, steps=30, router_lr=0.05, head_lr=0.05, weight_decay=0.1)
    return run.model_copy(update={"stages": run.stages.model_copy(update=stages)})


def pinned_rows(work: Workspace, folder: Path) -> list[tuple[object, ...]]:
    """Return the test rows of news and forum, pinned to their domain, with labels, confidences and polarities."""
    model, card = read_mixture(folder)
    predictor = TorchPredictor(model, card.template, 16, calibration=read_calibration(folder))
    rows = evaluate_rows(predictor, work.rows("test", ["news", "forum"]), pin=True)
    return [(row.row["id"], row.masked.label, row.masked.confidence, row.masked.polarity) for row in rows]


@pytest.mark.parametrize("router", ["all", "new_expert"])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("heads", ["per_expert", "averaged"])
def test_pinned_answers_of_old_domains_are_the_same_bits_after_an_addition(
    make_work: Make, heads: str, kind: str, router: str
) -> None:
    work = make_work(heads={"merge": heads, "kind": kind}, domains=THREE)
    for name in work.run.domains:
        train_domain(work, name)
    old, out = work.out / "moe-init", work.out / "three"
    merge_experts(work, [work.expert_folder(name) for name in ("news", "forum")])
    fitted = {task: TaskCalibration(temperature=t, rows=40) for task, t in (("news", 1.7), ("forum", 0.6))}
    write_calibration(old, fitted)
    add(old, work.expert_folder("macro"), train_much(work.run, adapt_router=router), UpdateTarget(out))
    before, after = pinned_rows(work, old), pinned_rows(work, out)
    assert len(before) == 36
    assert before == after
    calibration = read_calibration(out)
    assert calibration is not None
    assert calibration.tasks == fitted
    pins = ["news", "forum", "news"]
    earlier, now = (load_predictor(folder).score(TEXTS, pins) for folder in (old, out))
    for name, logits in earlier.logits.items():
        assert np.array_equal(logits, now.logits[name])
    assert not np.array_equal(load_predictor(old).score(TEXTS).routing_weights, now.routing_weights[:, :2])


def load_predictor(folder: Path) -> TorchPredictor:
    """Return a predictor of a mixture."""
    model, card = read_mixture(folder)
    return TorchPredictor(model, card.template, 16)


def weight_hashes(folder: Path) -> dict[str, str]:
    """Return the hashes of a mixture's weights, by the file's name."""
    return {name: sha256 for name, sha256 in read_json(folder / MANIFEST)["sha256"].items() if "safetensors" in name}


@pytest.mark.parametrize("router", ["all", "new_expert"])
@pytest.mark.parametrize("heads", ["per_expert", "averaged"])
def test_removal_gives_back_the_earlier_mixtures_bit_for_bit(make_work: Make, heads: str, router: str) -> None:
    stances = ["dovish", "neutral", "hawkish"]
    macro = THREE["macro"] | {"labels": stances, "label_map": dict(zip(LABELS, stances, strict=True))}
    work = make_work(heads={"merge": heads}, domains=THREE | {"macro": macro}, shared={"r": 4})
    run = train_much(work.run, adapt_router=router)
    only_news = run.model_copy(update={"domains": {"news": run.domains["news"]}})
    train_shared(Workspace(only_news, work.out))
    for name in work.run.domains:
        train_domain(work, name)
    folders = [merge_experts(work, [work.expert_folder("news")])]
    for name in ("forum", "macro"):
        folders.append(work.out / f"with-{name}")
        add(folders[-2], work.expert_folder(name), run, UpdateTarget(folders[-1]))
    assert verify(folders[-1]).faults == 0
    assert set(read_card(folders[-1]).earlier_routers) == ({"forum", "macro"} if router == "all" else set())
    remove(folders[2], "macro", UpdateTarget(work.out / "two"))
    remove(work.out / "two", "forum", UpdateTarget(work.out / "one"))
    for folder, restored in ((folders[1], work.out / "two"), (folders[0], work.out / "one")):
        assert weight_hashes(folder) == weight_hashes(restored)
        earlier, now = scores(folder), scores(restored)
        assert np.array_equal(earlier.routing_weights, now.routing_weights)
        assert all(np.array_equal(logits, now.logits[name]) for name, logits in earlier.logits.items())


@pytest.mark.parametrize("heads", ["per_expert"])
def test_removal_of_an_expert_that_others_followed_drops_its_column(merged: Workspace) -> None:
    run = train_much(merged.run)
    first = merge_experts(merged, [merged.expert_folder("news")], overwrite=True)
    for before, name in ((first, "forum"), (merged.out / "forum", "macro")):
        add(before, merged.expert_folder(name), run, UpdateTarget(merged.out / name))
    remove(merged.out / "macro", "forum", UpdateTarget(merged.out / "out"))
    assert read_card(merged.out / "out").earlier_routers == {}
    ablated, reduced = scores(merged.out / "macro", ("forum",)), scores(merged.out / "out")
    remaining = ablated.routing_weights[:, [0, 2]]
    np.testing.assert_allclose(reduced.routing_weights, remaining / remaining.sum(1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("heads", ["per_expert"])
def test_adaptation_of_the_router_alone_learns_to_route_and_changes_no_head(merged: Workspace) -> None:
    run = adapting(merged.run, steps=100, router_lr=0.02, head_lr=0.1)
    run = run.model_copy(update={"stages": run.stages.model_copy(update={"adapt_heads": False})})
    untrained, out = merged.out / "untrained", merged.out / "three"
    add(merged.out / "moe-init", merged.expert_folder("macro"), None, UpdateTarget(untrained))
    add(merged.out / "moe-init", merged.expert_folder("macro"), run, UpdateTarget(out))
    assert weight_hashes(out)["heads.safetensors"] == weight_hashes(untrained)["heads.safetensors"]
    assert read_card(out).metrics["routing"] > 0.8


@pytest.mark.parametrize("heads", ["per_expert"])
def test_swapped_expert_has_its_own_weights_and_heads_and_the_same_router(merged: Workspace) -> None:
    old, out, folder = merged.out / "moe-init", merged.out / "newer", merged.expert_folder("forum")
    train_domain(Workspace(merged.run.model_copy(update={"seed": 99}), merged.out / "again"), "forum")
    newer = merged.out / "again" / "experts" / "forum"
    swap(old, "forum", newer, UpdateTarget(out))
    assert verify(out).faults == 0
    assert (out / "experts" / "forum" / ADAPTER).read_bytes() == (newer / ADAPTER).read_bytes()
    for name, tensor in load_tensors(old / "router.safetensors").items():
        assert torch.equal(load_tensors(out / "router.safetensors")[name], tensor)
    heads, own = load_tensors(out / "heads.safetensors"), load_tensors(newer / "heads.safetensors")
    for name, tensor in own.items():
        assert torch.equal(heads[f"experts.forum.{name}"], tensor)
    for name, tensor in load_tensors(old / "heads.safetensors").items():
        if name.startswith("experts.news."):
            assert torch.equal(heads[name], tensor)
    with pytest.raises(Fault, match="experts with different weights"):
        swap(old, "forum", folder, UpdateTarget(merged.out / "same"))
    with pytest.raises(Fault, match=r"an expert of the domain news .* found one of forum"):
        swap(old, "news", newer, UpdateTarget(merged.out / "other"))


@pytest.mark.parametrize("heads", ["averaged"])
def test_refused_update_writes_nothing(merged: Workspace) -> None:
    old, macro, out = merged.out / "moe-init", merged.expert_folder("macro"), merged.out / "three"

    def refused(message: str, model: Path = old, target: Path = out, run=merged.run) -> None:
        with pytest.raises(Fault, match=message):
            add(model, macro, run, UpdateTarget(target))
        assert not out.exists()

    refused("replaces no input", target=old)
    refused("replaces no input", target=merged.out / "experts")
    fewer = {name: domain for name, domain in merged.run.domains.items() if name != "forum"}
    refused("no forum", run=merged.run.model_copy(update={"domains": fewer}))
    original = (macro / CARD).read_text()
    for change, message in (
        ({"trunk_depth": 0}, "backbone.trunk_depth 1, as in the mixture"),
        ({"shared": "1" * 64}, "the shared expert 111111111111"),
        ({"name": "news"}, "replace it: moe expert swap|Replace it"),
        ({"domain": "sports"}, "a domain of the config"),
        ({"tasks": {"macro": ["up", "down"]}}, "labels negative, neutral, positive"),
    ):
        write_json(macro / CARD, read_json(macro / CARD) | change)
        write_manifest(macro)
        refused(message)
        (macro / CARD).write_text(original)
        write_manifest(macro)
    weights = load_tensors(macro / ADAPTER)
    save_tensors(macro / ADAPTER, {key: tensor * (0 if "lora_B" in key else 1) for key, tensor in weights.items()})
    write_manifest(macro)
    refused("untrained")
    with pytest.raises(Fault, match="one of the experts news, forum"):
        remove(old, "macro", UpdateTarget(out))
    remove(old, "news", UpdateTarget(out))
    with pytest.raises(Fault, match="another expert besides forum"):
        remove(out, "forum", UpdateTarget(merged.out / "none"))


@pytest.mark.parametrize("heads", ["per_expert"])
def test_added_expert_with_new_labels_gets_a_new_head(merged: Workspace, make_work: Make) -> None:
    stances = ("dovish", "neutral", "hawkish")
    wider = {"labels": list(stances), "label_map": dict(zip(LABELS, stances, strict=True))}
    domains = THREE | {"macro": THREE["macro"] | wider}
    work = make_work("wide", heads={"merge": "per_expert"}, domains=domains)
    train_domain(work, "macro")
    add(merged.out / "moe-init", work.expert_folder("macro"), adapting(work.run), UpdateTarget(work.out / "three"))
    model, _ = read_mixture(work.out / "three")
    assert list(model.labels.heads) == ["negative-neutral-positive", "dovish-neutral-hawkish"]
    own = load_tensors(work.expert_folder("macro") / "heads.safetensors")
    news, macro = (model.heads.experts[name].state_dict() for name in ("news", "macro"))
    weight = "classes.dovish-neutral-hawkish.1.weight"
    torch.testing.assert_close(macro[weight], own[weight])
    torch.testing.assert_close(
        news[weight], own[weight], msg="an expert not trained on the labels starts from the one that was"
    )


@pytest.mark.slow
def test_role_expert_is_added_to_and_removed_from_a_language_model(tmp_path: Path) -> None:
    few = {"steps": 4, "batch_size": 8, "evals": 1}
    work = corpora.make_lm_workspace(
        tmp_path, stages={"pretrain": few, "adapt": few, "warmup": few}, gate={"kind": "team"}
    )
    pretrain(work, None, False, False)
    merge_experts(work, [work.expert_folder(name) for name in ("news", "forum")])
    out = work.out / "three"
    report = add(work.out / "moe-init", work.expert_folder("macro"), work.run, UpdateTarget(out))
    assert verify(out).faults == 0
    assert report.adaptation.steps == 4
    assert set(report.adaptation.figures) == {"news", "forum", "macro"}
    card = read_card(out)
    assert [(domain.name, domain.to_domain().group) for domain in card.domains] == [
        ("news", "news"),
        ("forum", "talk"),
        ("macro", "talk"),
    ]
    assert {row.trained for row in list_experts(out).experts} == {"4 steps alone"}
    remove(out, "forum", UpdateTarget(work.out / "two"))
    assert verify(work.out / "two").faults == 0
    assert read_card(work.out / "two").routed == ("news", "macro")


@pytest.mark.slow
@pytest.mark.parametrize("heads", ["per_expert", "averaged"])
def test_added_expert_with_a_score_alone_brings_the_polarity_head(make_work: Make, heads: str) -> None:
    labelled = {name: {"columns": {"score": None}} for name in ("news", "forum")}
    scored = {"macro": {"file": "macro.csv", "labels": [], "kind": "score"}}
    work = make_work(heads={"merge": heads}, domains=labelled | scored)
    for name in work.run.domains:
        train_domain(work, name)
    old = merge_experts(work, [work.expert_folder(name) for name in ("news", "forum")])
    assert not read_card(old).polarity
    out = work.out / "three"
    report = add(old, work.expert_folder("macro"), adapting(work.run), UpdateTarget(out))
    assert report.adaptation.figures["macro"].after is not None
    assert read_card(out).polarity
    expert, mixture = (
        load_tensors(work.expert_folder("macro") / "heads.safetensors"),
        load_tensors(out / "heads.safetensors"),
    )
    prefix = "experts.macro." if heads == "per_expert" else ""
    torch.testing.assert_close(mixture[f"{prefix}polarity.1.weight"], expert["polarity.1.weight"])
    polarity = scores(out).polarity
    assert polarity is not None
    assert np.isfinite(polarity).all()
