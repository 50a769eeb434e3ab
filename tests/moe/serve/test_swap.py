"""Tests of model reloads: the new model takes over between two batches, completely or not at all."""

import shutil
import threading
from pathlib import Path
from typing import Any, cast

import pytest
from corpora import save_language_model
from mixtures import save_random_lm_mixture
from serving import build_manager, copy_with_other_expert, service_client, write_mixture
from starlette.testclient import TestClient

from experts.errors import Fault
from moe.serve.app import build_app
from moe.serve.model_loader import load_served_model

TEXTS = ["profit rose today", "moon bags fell again", "rates"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_mixture(tmp_path)


def replace_folder(new: Path, folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(new, folder)


def predict(client: TestClient) -> dict[str, Any]:
    response = client.post("/v1/predict", json={"texts": TEXTS})
    assert response.status_code == 200, response.text
    return cast(dict[str, Any], response.json())


def test_reload_switches_to_the_new_expert(folder: Path, tmp_path: Path) -> None:
    new = copy_with_other_expert(folder, tmp_path / "new")
    with service_client(new) as client:
        expected = predict(client)
    with service_client(folder) as client:
        before = predict(client)
        replace_folder(new, folder)
        assert predict(client) == before
        response = client.post("/v1/admin/reload")
        assert response.json() == {"before": before["model"], "now": expected["model"]}
        assert predict(client) == expected != before
        assert client.get("/v1/model").json()["sha256"] == expected["model"]
        assert 'moe_swaps_total{outcome="done"} 1.0' in client.get("/metrics").text


@pytest.mark.parametrize("damage", ["gone", "cut", "changed", "not finite", "a language model's"])
def test_reload_of_a_damaged_model_is_rejected_and_the_old_one_stays(folder: Path, tmp_path: Path, damage: str) -> None:
    with service_client(folder) as client:
        before = predict(client)
        if damage == "gone":
            shutil.rmtree(folder)
        elif damage == "cut":
            (folder / "router.safetensors").write_bytes((folder / "router.safetensors").read_bytes()[:-4])
        elif damage == "changed":
            (folder / "mixture.json").write_text((folder / "mixture.json").read_text() + " ")
        elif damage == "not finite":
            replace_folder(copy_with_other_expert(folder, tmp_path / "new", float("nan")), folder)
        else:
            replace_folder(
                save_random_lm_mixture(tmp_path / "team", save_language_model(tmp_path / "llama", "llama")), folder
            )
        response = client.post("/v1/admin/reload")
        assert response.status_code == 409
        assert response.json()["error"]["remedy"]
        assert predict(client) == before
        assert client.get("/readyz").status_code == 200
        assert 'moe_swaps_total{outcome="refused"} 1.0' in client.get("/metrics").text


def test_reload_under_load_answers_every_request_with_the_old_or_new_model(folder: Path, tmp_path: Path) -> None:
    new = copy_with_other_expert(folder, tmp_path / "new")
    with service_client(new) as client:
        expected = {"new": predict(client)}
    with service_client(folder, max_wait_ms=0) as client:
        expected["old"] = predict(client)
        answers_by_model = {body["model"]: body["answers"] for body in expected.values()}
        bodies: list[dict[str, Any]] = []
        finished = threading.Event()

        def send_requests() -> None:
            while not finished.is_set():
                bodies.append(predict(client))

        threads = [threading.Thread(target=send_requests) for _ in range(4)]
        for thread in threads:
            thread.start()
        replace_folder(new, folder)
        assert client.post("/v1/admin/reload").status_code == 200
        count = len(bodies)
        while len(bodies) < count + 8:
            finished.wait(0.01)
        finished.set()
        for thread in threads:
            thread.join()
    assert {body["model"] for body in bodies} == answers_by_model.keys()
    for body in bodies:
        for row, other in zip(body["answers"], answers_by_model[body["model"]], strict=True):
            assert row["label"] == other["label"]
            assert row["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)


def test_run_folder_is_served_by_its_best_mixture_and_other_folders_are_rejected(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder, run / "moe-joint")
    assert load_served_model(run).info["name"] == "moe-joint"
    (tmp_path / "other" / "experts").mkdir(parents=True)
    for name, message in (("nothing", "the folder of a model or a run"), ("other", "a mixture in")):
        with pytest.raises(Fault, match=message):
            load_served_model(tmp_path / name)


def test_service_that_is_shutting_down_takes_no_new_requests(folder: Path) -> None:
    manager = build_manager(folder)
    with TestClient(build_app(manager), base_url="http://localhost") as client:
        manager.draining = True
        for response in (client.get("/readyz"), client.post("/v1/predict", json={"texts": "a"})):
            assert (response.status_code, response.headers["connection"]) == (503, "close")
        assert client.get("/healthz").status_code == 200
