"""Tests of `/v1/explain`: same results as `moe explain`, shared queue, error responses."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import service_client, write_calibrated_mixture
from starlette.testclient import TestClient

from experts.json_io import to_json
from moe.explain.explain import explain
from moe.inference.load import LoadOptions, load
from moe.runs.model_ref import resolve
from moe.serve import engine_explain
from moe.serve.auth import generate_key

TEXT = "profit 😀 rose today"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_calibrated_mixture(tmp_path_factory.mktemp("explained"))


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with service_client(folder, max_text_chars=100, queue_texts=8) as client:
        yield client


def post_explain(client: TestClient, text: str = TEXT, **fields: Any) -> Any:
    return client.post("/v1/explain", json={"text": text, "steps": 8, **fields})


@pytest.mark.parametrize(("routing", "domain"), [("soft", None), ("hard", None), ("soft", "forum")])
def test_explain_route_matches_moe_explain(client: TestClient, folder: Path, routing: Any, domain: str | None) -> None:
    response = post_explain(client, routing=routing, domain=domain)
    assert response.status_code == 200, response.text
    expected = to_json(explain(load(resolve(folder), LoadOptions(routing=routing)), TEXT, domain, steps=8))
    body = response.json()
    assert body.pop("model") == client.get("/v1/model").json()["sha256"]
    assert body.keys() == expected.keys()
    assert body["alone"].keys() == expected["alone"].keys()
    assert body["answer"]["label"] == expected["answer"]["label"] == body["why"]["of"]
    for word, other in zip(body["why"]["words"], expected["why"]["words"], strict=True):
        assert (word["word"], word["start"], word["end"]) == (other["word"], other["start"], other["end"])
        assert word["weight"] == pytest.approx(other["weight"], abs=1e-3)


def test_explain_route_takes_fewer_steps_for_longer_texts(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_explain, "TOKEN_STEPS", 100)
    short, long_ = (post_explain(client, text, steps=None).json()["steps"] for text in ("rates", "rates " * 16))
    assert short == 100 // 3
    assert long_ == engine_explain.MIN_STEPS


def test_explain_route_leaves_later_predictions_unchanged(client: TestClient) -> None:
    before = client.post("/v1/predict", json={"texts": TEXT}).json()
    assert post_explain(client).json()["answer"]["label"] == before["answers"][0]["label"]
    assert client.post("/v1/predict", json={"texts": TEXT}).json() == before


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"text": " "}, 422, "text: String should match"),
        ({"text": "a" * 101}, 422, "text: String should have at most 100"),
        ({"steps": 0}, 422, "steps: Input should be greater"),
        ({"steps": 10_000}, 422, "steps: Input should be less"),
        ({"domain": "odd"}, 422, "an unknown name"),
        ({"task": "odd"}, 422, "an unknown name"),
        ({"domain": "news", "task": "forum"}, 409, "'forum'"),
        ({"texts": ["a"]}, 422, "texts: Extra inputs"),
    ],
)
def test_explain_route_rejects_invalid_requests(client: TestClient, fields: Any, status: int, message: str) -> None:
    response = post_explain(client, **fields)
    assert response.status_code == status, response.text
    assert message in response.json()["error"]["found"]


@pytest.mark.parametrize("text", ["\x00", "\u202egnp", "😀" * 50, "<img src=x onerror=alert(1)>"])
def test_explain_route_handles_unusual_texts(client: TestClient, text: str) -> None:
    body = post_explain(client, text).json()
    assert body["text"] == text
    assert all("".join(list(text)[word["start"] : word["end"]]) == word["word"] for word in body["why"]["words"])


def test_explain_route_reports_missing_captum(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    response = post_explain(client)
    assert (response.status_code, response.json()["error"]["type"]) == (501, "not_installed")
    assert "finmoe[explain]" in response.json()["error"]["remedy"]
    assert client.post("/v1/predict", json={"texts": TEXT}).status_code == 200


def test_explain_route_needs_a_key_if_the_service_has_keys(folder: Path) -> None:
    key = generate_key()
    with service_client(folder, keys={"me": key["sha256"]}) as client:
        assert post_explain(client).status_code == 401
        client.headers["authorization"] = f"Bearer {key['key']}"
        assert post_explain(client).status_code == 200
