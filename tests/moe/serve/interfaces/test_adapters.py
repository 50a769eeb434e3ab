"""Tests of models that are loaded at run time: who may, from where, when they are visible, and when they are gone."""

import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving import copy_with_other_expert, service_client, write_mixture
from starlette.testclient import TestClient

from moe.inference.load import LoadOptions
from moe.serve.app import build_app
from moe.serve.auth import generate_key
from moe.serve.hosted_model import ModelSource
from moe.serve.model_manager import ModelManager
from moe.serve.server import load_manager
from moe.serve.settings import ServeSettings

TEXTS = ["profit rose today", "moon bags fell again", "rates"]
KEY = generate_key()
KEYS = {"me": KEY["sha256"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the mixture `served/mixture`, and `models` with another one."""
    folder = tmp_path_factory.mktemp("models")
    mixture = write_mixture(folder / "served")
    copy_with_other_expert(mixture, folder / "models" / "team" / "other")
    copy_with_other_expert(mixture, folder / "models" / "broken", float("nan"))
    (folder / "models" / "empty").mkdir()
    (folder / "models" / "link").symlink_to(mixture)
    return folder


@contextmanager
def running(folder: Path, **settings: object) -> Iterator[tuple[TestClient, ModelManager]]:
    given = {"drain_s": 0.0, "keys": KEYS, "load_folder": folder / "models"} | settings
    sources = [ModelSource("first", folder / "served" / "mixture")]
    manager = load_manager(ServeSettings.model_validate(given), sources, LoadOptions(runtime="torch"))
    headers = {"authorization": f"Bearer {KEY['key']}"}
    with TestClient(build_app(manager), base_url="http://localhost", headers=headers) as client:
        yield client, manager


def load(client: TestClient, name: str = "new", path: str = "team/other", **fields: Any) -> Any:
    return client.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": path, **fields})


def unload(client: TestClient, name: str = "new") -> Any:
    return client.post("/v1/unload_lora_adapter", json={"lora_name": name})


def predict(client: TestClient, model: str) -> Any:
    return client.post("/v1/predict", json={"texts": TEXTS, "model": model})


def names(client: TestClient) -> list[str]:
    return [entry["id"] for entry in client.get("/v1/models").json()["data"]]


def test_loaded_model_answers_until_it_is_unloaded(folder: Path) -> None:
    with service_client(folder / "models" / "team" / "other") as client:
        expected = predict(client, "other").json()
    with running(folder) as (client, _):
        assert predict(client, "new").status_code == 404
        response = load(client)
        assert (response.status_code, response.text) == (200, "Success: LoRA adapter 'new' added successfully.")
        assert predict(client, "new").json() == expected
        assert names(client) == ["first", "new"]
        assert client.get("/v1/models").json()["data"][1]["at_run_time"]
        assert predict(client, "first").json() != expected
        assert unload(client).status_code == 200
        assert predict(client, "new").status_code == 404
        assert names(client) == ["first"]


def test_loaded_model_shares_the_backbone_and_is_freed_when_unloaded(folder: Path) -> None:
    with running(folder) as (client, manager):
        load(client)
        engines: list[Any] = [model.served.engine for model in manager.models.values()]
        first, new = ({p.data_ptr() for p in engine.predictor.model.backbone.parameters()} for engine in engines)
        assert len(first & new) > 20
        gone = weakref.ref(engines.pop())
        assert unload(client).status_code == 200
        assert gone() is None


def test_routes_are_off_without_a_key_or_a_folder_and_say_so(folder: Path) -> None:
    without: tuple[tuple[dict[str, Any], str], ...] = (
        ({"keys": {}}, "--new-key"),
        ({"load_folder": None}, "load_folder"),
    )
    for settings, remedy in without:
        with running(folder, **settings) as (client, _):
            for response in (load(client), unload(client)):
                assert response.status_code == 403
                assert remedy in response.json()["error"]["remedy"]
            assert names(client) == ["first"]


def test_routes_need_a_valid_key(folder: Path) -> None:
    with running(folder) as (client, _):
        client.headers["authorization"] = "Bearer no"
        assert load(client).status_code == unload(client).status_code == 401


@pytest.mark.parametrize(
    "path",
    ["..", "../served/mixture", "team/../../served/mixture", "link", "nothing", "/etc", "/", "a\0b", "x" * 4000, "~"],
    ids=lambda path: repr(path)[:30],
)
def test_path_outside_the_folder_is_rejected_as_one_that_is_not_there(folder: Path, path: str) -> None:
    with running(folder) as (client, _):
        response, absent = load(client, path=path), load(client, path="absent")
        assert response.status_code == 422
        assert response.json() == absent.json()


def test_absolute_path_inside_the_folder_is_accepted(folder: Path) -> None:
    with running(folder) as (client, _):
        assert load(client, path=str(folder / "models" / "team" / "other")).status_code == 200


@pytest.mark.parametrize("path", ["broken", "empty", "."])
def test_model_that_fails_its_checks_never_becomes_visible(folder: Path, path: str) -> None:
    with running(folder) as (client, _):
        before = predict(client, "first").json()
        response = load(client, path=path)
        assert response.status_code == 409
        assert response.json()["error"]["remedy"]
        assert names(client) == ["first"]
        assert predict(client, "first").json() == before


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"lora_name": "new"},
        {"lora_name": "a/b", "lora_path": "team/other"},
        {"lora_name": "..", "lora_path": "team/other"},
        {"lora_name": "", "lora_path": "team/other"},
        {"lora_name": "new", "lora_path": ""},
        {"lora_name": "new", "lora_path": "team/other", "base_model_name": "x"},
    ],
    ids=str,
)
def test_invalid_load_requests_are_rejected(folder: Path, body: dict[str, Any]) -> None:
    with running(folder) as (client, _):
        assert client.post("/v1/load_lora_adapter", json=body).status_code == 422
        assert names(client) == ["first"]


def test_name_that_is_taken_is_rejected_unless_it_is_to_be_replaced(folder: Path) -> None:
    with running(folder) as (client, _):
        assert load(client, "first").status_code == 409
        assert load(client, "first", load_inplace=True).status_code == 409
        assert load(client).status_code == 200
        assert load(client).status_code == 409
        assert load(client, load_inplace=True).status_code == 200
        assert predict(client, "new").status_code == 200
        assert unload(client, "first").status_code == 409
        assert unload(client, "absent").status_code == 404
        assert names(client) == ["first", "new"]


def test_number_of_models_is_limited(folder: Path) -> None:
    with running(folder, max_models=2) as (client, _):
        assert load(client, "b").status_code == 200
        response = load(client, "c")
        assert response.status_code == 409
        assert "max_models" in response.json()["error"]["expected"]
        unload(client, "b")
        assert load(client, "c").status_code == 200


def test_unload_waits_for_requests_under_way_and_accepts_no_new_ones(folder: Path) -> None:
    with running(folder) as (client, manager):
        load(client)
        engine: Any = manager.models["new"].served.engine
        entered, may_run, run_batch = threading.Event(), threading.Event(), engine.run_batch

        def held(requests: Any) -> Any:
            entered.set()
            assert may_run.wait(30)
            return run_batch(requests)

        engine.run_batch = held
        results: dict[str, Any] = {}

        def send(name: str, call: Any) -> threading.Thread:
            thread = threading.Thread(target=lambda: results.update({name: call()}))
            thread.start()
            return thread

        under_way = send("request", lambda: predict(client, "new"))
        assert entered.wait(30)
        unloading = send("unload", lambda: unload(client))
        while names(client) != ["first"]:
            time.sleep(0.01)
        assert predict(client, "new").status_code == 404
        assert "unload" not in results
        may_run.set()
        under_way.join()
        unloading.join()
    assert results["request"].status_code == results["unload"].status_code == 200


def test_requests_are_answered_while_models_come_and_go(folder: Path) -> None:
    with running(folder, max_wait_ms=0) as (client, _):
        expected = predict(client, "first").json()
        finished, bodies, statuses = threading.Event(), [], []

        def send_requests() -> None:
            while not finished.is_set():
                bodies.append(predict(client, "first").json())
                statuses.append(predict(client, "new").status_code)

        threads = [threading.Thread(target=send_requests) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            assert load(client).status_code == 200
            assert unload(client).status_code == 200
        finished.set()
        for thread in threads:
            thread.join()
    assert set(statuses) <= {200, 404}
    for body in bodies:
        for row, other in zip(body["answers"], expected["answers"], strict=True):
            assert row["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)


def test_openapi_document_lists_the_tasks_of_all_models(folder: Path, tmp_path: Path) -> None:
    with running(folder) as (client, manager):

        def tasks() -> list[str]:
            schema = client.get("/openapi.json").json()["components"]["schemas"]["ClassifyRequest"]
            return list(schema["properties"]["task"]["anyOf"][0]["enum"])

        assert tasks() == ["news", "forum"]
        manager.served.info["labels"]["more"] = {"other": ["a", "b"]}
        load(client)
        assert tasks() == ["news", "forum", "other"]
