"""Claims about another model in the place of the one that answers: between two batches, whole, or not at all."""

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import made_up_rows, save_backbone, tiny_run, write_csv
from corpora import save_model
from mixtures import written, written_team
from serving import client, make_service
from starlette.testclient import TestClient

from experts.atomic_io import write_manifest
from experts.errors import Fault
from experts.safetensors_io import load_tensors, save_tensors
from moe.model.backbone import load_backbone
from moe.runs.workspace import Workspace
from moe.serve.app import build_app
from moe.serve.model_loader import ModelLocation, load_served_model

TEXTS = ["profit rose today", "moon bags fell again", "rates"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("news", "forum"):
        write_csv(tmp_path / "data" / f"{name}.csv", made_up_rows(name))
    run = tiny_run(save_backbone(tmp_path / "bert"), tmp_path / "data")
    return written(tmp_path / "mixture", load_backbone(run.backbone), Workspace(run, tmp_path / "run"))


def with_another_expert(folder: Path, place: Path, value: float = 0.0) -> Path:
    """A copy whose expert `news` has other weights."""
    shutil.copytree(folder, place)
    weights = place / "experts" / "news" / "adapter_model.safetensors"
    tensors = {name: torch.full_like(one, value) for name, one in load_tensors(weights).items()}
    weights.unlink()
    save_tensors(weights, tensors)
    write_manifest(place)
    return place


def put_there(new: Path, folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(new, folder)


def predict(asking: TestClient) -> dict[str, Any]:
    got = asking.post("/v1/predict", json={"texts": TEXTS})
    assert got.status_code == 200, got.text
    return got.json()  # type: ignore[no-any-return]


def test_another_expert_answers_after_a_reload(folder: Path, tmp_path: Path) -> None:
    new = with_another_expert(folder, tmp_path / "new")
    with client(new) as asking:
        expected = predict(asking)
    with client(folder) as asking:
        before = predict(asking)
        put_there(new, folder)
        assert predict(asking) == before
        swapped = asking.post("/v1/admin/reload")
        assert swapped.json() == {"before": before["model"], "now": expected["model"]}
        assert predict(asking) == expected != before
        assert asking.get("/v1/model").json()["sha256"] == expected["model"]
        assert 'moe_swaps_total{outcome="done"} 1.0' in asking.get("/metrics").text


@pytest.mark.parametrize("wrong", ["gone", "cut", "changed", "not finite", "a language model's"])
def test_what_does_not_verify_is_refused_and_the_old_one_goes_on(folder: Path, tmp_path: Path, wrong: str) -> None:
    with client(folder) as asking:
        before = predict(asking)
        if wrong == "gone":
            shutil.rmtree(folder)
        elif wrong == "cut":
            (folder / "router.safetensors").write_bytes((folder / "router.safetensors").read_bytes()[:-4])
        elif wrong == "changed":
            (folder / "mixture.json").write_text((folder / "mixture.json").read_text() + " ")
        elif wrong == "not finite":
            put_there(with_another_expert(folder, tmp_path / "new", float("nan")), folder)
        else:
            put_there(written_team(tmp_path / "team", save_model(tmp_path / "llama", "llama")), folder)
        refused = asking.post("/v1/admin/reload")
        assert refused.status_code == 409
        assert refused.json()["error"]["remedy"]
        assert predict(asking) == before
        assert asking.get("/readyz").status_code == 200
        assert 'moe_swaps_total{outcome="refused"} 1.0' in asking.get("/metrics").text


def test_under_load_every_request_is_answered_by_the_old_model_or_the_new_one(folder: Path, tmp_path: Path) -> None:
    new = with_another_expert(folder, tmp_path / "new")
    with client(new) as asking:
        expected = {"new": predict(asking)}
    with client(folder, max_wait_ms=0) as asking:
        expected["old"] = predict(asking)
        by_model = {one["model"]: one["answers"] for one in expected.values()}
        found: list[dict[str, Any]] = []
        over = threading.Event()

        def ask() -> None:
            while not over.is_set():
                found.append(predict(asking))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for one in threads:
            one.start()
        put_there(new, folder)
        assert asking.post("/v1/admin/reload").status_code == 200
        count = len(found)
        while len(found) < count + 8:
            over.wait(0.01)
        over.set()
        for one in threads:
            one.join()
    assert {one["model"] for one in found} == by_model.keys()
    for one in found:
        for row, other in zip(one["answers"], by_model[one["model"]], strict=True):
            assert row["label"] == other["label"]
            assert row["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)


def test_a_run_is_served_by_its_best_and_what_is_none_is_refused(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder, run / "moe-joint")
    assert load_served_model(ModelLocation(run)).told["name"] == "moe-joint"
    (tmp_path / "other" / "experts").mkdir(parents=True)
    for nothing, told in (("nothing", "a model's or a run's folder"), ("other", "a mixture in")):
        with pytest.raises(Fault, match=told):
            load_served_model(ModelLocation(tmp_path / nothing))


def test_what_ends_takes_no_new_work(folder: Path) -> None:
    service = make_service(folder)
    with TestClient(build_app(service), base_url="http://localhost") as asking:
        service.draining = True
        for got in (asking.get("/readyz"), asking.post("/v1/predict", json={"texts": "a"})):
            assert (got.status_code, got.headers["connection"]) == (503, "close")
        assert asking.get("/healthz").status_code == 200
