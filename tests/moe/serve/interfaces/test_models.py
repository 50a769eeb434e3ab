"""Tests of several models in one process: their list, requests that name one, and the backbone that they share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from corpora import save_language_model
from mixtures import save_random_lm_mixture
from serving import client_of_several, copy_with_other_expert, service_client, write_mixture
from starlette.testclient import TestClient

from experts.errors import Fault
from moe.inference.load import LoadOptions
from moe.inference.torch_predictor import TorchPredictor
from moe.serve.engine_explain import ExplainEngine
from moe.serve.hosted_model import HostedModel, ModelSource
from moe.serve.server import load_manager
from moe.serve.settings import ServeSettings

TEXTS = ["profit rose today", "moon bags fell again", "rates"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("served")
    first = write_mixture(folder)
    return {"one": first, "two": copy_with_other_expert(first, folder / "other")}


@pytest.fixture(scope="module")
def client(folders: dict[str, Path]) -> Iterator[TestClient]:
    with client_of_several(folders) as client:
        yield client


def torch_weights(model: HostedModel) -> dict[str, int]:
    """Addresses of the backbone's weights in memory, without those of the adapters."""
    assert isinstance(model.served.engine, ExplainEngine)
    predictor = model.served.engine.classifier.predictor
    assert isinstance(predictor, TorchPredictor)
    named = predictor.model.backbone.named_parameters()
    return {name: weight.untyped_storage().data_ptr() for name, weight in named if "lora_" not in name}


def test_models_on_one_backbone_share_one_copy_of_its_weights(folders: dict[str, Path]) -> None:
    sources = [ModelSource(name, folder) for name, folder in folders.items()]
    manager = load_manager(ServeSettings(), sources, LoadOptions(runtime="torch"))
    first, second = (torch_weights(model) for model in manager.models.values())
    assert len(first) > 20
    assert first == second


def test_answers_equal_those_of_each_model_alone_bit_for_bit(client: TestClient, folders: dict[str, Path]) -> None:
    answers = []
    for name, folder in folders.items():
        together = client.post("/v1/predict", json={"texts": TEXTS, "model": name}).json()
        with client_of_several({"alone": folder}) as single:
            assert single.post("/v1/predict", json={"texts": TEXTS}).json() == together
        raw = client.post("/classify", json={"input": TEXTS, "model": name, "use_activation": False}).json()["data"]
        answers.append(raw)
    assert answers[0] != answers[1]


def test_list_of_models_says_what_they_are(client: TestClient) -> None:
    body = client.get("/v1/models").json()
    assert body["object"] == "list"
    assert [(entry["id"], entry["default"], entry["at_run_time"]) for entry in body["data"]] == [
        ("one", True, False),
        ("two", False, False),
    ]
    for entry in body["data"]:
        assert entry["sha256"] == client.get("/v1/model", params={"model": entry["id"]}).json()["sha256"]
        assert entry["labels"]["forum"] == ["negative", "neutral", "positive"]


REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/predict", {"texts": "rates"}),
    ("/v1/explain", {"text": "rates", "steps": 2}),
    ("/predict", {"inputs": "rates"}),
    ("/classify", {"input": "rates"}),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS, ids=lambda value: str(value))
def test_request_names_a_model_or_gets_the_first(client: TestClient, path: str, body: dict[str, Any]) -> None:
    def answer(**fields: Any) -> Any:
        response = client.post(path, json=body | fields)
        assert response.status_code == 200, response.text
        content = response.json()
        return {key: content[key] for key in content if key not in ("id", "created")} if path != "/predict" else content

    assert answer() == answer(model="one") != answer(model="two")


@pytest.mark.parametrize(("path", "body"), REQUESTS, ids=lambda value: str(value))
def test_unknown_model_is_not_found(client: TestClient, path: str, body: dict[str, Any]) -> None:
    response = client.post(path, json=body | {"model": "tow"})
    assert response.status_code == 404
    if path != "/predict":
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert "two" in error["remedy"]


def test_unknown_model_in_the_query_string_is_not_found(client: TestClient) -> None:
    for response in (
        client.get("/v1/model", params={"model": "tow"}),
        client.get("/card", params={"model": "tow"}),
        client.post("/v1/admin/reload", params={"model": "tow"}),
    ):
        assert response.status_code == 404


def test_reload_of_one_model_leaves_the_others(folders: dict[str, Path], tmp_path: Path) -> None:
    two = copy_with_other_expert(folders["one"], tmp_path / "two")
    with client_of_several({"one": folders["one"], "two": two}) as client:
        before = {entry["id"]: entry["sha256"] for entry in client.get("/v1/models").json()["data"]}
        copy_with_other_expert(folders["one"], tmp_path / "new", 0.5).rename(tmp_path / "kept")
        two.rename(tmp_path / "old")
        (tmp_path / "kept").rename(two)
        response = client.post("/v1/admin/reload", params={"model": "two"})
        assert response.status_code == 200, response.text
        after = {entry["id"]: entry["sha256"] for entry in client.get("/v1/models").json()["data"]}
    assert after["one"] == before["one"]
    assert after["two"] != before["two"]


def test_models_with_one_name_or_different_outputs_are_rejected(folders: dict[str, Path], tmp_path: Path) -> None:
    language = save_random_lm_mixture(tmp_path / "team", save_language_model(tmp_path / "llama", "llama"))
    first = ModelSource("one", folders["one"])
    with pytest.raises(Fault, match="outputs generated text"):
        load_manager(ServeSettings(), [first, ModelSource("chat", language)], LoadOptions(runtime="torch"))
    with pytest.raises(Fault, match="NAME=MODEL"):
        load_manager(ServeSettings(), [first, ModelSource("one", folders["two"])], LoadOptions(runtime="torch"))


def test_number_of_models_is_limited(folders: dict[str, Path]) -> None:
    sources = [ModelSource(name, folder) for name, folder in folders.items()]
    with pytest.raises(Fault, match="max_models"):
        load_manager(ServeSettings(max_models=1), sources)


def test_language_models_share_their_backbone_and_are_chosen_by_name(tmp_path: Path) -> None:
    backbone = save_language_model(tmp_path / "llama", "llama")
    folders = {name: save_random_lm_mixture(tmp_path / name, backbone) for name in ("x", "y")}
    manager = load_manager(ServeSettings(), [ModelSource(name, folder) for name, folder in folders.items()])
    engines: list[Any] = [model.served.engine for model in manager.models.values()]
    pointers = [
        {
            name: weight.data_ptr()
            for name, weight in engine.model.loaded_backbone.lm_head.model.named_parameters()
            if "lora_" not in name
        }
        for engine in engines
    ]
    assert len(pointers[0]) > 10
    assert pointers[0] == pointers[1]
    message = {"messages": [{"role": "user", "content": "rates rise"}], "max_tokens": 3}
    with client_of_several(folders) as client:
        responses = [client.post("/v1/chat/completions", json=message | {"model": name}) for name in ("x", "y", "z")]
    assert [response.status_code for response in responses] == [200, 200, 404]
    for folder, together in zip(folders.values(), responses, strict=False):
        with service_client(folder) as alone:
            response = alone.post("/v1/chat/completions", json=message | {"model": "any"})
        assert response.json()["choices"] == together.json()["choices"]
