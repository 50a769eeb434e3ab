"""Tests of `POST /predict`: the form of text-embeddings-inference, over the same predictions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import service_client, write_mixture
from starlette.testclient import TestClient

from moe.serve.auth import generate_key

TEXTS = ["profit rose today", "moon bags fell again"]
LONG = "profit " * 40


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with service_client(write_mixture(tmp_path_factory.mktemp("served"), targets=True), max_texts=4) as client:
        yield client


def scores(client: TestClient, inputs: Any, path: str = "/predict", **fields: Any) -> Any:
    response = client.post(path, json={"inputs": inputs, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def own(client: TestClient, text: str, **fields: Any) -> dict[str, float]:
    response = client.post("/v1/predict", json={"texts": text, **fields})
    return dict(response.json()["answers"][0]["probabilities"])


def by_label(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {row["label"]: row["score"] for row in rows}


def test_scores_are_the_probabilities_of_the_first_task_largest_first(client: TestClient) -> None:
    rows = scores(client, TEXTS[0])
    assert by_label(rows) == pytest.approx(own(client, TEXTS[0], task="news"), abs=1e-5)
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert scores(client, [TEXTS[0]]) == rows


def test_batch_is_a_list_of_lists(client: TestClient) -> None:
    first, second = scores(client, [[text] for text in TEXTS])
    assert by_label(first) == pytest.approx(by_label(scores(client, TEXTS[0])), abs=1e-5)
    assert by_label(second) == pytest.approx(by_label(scores(client, TEXTS[1])), abs=1e-5)
    assert len(scores(client, [[TEXTS[0]]])) == 1


def test_pair_is_a_text_and_a_target(client: TestClient) -> None:
    pair = [TEXTS[0], "profit"]
    expected = own(client, TEXTS[0], task="entities", targets=["profit"])
    assert by_label(scores(client, pair)) == pytest.approx(expected, abs=1e-5)
    plain, targeted = scores(client, [[TEXTS[0]], pair])
    assert by_label(targeted) == pytest.approx(expected, abs=1e-5)
    assert by_label(plain) == pytest.approx(by_label(scores(client, TEXTS[0])), abs=1e-5)


def test_two_texts_are_not_taken_for_a_text_and_a_target(client: TestClient) -> None:
    response = client.post("/predict", json={"inputs": TEXTS})
    assert response.status_code == 409
    assert "[[text], [text]]" in response.json()["error"]


@pytest.mark.parametrize("query", [True, False])
def test_task_and_model_may_be_in_the_query_string_or_in_the_body(client: TestClient, query: bool) -> None:
    if query:
        rows = scores(client, TEXTS[1], "/predict?task=forum&model=mixture")
    else:
        rows = scores(client, TEXTS[1], task="forum", model="mixture")
    assert by_label(rows) == pytest.approx(own(client, TEXTS[1], task="forum"), abs=1e-5)
    in_domain = by_label(scores(client, TEXTS[1], domain="forum"))
    assert in_domain == pytest.approx(own(client, TEXTS[1], domain="forum"), abs=1e-5)


def test_raw_scores_are_logits_whose_softmax_is_the_probabilities(client: TestClient) -> None:
    raw, plain = by_label(scores(client, TEXTS[0], raw_scores=True)), by_label(scores(client, TEXTS[0]))
    exponentials = {label: np.exp(value) for label, value in raw.items()}
    total = sum(exponentials.values())
    assert {label: value / total for label, value in exponentials.items()} == pytest.approx(plain, abs=1e-5)


def test_parameters_of_clients_of_the_hub_are_accepted(client: TestClient) -> None:
    rows = scores(client, TEXTS[0])
    assert scores(client, TEXTS[0], parameters={}) == rows
    assert scores(client, TEXTS[0], parameters={"top_k": 2}) == rows[:2]
    raw = scores(client, TEXTS[0], raw_scores=True)
    assert scores(client, TEXTS[0], parameters={"function_to_apply": "none"}) == raw


def test_list_of_texts_that_is_no_batch_is_rejected_with_what_a_batch_is(client: TestClient) -> None:
    response = client.post("/predict", json={"inputs": ["a", "b", "c"]})
    assert response.status_code == 422
    assert "[[text], [text], ...]" in response.json()["error"]


def test_too_long_text_is_rejected_unless_it_may_be_truncated(client: TestClient) -> None:
    response = client.post("/predict", json={"inputs": [[TEXTS[0]], [LONG]]})
    assert response.status_code == 409
    assert "text 1" in response.json()["error"]
    assert len(scores(client, [[TEXTS[0]], [LONG]], truncate=True)) == 2


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"inputs": ""}, 422),
        ({"inputs": []}, 422),
        ({"inputs": [[]]}, 422),
        ({"inputs": ["a", "b", "c"]}, 422),
        ({"inputs": [["a", "b", "c"]]}, 422),
        ({"inputs": [["a"]] * 5}, 422),
        ({"inputs": [["a"], "b"]}, 422),
        ({"inputs": 3}, 422),
        ({"inputs": "a", "truncate": 1}, 422),
        ({"inputs": "a", "top_k": 1}, 422),
        ({"inputs": "a", "parameters": {"top_k": 0}}, 422),
        ({"inputs": "a", "parameters": {"function_to_apply": "sigmoid"}}, 422),
        ({"inputs": "a", "task": "odd"}, 422),
        ({"inputs": "a", "domain": "odd"}, 422),
        ({"inputs": "a", "model": "odd"}, 404),
        ({"inputs": ["a", "b"], "task": "news"}, 409),
        ({"inputs": "a", "task": "entities"}, 409),
    ],
    ids=str,
)
def test_invalid_requests_get_errors_in_the_same_form(client: TestClient, body: dict[str, Any], status: int) -> None:
    response = client.post("/predict", json=body)
    assert response.status_code == status, response.text
    error = response.json()
    assert error.keys() == {"error", "error_type"}
    assert isinstance(error["error"], str)
    assert error["error_type"] == "Validation"


def test_different_tasks_in_body_and_query_string_are_rejected(client: TestClient) -> None:
    response = client.post("/predict?task=news", json={"inputs": "a", "task": "forum"})
    assert response.status_code == 409
    assert "once" in response.json()["error"]


def test_malformed_body_and_method_get_errors_in_the_same_form(client: TestClient) -> None:
    for response, status in (
        (client.post("/predict", content=b"{"), 422),
        (client.get("/predict"), 405),
        (client.post("/predict", content=b"x" * 2_000_000), 413),
    ):
        assert response.status_code == status
        assert response.json().keys() == {"error", "error_type"}


@pytest.mark.parametrize("path", ["/predict", "/classify"])
def test_forms_of_other_servers_need_a_key_if_there_are_keys(tmp_path: Path, path: str) -> None:
    key = generate_key()
    body = {"inputs" if path == "/predict" else "input": "rates"}
    with service_client(write_mixture(tmp_path), keys={"me": key["sha256"]}) as client:
        assert client.post(path, json=body).status_code == 401
        assert client.post(path, json=body, headers={"authorization": f"Bearer {key['key']}"}).status_code == 200
