"""Tests of damaged models: what verify refuses nothing answers with, and an output that is not finite is an error."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from serving import build_manager, classifier, write_mixture
from starlette.testclient import TestClient
from typer.testing import CliRunner

from experts.atomic_io import read_json, sha256_of, write_json, write_manifest
from experts.errors import Fault
from experts.json_io import to_json
from moe.api.model import FinMoEModel
from moe.commands.main import app
from moe.export.graph import write_graph
from moe.inference.calibration import TaskCalibration, write_calibration
from moe.inference.finite import NonFiniteScores
from moe.inference.graph.spec import GRAPH_FILES
from moe.inference.load import LoadOptions, load
from moe.inference.predictor import Predictor
from moe.inference.stream import predict_rows
from moe.inference.windows import Scores
from moe.integrity import verify
from moe.membership.update import UpdateTarget, remove
from moe.runs.model_ref import resolve
from moe.serve.app import build_app
from moe.serve.model_loader import load_served_model

TEXTS = ["profit rose today", "moon bags fell again", "rates"]
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny mixture with its graph."""
    folder = write_mixture(tmp_path_factory.mktemp("finite"))
    write_graph(folder)
    return folder


@pytest.fixture
def folder(intact: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(intact, tmp_path / "mixture"))


def corrupt(predictor: Predictor, row: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one output of a text NaN."""
    score = predictor.score

    def with_nan(*args: Any, **options: Any) -> Scores:
        scores = score(*args, **options)
        if len(scores.routing_weights) <= row:
            return scores
        if name == "logits":
            logits = {head: values.copy() for head, values in scores.logits.items()}
            for values in logits.values():
                values[row, 0] = np.nan
            return replace(scores, logits=logits)
        values = getattr(scores, name).copy()
        values[row] = np.inf
        return replace(scores, **{name: values})

    monkeypatch.setattr(predictor, "score", with_nan)


@pytest.mark.parametrize("name", ["logits", "routing_weights", "polarity"])
def test_text_without_a_finite_output_is_an_error_row_and_the_others_are_answered(
    intact: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = load(resolve(intact), LoadOptions(runtime="torch"))
    expected = list(predict_rows(({"text": text} for text in TEXTS), predictor))
    corrupt(predictor, 1, name, monkeypatch)
    rows = list(predict_rows(({"text": text} for text in TEXTS), predictor))
    assert [rows[0], rows[2]] == [expected[0], expected[2]]
    assert rows[1].keys() == {"text", "error"}
    assert "NaN or infinity" in rows[1]["error"]
    assert "NaN," not in json.dumps(rows)
    with pytest.raises(NonFiniteScores):
        FinMoEModel(predictor, intact).predict(TEXTS)


def test_service_answers_a_text_without_a_finite_output_with_an_error_and_others_as_before(
    intact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = build_manager(intact)
    corrupt(classifier(manager).predictor, 1, "logits", monkeypatch)
    with TestClient(build_app(manager), base_url="http://localhost") as client:
        response = client.post("/v1/predict", json={"texts": TEXTS})
        assert response.status_code == 409
        assert "finite output" in response.json()["error"]["expected"]
        assert "moon" not in response.text
        assert client.post("/v1/predict", json={"texts": TEXTS[:1]}).status_code == 200


def non_finite(name: str, value: float) -> Damage:
    """Put NaN or infinity into the weights of a file, with the right hash."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / name)
        next(iter(tensors.values())).view(-1)[0] = value
        save_file(tensors, folder / name)
        write_manifest(folder, unlisted=GRAPH_FILES)

    return damage


def partial_manifest(*missing: str) -> Damage:
    """Remove files from the manifest; without names, all."""

    def damage(folder: Path) -> None:
        hashes = read_json(folder / "manifest.json")["sha256"]
        listed = {name: sha256 for name, sha256 in hashes.items() if missing and name not in missing}
        write_json(folder / "manifest.json", {"sha256": listed})

    return damage


DAMAGES = {
    "empty manifest": partial_manifest(),
    "router unlisted": partial_manifest("router.safetensors"),
    "card unlisted": partial_manifest("mixture.json"),
    "adapter unlisted": partial_manifest("experts/news/adapter_model.safetensors"),
    "adapter config unlisted": partial_manifest("experts/forum/adapter_config.json"),
    "config unlisted": partial_manifest("config.yaml"),
    "NaN in heads": non_finite("heads.safetensors", torch.nan),
    "infinity in router": non_finite("router.safetensors", torch.inf),
    "NaN in adapter": non_finite("experts/news/adapter_model.safetensors", torch.nan),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("graph", [True, False], ids=["graph", "torch"])
def test_what_verify_refuses_nothing_answers_with(folder: Path, damage: Damage, graph: bool) -> None:
    """The graph is of the same weights, so that only the checks of the folder can refuse it."""
    damage(folder)
    if graph:
        spec = read_json(folder / "graph" / "graph.json")
        hashes = {name: sha256_of(folder / name) for name in spec["files"]}
        write_json(
            folder / "graph" / "graph.json",
            spec | {"manifest_sha256": sha256_of(folder / "manifest.json"), "files": hashes},
        )
        write_manifest(folder / "graph")
    assert verify(folder).faults
    with pytest.raises(Fault, match=r"manifest\.json|finite weights"):
        load(resolve(folder), LoadOptions(runtime="onnx" if graph else "torch"))
    with pytest.raises(Fault, match=r"manifest\.json|finite weights"):
        FinMoEModel.load(folder)
    with pytest.raises(Fault, match=r"manifest\.json|finite weights"):
        load_served_model(folder)
    if not graph:
        with pytest.raises(Fault, match=r"manifest\.json|finite weights"):
            remove(folder, "news", UpdateTarget(folder.parent / "smaller"))
        result = CliRunner().invoke(app, ["infer", "--model", str(folder), TEXTS[0]])
        assert isinstance(result.exception, Fault)
        assert result.stdout == ""


def test_changed_calibration_is_refused_by_verify_and_by_predictions(folder: Path) -> None:
    write_calibration(folder, {"news": TaskCalibration(temperature=2.5, rows=100)})
    path = folder / "calibration.json"
    path.write_text(path.read_text().replace("2.5", "7.5"))
    assert "a changed file" in json.dumps(to_json(verify(folder)))
    with pytest.raises(Fault, match="a changed file"):
        load(resolve(folder))
