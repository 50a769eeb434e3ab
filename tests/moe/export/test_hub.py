"""Tests of folders for the Hugging Face Hub: intact mixture, model card, license, remarks."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from exports import save_and_load_mixture
from huggingface_hub import ModelCard, metadata_load
from mixtures import TEXTS

from experts.atomic_io import read_json, sha256_of, write_json, write_text
from experts.errors import Fault
from experts.expert_io import BackboneId
from moe.checkpoints.mixture import read_card, read_mixture, write_mixture
from moe.checkpoints.mixture_card import RoutingDecision, RoutingFigures
from moe.export.graph import write_graph
from moe.export.hub import MetricCount, _card_metrics, hub_name, write_hub_folder
from moe.inference.calibration import TaskCalibration, write_calibration
from moe.inference.graph.onnx_predictor import OnnxPredictor
from moe.inference.load import load
from moe.inference.stream import predict_texts
from moe.integrity import verify
from moe.model.backbone_files import SHIPPED_ON_HUB, public_name
from moe.runs.model_ref import resolve
from moe.synthetic import write_sample

MEASURED = {"accuracy": 0.875, "macro_f1": 0.8604651}
ON_CARD = {"accuracy": 0.875, "f1": 0.8605}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated mixture whose run was evaluated on test rows."""
    mixture = save_and_load_mixture(tmp_path_factory.mktemp("hub"), shared=True).folder
    write_calibration(mixture, {"news": TaskCalibration(temperature=1.5, rows=40)})
    report = {"routing_mode": "soft", "tasks": {"news": MEASURED, "forum": MEASURED}}
    write_json(mixture.parent / "evaluation" / mixture.name / "metrics.json", report)
    return mixture


