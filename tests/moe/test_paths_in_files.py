"""Tests that saved experts, mixtures and exports name no folder of the machine that wrote them."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Make

from experts.cards import without_folders
from moe.export.export import ExportRequest, export
from moe.model.backbone_files import SHIPPED
from moe.training.expert_steps import train_domain, train_shared
from moe.training.steps import merge_experts

STEP = {"batch_size": 4, "evals": 1, "steps": 1}
OWN_SETTINGS = ("  name: ", "  folder: ", '"name": ')
"""What `config.yaml` and the cards of a run folder contain as the user gave it: the backbone and the data folder."""
BACKBONE_KEYS = {"peft": (), "dense": (), "graph": ("backbone",), "hub-folder": ("name", "backbone")}
"""Keys in the files of an export by which FinMoE finds a backbone in a local folder."""


@pytest.fixture
def mixture(make_work: Make) -> Path:
    """A trained mixture with a shared expert on a backbone in a local folder, in a run's folder."""
    work = make_work(shared={"r": 2, "alpha": 4}, stages=dict.fromkeys(("shared", "expert"), STEP))
    train_shared(work)
    for name in ("news", "forum"):
        train_domain(work, name)
    return merge_experts(work)


def lines_with_folders(folder: Path, root: Path) -> Iterator[tuple[str, str]]:
    """Yield file and line of every mention of a folder of this machine, in all files of a folder."""
    forbidden = {str(root), str(Path.home()), sys.prefix, str(Path(__file__).parent), "site-packages"} - {"/"}
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        for line in path.read_bytes().splitlines():
            if any(name.encode() in line for name in forbidden):
                yield path.relative_to(folder).as_posix(), line.decode(errors="replace")[:300]


def root_of(path: Path) -> Path:
    """Return the folder of all temporary files of the tests."""
    return next(parent for parent in path.parents if parent.name.startswith("pytest-"))


def test_trained_folders_name_the_machines_folders_only_in_the_users_own_settings(mixture: Path) -> None:
    for folder in (mixture, *(mixture.parent / "experts").iterdir()):
        for name, line in lines_with_folders(folder, root_of(mixture)):
            assert name in ("config.yaml", "expert.json", "mixture.json"), (name, line)
            assert line.lstrip(" ").startswith(tuple(key.lstrip(" ") for key in OWN_SETTINGS)), (name, line)
        config = json.loads(next(folder.rglob("adapter_config.json")).read_text(encoding="utf-8"))
        assert "/" not in config["base_model_name_or_path"]


@pytest.mark.parametrize("target", ["peft", "dense", "graph", "hub-folder"])
def test_exports_name_no_folder_of_the_machine(target: str, mixture: Path) -> None:
    out = mixture.parent / "exported"
    export(ExportRequest(mixture, target, None if target == "graph" else out, ("news",) if target == "dense" else ()))
    for name, line in lines_with_folders(mixture / "graph" if target == "graph" else out, root_of(mixture)):
        assert line.split(": ")[0].strip(' "') in BACKBONE_KEYS[target], (name, line)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/someone/models/bert", "bert"),
        ("/home/someone/models/bert/", "bert"),
        ("~/models/bert", "bert"),
        (r"C:\Users\someone\bert", "bert"),
        (r"\\server\models\bert", "bert"),
        (
            "/home/someone/.cache/huggingface/hub/models--FacebookAI--roberta-base/snapshots/1a2b",
            "FacebookAI/roberta-base",
        ),
        ("FacebookAI/roberta-base", "FacebookAI/roberta-base"),
        ("models/bert", "models/bert"),
        (SHIPPED, SHIPPED),
        ("/", ""),
    ],
)
def test_path_is_shortened_to_a_name(path: str, name: str) -> None:
    assert without_folders(path) == name
