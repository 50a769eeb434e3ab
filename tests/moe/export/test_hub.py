"""Claims about folders for the hub: a whole mixture, a card that the hub's own client reads, and what to heed."""

import shutil
from pathlib import Path

import pytest
from exports import opened
from huggingface_hub import ModelCard, metadata_load
from mixtures import TEXTS

from experts.atomic_io import read_json, sha256_of, write_json, write_text
from experts.errors import Fault
from experts.expert_io import BackboneId
from moe.checkpoints.mixture import read_mixture, write_mixture
from moe.export.hub import SHIPPED_ON_HUB, hub_name, public_name, write_hub_folder
from moe.inference.calibration import TaskCalibration, write_calibration
from moe.inference.loading import ModelLoader
from moe.inference.stream import predict_texts
from moe.integrity import verify
from moe.synthetic import write_sample

FIGURES = {"accuracy": 0.875, "macro_f1": 0.8604651}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated mixture whose run was evaluated on test rows."""
    made = opened(tmp_path_factory.mktemp("hub"), shared=True).folder
    write_calibration(made, {"news": TaskCalibration(temperature=1.5, rows=40)})
    report = {"routing_mode": "soft", "tasks": {"news": FIGURES, "forum": FIGURES}}
    write_json(made.parent / "evaluation" / made.name / "metrics.json", report)
    return made


@pytest.fixture(scope="module")
def out(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder for the hub."""
    target = tmp_path_factory.mktemp("out") / "hub"
    write_hub_folder(target, folder, "apache-2.0", overwrite=False)
    return target


def test_the_hub_s_own_client_reads_the_card(out: Path) -> None:
    meta = metadata_load(out / "README.md")
    assert meta is not None
    assert (meta["license"], meta["library_name"]) == ("apache-2.0", "finmoe")
    assert meta["pipeline_tag"] == "text-classification"
    card = ModelCard.load(out / "README.md")
    told = {(one.dataset_name, one.metric_type): one.metric_value for one in card.data.eval_results or ()}
    assert told == {(task, kind): value for task in ("news", "forum") for kind, value in NAMED.items()}
    assert all(one.dataset_split == "test" for one in card.data.eval_results or ())


NAMED = {"accuracy": 0.875, "f1": 0.8605}


def test_the_card_tells_experts_limits_and_no_text(out: Path) -> None:
    text = (out / "README.md").read_text(encoding="utf-8")
    for said in (
        "| news | news | negative, neutral, positive |",
        "nothing that it says is advice",
        "moe infer --model",
    ):
        assert said in text
    assert "{{" not in text
    assert "{%" not in text
    assert "apache-2.0" in (out / "LICENSE").read_text(encoding="utf-8")


def test_it_is_a_whole_mixture_that_answers_as_the_one_it_was_made_of(folder: Path, out: Path) -> None:
    assert not verify(out)["faults"]
    ours, theirs = (predict_texts(TEXTS, ModelLoader(one).load()) for one in (folder, out))
    assert [one.probabilities.tolist() for one in ours] == [one.probabilities.tolist() for one in theirs]
    assert ModelLoader(out).load().calibration is not None


def test_without_licence_or_evaluation_it_says_what_to_look_at(folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / folder.name
    alone.mkdir()
    for path in folder.rglob("*"):
        if path.is_file():
            (alone / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (alone / path.relative_to(folder)).write_bytes(path.read_bytes())
    found = write_hub_folder(tmp_path / "hub", alone, None, overwrite=False)
    assert found["figures"] == {"count": 0, "of": "none"}
    told = " ".join(found["remarks"])
    for said in ("no licence is said", "is a folder here", "moe evaluate"):
        assert said in told
    assert metadata_load(tmp_path / "hub" / "README.md")["license"] == "other"  # type: ignore[index]
    assert str(tmp_path) not in (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")


def test_an_evaluation_older_than_the_model_or_pinned_is_not_told(folder: Path, tmp_path: Path) -> None:
    path = folder.parent / "evaluation" / folder.name / "metrics.json"
    before = path.read_text(encoding="utf-8")
    try:
        write_json(path, read_json(path) | {"routing_mode": "pinned"})
        assert write_hub_folder(tmp_path / "pinned", folder, None, overwrite=False)["figures"]["of"] != "test"
    finally:
        write_text(path, before)


def test_figures_of_made_up_rows_are_not_told(folder: Path, tmp_path: Path) -> None:
    card = read_json(folder / "mixture.json")
    assert card["data_sha256"] == {}
    sample = write_sample(folder.parent / "sample", rows=30, seed=1, domains=["news"])[0]
    again = tmp_path / "run" / "moe-joint"
    model, own = read_mixture(folder)
    write_mixture(again, model, own.model_copy(update={"data_sha256": {"news": sha256_of(sample)}}), "", {})
    shutil.copytree(folder.parent / "sample", again.parent / "sample")
    shutil.copytree(folder.parent / "evaluation", again.parent / "evaluation")
    (again.parent / "evaluation" / again.name / "metrics.json").touch()
    found = write_hub_folder(tmp_path / "hub", again, None, overwrite=False)
    assert found["figures"]["count"] == 0
    assert "made up" in " ".join(found["remarks"])
    assert "model-index" not in metadata_load(tmp_path / "hub" / "README.md")  # type: ignore[operator]


def test_one_expert_alone_and_a_folder_that_is_there_are_refused(folder: Path, out: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "expert" / "expert.json", {})
    with pytest.raises(Fault, match="--to peft"):
        write_hub_folder(tmp_path / "new", tmp_path / "expert", None, overwrite=False)
    with pytest.raises(Fault, match="--overwrite"):
        write_hub_folder(out, folder, None, overwrite=False)


def test_names_on_the_hub() -> None:
    shipped = BackboneId(name="default", sha256="0")
    assert hub_name(shipped) == public_name(shipped) == SHIPPED_ON_HUB
    assert hub_name(BackboneId(name="/data/models/roberta", sha256="0")) is None
    assert hub_name(BackboneId(name="FacebookAI/roberta-base", revision="abc", sha256="0")) == "FacebookAI/roberta-base"
