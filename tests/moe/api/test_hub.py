"""Tests of models on the Hub: what one call uploads, another one downloads and predicts with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Make
from hub_stand_in import Hub, running_hub
from mixtures import save_random_mixture

from moe import Fault, FinMoEModel
from moe.model.backbone import load_backbone

TEXTS = ["profit rose", "moon bags fell again"]


@pytest.fixture
def folder(make_work: Make) -> Path:
    """Folder of a mixture of random experts."""
    work = make_work()
    return save_random_mixture(work.out / "moe-joint", load_backbone(work.run.backbone), work)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A stand-in of the Hub to which huggingface_hub's calls go."""
    with running_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hub.url)
        yield hub


def test_pushed_model_is_downloaded_and_predicts_the_same(folder: Path, hub: Hub, tmp_path: Path) -> None:
    model = FinMoEModel.from_pretrained(folder)
    commit = model.push_to_hub("owner/sentiment", private=True, token="secret", license="mit")
    assert commit.oid == "c" * 40
    assert (hub.private["owner/sentiment"], hub.tokens) == (True, {"Bearer secret"})
    files = hub.files["owner/sentiment"]
    assert {"mixture.json", "config.json", "tokenizer.json", "README.md", "manifest.json"} <= files.keys()
    assert b"license: mit" in files["README.md"]
    downloaded = FinMoEModel.from_pretrained("owner/sentiment", token="secret", cache_dir=tmp_path / "cache")
    assert downloaded.folder.is_relative_to(tmp_path / "cache")
    assert downloaded.answers(TEXTS) == model.answers(TEXTS)


def test_unknown_model_on_the_hub_is_refused_with_its_name(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(Fault, match="'owner/nothing'"):
        FinMoEModel.from_pretrained("owner/nothing", cache_dir=tmp_path)


def test_revision_of_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(Fault, match="Remove revision"):
        FinMoEModel.from_pretrained(folder, revision="main")
