"""Tests of `POST /classify`: the form of vLLM, over the same predictions."""

from collections.abc import Iterator
from typing import Any

import pytest
from serving import service_client, write_calibrated_mixture
from starlette.testclient import TestClient

TEXTS = ["profit rose today", "moon bags fell again"]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with service_client(write_calibrated_mixture(tmp_path_factory.mktemp("served")), max_texts=4) as client:
        yield client


def classify(client: TestClient, given: Any, **fields: Any) -> Any:
    response = client.post("/classify", json={"input": given, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def test_response_has_label_and_probabilities_of_each_text(client: TestClient) -> None:
    body = classify(client, TEXTS, model="mixture")
    assert (body["object"], body["model"]) == ("list", "mixture")
    assert body["id"].startswith("classify-")
    own = client.post("/v1/predict", json={"texts": TEXTS, "task": "news"}).json()["answers"]
    for index, (row, answer) in enumerate(zip(body["data"], own, strict=True)):
        assert row["index"] == index
        assert row["label"] == answer["label"]
        assert row["probs"] == pytest.approx(list(answer["probabilities"].values()), abs=1e-5)
        assert row["num_classes"] == 3


def test_labels_of_the_probabilities_are_in_the_order_of_the_list_of_models(client: TestClient) -> None:
    (entry,) = client.get("/v1/models").json()["data"]
    (row,) = classify(client, TEXTS[0])["data"]
    assert entry["labels"]["news"][row["probs"].index(max(row["probs"]))] == row["label"]


def test_usage_counts_the_tokens_that_were_read(client: TestClient) -> None:
    assert classify(client, "profit rose today")["usage"] == {
        "prompt_tokens": 5,  # with [CLS] and [SEP]
        "completion_tokens": 0,
        "total_tokens": 5,
    }
    assert classify(client, TEXTS)["usage"]["prompt_tokens"] == 11


def test_logits_are_before_calibration(client: TestClient) -> None:
    raw = classify(client, TEXTS[0], use_activation=False)["data"][0]["probs"]
    scores = client.post("/predict", json={"inputs": TEXTS[0], "raw_scores": True}).json()
    assert sorted(raw, reverse=True) == pytest.approx([row["score"] for row in scores], abs=1e-5)
    assert sum(raw) != pytest.approx(1, abs=1e-3)


def test_too_long_text_is_rejected_unless_it_may_be_truncated(client: TestClient) -> None:
    long = "profit " * 40
    response = client.post("/classify", json={"input": long})
    assert response.status_code == 409
    assert "truncate_prompt_tokens" in response.json()["error"]["remedy"]
    limit = client.get("/v1/model").json()["max_length"]
    assert classify(client, long, truncate_prompt_tokens=-1)["usage"]["prompt_tokens"] == limit


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"input": " "}, 422),
        ({"input": []}, 422),
        ({"input": [1, 2]}, 422),
        ({"input": ["a"] * 5}, 422),
        ({"input": "a", "messages": []}, 422),
        ({"input": "a", "truncate_prompt_tokens": 4}, 422),
        ({"input": "a", "task": "odd"}, 422),
        ({"input": "a", "model": "odd"}, 404),
        ({"input": "a", "domain": "news", "task": "forum"}, 409),
    ],
    ids=str,
)
def test_invalid_requests_are_rejected(client: TestClient, body: dict[str, Any], status: int) -> None:
    response = client.post("/classify", json=body)
    assert response.status_code == status, response.text
    assert response.json()["error"]["remedy"]
