"""Tests of merging: initialization of heads, and refusals of experts that do not fit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Make, save_backbone
from safetensors.torch import load_file

from experts.atomic_io import write_json, write_manifest
from experts.errors import Fault
from experts.expert_io import ADAPTER, CARD, read_expert
from experts.safetensors_io import save_tensors
from moe.checkpoints.mixture import read_mixture
from moe.merging.merge import check_merge, merge
from moe.model.backbone import load_backbone
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain
from moe.training.steps import merge_experts


@pytest.fixture
def two(make_work: Make) -> Workspace:
    """A run with both experts trained."""
    work = make_work()
    for domain in work.run.domains:
        train_domain(work, domain)
    return work


def edit_card(folder: Path, **changes: object) -> None:
    import json

    content = json.loads((folder / CARD).read_text())
    write_json(folder / CARD, content | changes)
    write_manifest(folder)


def edit_adapter(folder: Path, change) -> None:
    tensors = load_file(folder / ADAPTER)
    save_tensors(folder / ADAPTER, {key: change(key, value) for key, value in tensors.items()}, finite=False)
    write_manifest(folder)


def test_merged_heads_are_the_mean_of_the_experts_heads(two: Workspace) -> None:
    merge_experts(two)
    heads = [load_file(two.out / "experts" / name / "heads.safetensors") for name in ("news", "forum")]
    merged = load_file(two.out / "moe-init" / "heads.safetensors")
    for key, tensor in merged.items():
        torch.testing.assert_close(tensor, (heads[0][key] + heads[1][key]) / 2)


def test_merged_head_rows_of_untrained_labels_come_from_the_other_experts(make_work: Make) -> None:
    work = make_work(
        domains={"forum": {"labels": ["negative", "positive"], "only": {"label": ["negative", "positive"]}}},
        heads={"merge": "per_expert"},
    )
    for domain in work.run.domains:
        train_domain(work, domain)
    merge_experts(work)
    model, _ = read_mixture(work.out / "moe-init")
    news, forum = (model.heads.experts[name].state_dict() for name in ("news", "forum"))
    weight = "classes.negative-neutral-positive.1.weight"
    torch.testing.assert_close(forum[weight][1], news[weight][1])
    assert not torch.equal(forum[weight][0], news[weight][0])


def test_merge_refuses_differing_experts_and_names_both_values(two: Workspace, tmp_path: Path) -> None:
    folder = two.out / "experts" / "forum"
    experts = [read_expert(two.out / "experts" / name) for name in ("news", "forum")]
    backbone = load_backbone(two.run.backbone).id
    with pytest.raises(Fault, match="experts to merge"):
        check_merge(two.run, [], backbone)
    other = load_backbone(
        two.run.backbone.model_copy(update={"name": str(save_backbone(tmp_path / "other", seed=5))})
    ).id
    with pytest.raises(Fault, match=f"{backbone.sha256[:12]}.*{other.sha256[:12]}"):
        check_merge(two.run, experts, other)
    with pytest.raises(Fault, match=r"a different name for each expert.*news"):
        check_merge(two.run, [experts[0], experts[0]], backbone)
    for change, message in (
        ({"trunk_depth": 0}, "backbone.trunk_depth 1.*0"),
        ({"template": "Text: {text}"}, "template"),
        ({"head_kind": "mlp"}, "heads.kind 'linear'.*'mlp'"),
        ({"tasks": {"forum": ["negative", "positive"]}}, "labels negative, neutral, positive.*negative, positive"),
        ({"domain": "sports"}, "a domain of the config.*'sports'"),
    ):
        original = (folder / CARD).read_text()
        edit_card(folder, **change)
        with pytest.raises(Fault, match=message):
            check_merge(two.run, [experts[0], read_expert(folder)], backbone)
        (folder / CARD).write_text(original)
        write_manifest(folder)
    without_bias = {name: tensor for name, tensor in experts[1].heads.items() if not name.endswith(".bias")}
    with pytest.raises(Fault, match=r"heads.bias True.*False"):
        check_merge(two.run, [experts[0], replace(experts[1], heads=without_bias)], backbone)


def test_merge_refuses_untrained_equal_and_broken_experts(two: Workspace) -> None:
    news, forum = two.out / "experts" / "news", two.out / "experts" / "forum"
    (forum / ADAPTER).write_bytes((news / ADAPTER).read_bytes())
    write_manifest(forum)
    with pytest.raises(Fault, match=r"experts with different weights.*news and .*forum"):
        merge_experts(two)
    edit_adapter(forum, lambda key, value: value * 0 if "lora_B" in key else value)
    with pytest.raises(Fault, match="untrained"):
        merge_experts(two)
    edit_adapter(forum, lambda key, value: value + float("nan"))
    with pytest.raises(Fault, match="NaN"):
        merge_experts(two)
    (forum / ADAPTER).write_bytes((forum / ADAPTER).read_bytes()[:-20])
    with pytest.raises(Fault, match="sha256"):
        merge_experts(two)
    write_manifest(forum)
    with pytest.raises(Fault, match="complete safetensors"):
        merge_experts(two)
    (forum / ADAPTER).unlink()
    with pytest.raises(Fault, match="no such file"):
        merge_experts(two)
    assert not (two.out / "moe-init").exists()


def test_merge_names_tensors_of_a_wrong_rank(two: Workspace) -> None:
    forum = two.out / "experts" / "forum"
    edit_adapter(forum, lambda key, value: value[:2] if "lora_A" in key else value)
    experts = [read_expert(two.out / "experts" / name) for name in ("news", "forum")]
    with pytest.raises(Fault, match="of another shape"):
        merge(two.run, experts, load_backbone(two.run.backbone))
