"""The trained expert of `shared.init`: which folders it may name, what must fit, and which heads it gives."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Make, save_backbone
from mixtures import save_random_mixture
from peft import LoraConfig, get_peft_model

from experts.domain import Domain, LabelSpace
from experts.errors import Fault
from experts.expert_io import read_expert
from experts.safetensors_io import load_tensors
from moe.checkpoints.mixture import read_mixture
from moe.model.backbone import load_backbone
from moe.model.heads import Heads
from moe.runs import shared_init
from moe.runs.shared_init import load_shared_init, read_trained_expert, shared_init_errors
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared

STAGES = {"shared": {"steps": 2, "lr": 0.01}}


@pytest.fixture
def source(make_work: Make) -> Path:
    """Folder of a trained shared expert of another run."""
    return train_shared(make_work("source", shared={"r": 2}, stages=STAGES))


def starting_from(make_work: Make, folder: Path | str, **over: Any) -> Workspace:
    return make_work("run", shared={"init": str(folder)}, **over)


def test_init_from_an_expert_has_its_weights_heads_and_origin(make_work: Make, source: Path) -> None:
    start, expert = load_shared_init(starting_from(make_work, source).run), read_expert(source)
    assert start is not None
    assert start.origin.sha256 == expert.digest
    assert start.origin.steps == 2
    assert expert.card is not None
    assert start.adapter.layers == expert.card.layers
    assert all(torch.equal(start.expert.weights[key], tensor) for key, tensor in expert.weights.items())


@pytest.mark.parametrize("heads", ["averaged", "per_expert"])
def test_init_from_a_mixture_is_its_shared_expert_with_one_set_of_heads(
    make_work: Make, tmp_path: Path, heads: str
) -> None:
    work = make_work()
    folder = tmp_path / "mixture"
    save_random_mixture(folder, load_backbone(work.run.backbone), work, heads=heads, shared=True)
    start = load_shared_init(starting_from(make_work, folder).run)
    assert start is not None
    weights = load_tensors(folder / "experts" / "shared" / "adapter_model.safetensors")
    assert all(torch.equal(start.expert.weights[key], tensor) for key, tensor in weights.items())
    model, _ = read_mixture(folder)
    state = model.heads.state_dict()
    key = "classes.negative-neutral-positive.1.weight"
    own = [state[f"experts.{name}.{key}"] for name in ("news", "forum")] if heads == "per_expert" else [state[key]]
    torch.testing.assert_close(start.expert.heads[key], torch.stack(own).mean(0))
    assert start.origin.mixture is not None


def test_init_from_a_plain_peft_adapter_has_no_heads(make_work: Make, tmp_path: Path) -> None:
    work = make_work()
    config = LoraConfig(r=3, target_modules=["query"], layers_to_transform=[1], init_lora_weights=False)
    get_peft_model(load_backbone(work.run.backbone).model, config).save_pretrained(str(tmp_path / "plain"))
    start = load_shared_init(starting_from(make_work, tmp_path / "plain").run)
    assert start is not None
    assert {spec.rank for spec in start.adapter.layers.values()} == {3}
    fresh = Heads(32, work.run.label_space().heads, work.run.heads, polarity=True).state_dict()
    assert all(torch.equal(start.heads_for(work.run.label_space(), fresh)[key], fresh[key]) for key in fresh)


def test_heads_with_known_labels_are_copied_in_their_own_order_and_others_are_fresh(
    make_work: Make, source: Path
) -> None:
    run = starting_from(make_work, source).run
    start = load_shared_init(run)
    assert start is not None
    space = LabelSpace.from_domains([Domain("a", {"a": ("positive", "negative"), "b": ("calm", "tense")})])
    fresh = Heads(32, space.heads, run.heads, polarity=False).state_dict()
    state = start.heads_for(space, fresh)
    trained = start.expert.heads["classes.negative-neutral-positive.1.weight"]
    assert torch.equal(state["classes.positive-negative.1.weight"], trained[[2, 0]])
    assert torch.equal(state["classes.calm-tense.1.weight"], fresh["classes.calm-tense.1.weight"])
    assert state.keys() == fresh.keys()


def test_init_reports_every_setting_that_differs_at_once(make_work: Make, source: Path, tmp_path: Path) -> None:
    other = save_backbone(tmp_path / "other", seed=1)
    backbone = {"name": str(other), "trunk_depth": 0, "max_length": 12}
    errors = shared_init_errors(starting_from(make_work, source, backbone=backbone, template="Text: {text}").run)
    assert len(errors) == 3, "another max_length fits: a LoRA does not depend on it"
    for part in ("backbone.name is", "backbone.trunk_depth is 0", "template is"):
        assert any(part in error for error in errors), part


def test_init_checks_the_layers_of_a_plain_adapter_against_backbone_and_trunk(make_work: Make, tmp_path: Path) -> None:
    work = make_work()
    config = LoraConfig(r=3, target_modules=["query"], init_lora_weights=False)
    get_peft_model(load_backbone(work.run.backbone).model, config).save_pretrained(str(tmp_path / "plain"))
    errors = shared_init_errors(starting_from(make_work, tmp_path / "plain").run)
    assert len(errors) == 1
    assert "in the first 1 layers (the trunk)" in errors[0]


def test_init_loads_no_weight_of_the_backbone_to_check(
    make_work: Make, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("loaded")

    run = starting_from(make_work, source).run
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", refuse)
    assert load_shared_init(run) is not None


def test_init_refuses_an_expert_on_top_of_a_shared_one_and_one_inside_a_mixture(
    make_work: Make, tmp_path: Path
) -> None:
    work = make_work("source", shared={"r": 2}, stages=STAGES | {"expert": {"steps": 2, "lr": 0.01}})
    train_shared(work)
    train_domain(work, "news")
    with pytest.raises(Fault, match="trained on top of the shared expert"):
        read_trained_expert(str(work.expert_folder("news")))
    save_random_mixture(tmp_path / "mixture", load_backbone(work.run.backbone), work, shared=True)
    with pytest.raises(Fault, match="Give the mixture's folder"):
        read_trained_expert(str(tmp_path / "mixture" / "experts" / "news"))


def test_init_refuses_a_mixture_without_shared_expert_a_changed_folder_and_no_folder(
    make_work: Make, source: Path, tmp_path: Path
) -> None:
    work = make_work()
    save_random_mixture(tmp_path / "mixture", load_backbone(work.run.backbone), work)
    with pytest.raises(Fault, match="a mixture with a shared expert"):
        read_trained_expert(str(tmp_path / "mixture"))
    changed = shutil.copytree(source, tmp_path / "changed")
    (changed / "heads.safetensors").write_bytes(b"")
    with pytest.raises(Fault, match=r"heads\.safetensors"):
        read_trained_expert(str(changed))
    with pytest.raises(Fault, match="or a hub id"):
        read_trained_expert(str(tmp_path / "none"))


def test_init_from_the_hub_is_downloaded_and_checked(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = []

    def download(name: str, **options: object) -> str:
        requests.append(name)
        return str(source)

    monkeypatch.setattr(shared_init, "snapshot_download", download)
    assert read_trained_expert("owner/name").origin.source == "owner/name"
    assert requests == ["owner/name"]


def test_init_from_the_hub_offline_is_a_fault() -> None:
    with pytest.raises(Fault, match="go online once"):
        read_trained_expert("finmoe-test/does-not-exist")


def test_init_ready_is_the_shipped_mixture(make_work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work()
    save_random_mixture(tmp_path / "mixture", load_backbone(work.run.backbone), work, shared=True)
    monkeypatch.setattr(shared_init, "ready_folder", lambda: tmp_path / "mixture")
    assert read_trained_expert("ready").expert.path == tmp_path / "mixture" / "experts" / "shared"