@pytest.fixture(scope="module")
def out(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for the Hub that is written from it."""
    target = tmp_path_factory.mktemp("out") / "hub"
    write_hub_folder(target, folder, "apache-2.0", overwrite=False)
    return target


def test_hub_client_reads_license_and_metrics_of_the_card(out: Path) -> None:
    metadata = metadata_load(out / "README.md")
    assert metadata is not None
    assert (metadata["license"], metadata["library_name"]) == ("apache-2.0", "finmoe")
    assert metadata["pipeline_tag"] == "text-classification"
    results = ModelCard.load(out / "README.md").data.eval_results or ()
    values = {(result.dataset_name, result.metric_type): result.metric_value for result in results}
    assert values == {(task, kind): value for task in ("news", "forum") for kind, value in ON_CARD.items()}
    assert all(result.dataset_split == "test" for result in results)


def test_card_lists_experts_and_limits_and_the_folder_has_a_license(out: Path) -> None:
    text = (out / "README.md").read_text(encoding="utf-8")
    for part in ("| news | news | negative, neutral, positive |", "its output is no advice", "moe infer --model"):
        assert part in text
    assert "{{" not in text
    assert "{%" not in text
    assert "apache-2.0" in (out / "LICENSE").read_text(encoding="utf-8")


def test_hub_folder_is_an_intact_mixture_with_the_same_predictions(folder: Path, out: Path) -> None:
    assert not verify(out).faults
    original, copied = (predict_texts(TEXTS, load(resolve(path))) for path in (folder, out))
    assert [row.probabilities.tolist() for row in original] == [row.probabilities.tolist() for row in copied]
    assert load(resolve(out)).calibration is not None


def card_metadata(folder: Path) -> dict[str, Any]:
    """Return the metadata at the head of a folder's model card."""
    metadata = metadata_load(folder / "README.md")
    assert metadata is not None
    return metadata


def test_remarks_name_missing_license_local_backbone_and_missing_evaluation(folder: Path, tmp_path: Path) -> None:
    without_run = tmp_path / folder.name
    without_run.mkdir()
    for path in folder.rglob("*"):
        if path.is_file():
            (without_run / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (without_run / path.relative_to(folder)).write_bytes(path.read_bytes())
    report = write_hub_folder(tmp_path / "hub", without_run, None, overwrite=False)
    assert report.figures == MetricCount(0, of="none")
    remarks = " ".join(report.remarks)
    for part in ("no license was given", "is a local folder", "moe evaluate"):
        assert part in remarks
    assert card_metadata(tmp_path / "hub")["license"] == "other"
    assert str(tmp_path) not in (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")


def test_card_has_metrics_of_the_routing_that_its_users_get(folder: Path) -> None:
    card = read_card(folder)
    figures = RoutingFigures(macro_f1=0.8, log_loss=0.5, ece=0.05, skipped=0.5)
    hard = RoutingDecision(choice="hard", prune=0.02, rows=9, figures={"soft": figures, "hard": figures})
    assert card.routing is None
    assert _card_metrics(folder, card)[1] == "test"
    assert _card_metrics(folder, card.model_copy(update={"routing": hard}))[1] != "test", "the evaluation is soft"


def test_pinned_evaluation_is_not_on_the_card(folder: Path, tmp_path: Path) -> None:
    path = folder.parent / "evaluation" / folder.name / "metrics.json"
    before = path.read_text(encoding="utf-8")
    try:
        write_json(path, read_json(path) | {"routing_mode": "pinned"})
        assert write_hub_folder(tmp_path / "pinned", folder, None, overwrite=False).figures.of != "test"
    finally:
        write_text(path, before)


def test_metrics_on_synthetic_rows_are_not_on_the_card(folder: Path, tmp_path: Path) -> None:
    assert read_json(folder / "mixture.json")["data_sha256"] == {}
    sample = write_sample(folder.parent / "sample", rows=30, seed=1, domains=["news"])[0]
    target = tmp_path / "run" / "moe-joint"
    model, card = read_mixture(folder)
    write_mixture(target, model, card.model_copy(update={"data_sha256": {"news": sha256_of(sample)}}), "", {})
    shutil.copytree(folder.parent / "sample", target.parent / "sample")
    shutil.copytree(folder.parent / "evaluation", target.parent / "evaluation")
    (target.parent / "evaluation" / target.name / "metrics.json").touch()
    report = write_hub_folder(tmp_path / "hub", target, None, overwrite=False)
    assert report.figures.count == 0
    assert "synthetic" in " ".join(report.remarks)
    assert "model-index" not in card_metadata(tmp_path / "hub")


def test_hub_export_rejects_a_single_expert_and_an_existing_folder(folder: Path, out: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "expert" / "expert.json", {})
    with pytest.raises(Fault, match="--to peft"):
        write_hub_folder(tmp_path / "new", tmp_path / "expert", None, overwrite=False)
    with pytest.raises(Fault, match="--overwrite"):
        write_hub_folder(out, folder, None, overwrite=False)


def test_hub_name_exists_for_shipped_and_hub_backbones_only() -> None:
    shipped = BackboneId(name="default", sha256="0")
    assert hub_name(shipped) == public_name(shipped.name) == SHIPPED_ON_HUB
    assert hub_name(BackboneId(name="/data/models/roberta", sha256="0")) is None
    assert hub_name(BackboneId(name="FacebookAI/roberta-base", revision="abc", sha256="0")) == "FacebookAI/roberta-base"


def test_hub_folder_has_the_graph_of_the_model_unless_it_is_stale(folder: Path, tmp_path: Path) -> None:
    original = tmp_path / "original"
    shutil.copytree(folder, original)
    write_graph(original)
    write_hub_folder(tmp_path / "hub", original, "mit", overwrite=False)
    assert (verify(tmp_path / "hub").folders[0].remarks, verify(tmp_path / "hub").faults) == ([], 0)
    assert isinstance(load(resolve(tmp_path / "hub")), OnnxPredictor)
    (original / "graph" / "model.onnx").write_bytes(b"changed")
    write_hub_folder(tmp_path / "hub", original, "mit", overwrite=True)
    assert not (tmp_path / "hub" / "graph").exists()
