"""Tests that an adapter with a setting that is not computed is refused on every way into a mixture."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Make, tiny_backbone
from mixtures import save_random_mixture
from peft import LoraConfig, get_peft_model

from experts.atomic_io import write_manifest
from experts.errors import Fault
from experts.expert_io import read_expert
from moe.checkpoints.mixture import read_mixture
from moe.integrity import verify
from moe.membership.update import UpdateTarget, add, swap
from moe.model.backbone import load_backbone
from moe.runs.shared_init import load_shared_init
from moe.runs.workspace import Workspace
from moe.training.steps import merge_experts

REPLICATED = {"layer_replication": [[0, 2], [1, 2]]}
ACTIVATED = {"alora_invocation_tokens": [5, 6]}


def change_config(folder: Path, **settings: object) -> Path:
    """Change settings of the adapter in a folder."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings), encoding="utf-8")
    return folder


def odd_adapter(folder: Path, **settings: object) -> Path:
    """Save a PEFT adapter whose config also has these settings."""
    config = LoraConfig(r=4, target_modules=["query", "value"], layers_to_transform=[1], init_lora_weights=False)
    get_peft_model(tiny_backbone(), config).save_pretrained(str(folder))
    return change_config(folder, **settings)


def save_mixture(work: Workspace) -> Path:
    """Save a mixture of news and forum in the run's folder."""
    return save_random_mixture(work.out / "mixture", load_backbone(work.run.backbone), work)


def read_changed_mixture(folder: Path, work: Workspace) -> None:
    """Read a mixture in which an expert's config was changed together with the manifest."""
    mixture = save_mixture(work)
    change_config(mixture / "experts" / "news", **json.loads((folder / "adapter_config.json").read_text()))
    write_manifest(mixture)
    assert verify(mixture).faults
    read_mixture(mixture)


WAYS: dict[str, Callable[[Path, Workspace], object]] = {
    "read": lambda folder, work: read_expert(folder),
    "merge": lambda folder, work: merge_experts(work, [folder]),
    "add": lambda folder, work: add(save_mixture(work), folder, work.run, UpdateTarget(work.out / "new")),
    "swap": lambda folder, work: swap(save_mixture(work), "forum", folder, UpdateTarget(work.out / "new")),
    "warm start": lambda folder, work: load_shared_init(work.run),
    "mixture": read_changed_mixture,
}


@pytest.mark.parametrize("settings", [REPLICATED, ACTIVATED], ids=lambda settings: next(iter(settings)))
@pytest.mark.parametrize("way", WAYS)
def test_adapter_with_a_setting_that_is_not_computed_is_refused(
    way: str, settings: dict[str, object], make_work: Make, tmp_path: Path
) -> None:
    folder = odd_adapter(tmp_path / "forum", **settings)
    work = make_work(shared={"init": str(folder)} if way == "warm start" else None)
    with pytest.raises(Fault, match=next(iter(settings))):
        WAYS[way](folder, work)
    assert not (work.out / "new").exists()
    assert verify(folder).faults
