"""Tests of the routes: same predictions as `moe infer`, limits, API keys and error responses."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import (
    build_manager,
    classifier,
    log_fields,
    running_batcher,
    service_client,
    write_calibrated_mixture,
)
from starlette.testclient import TestClient

from experts.errors import Fault
from moe.inference.load import LoadOptions, load
from moe.inference.stream import predict_each, predict_rows
from moe.runs.model_ref import resolve
from moe.serve import engine_classify
from moe.serve.app import build_app
from moe.serve.auth import generate_key
from moe.serve.engine_classify import ClassifyEngine, ClassifyRequest

TEXTS = ["profit rose today", "moon bags fell again", "the bank kept sales with orders and the margin", "rates"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny calibrated mixture."""
    return write_calibrated_mixture(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with service_client(folder, max_text_chars=300, max_texts=8) as client:
        yield client


def predict(client: TestClient, texts: Any, **fields: Any) -> Any:
    return client.post("/v1/predict", json={"texts": texts, **fields})


def assert_same(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys()
        assert (row["text"], row["label"], row["task"]) == (other["text"], other["label"], other["task"])
        assert row["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
        assert row["experts"] == pytest.approx(other["experts"], abs=1e-4)


@pytest.mark.parametrize("routing", ["soft", "hard"])
@pytest.mark.parametrize("domain", [None, "news", "forum"])
def test_predict_route_matches_moe_infer(client: TestClient, folder: Path, routing: Any, domain: str | None) -> None:
    predictor = load(resolve(folder), LoadOptions(routing=routing))
    response = predict(client, TEXTS, routing=routing, domain=domain)
    assert response.status_code == 200, response.text
    expected = list(predict_rows([{"text": text} for text in TEXTS], predictor, domain))
    assert_same(response.json()["answers"], expected)


def test_predict_route_takes_one_text_or_a_list(client: TestClient) -> None:
    assert_same(predict(client, "rates").json()["answers"], predict(client, ["rates"]).json()["answers"])


def test_predict_route_abstains_below_the_target_accuracy(client: TestClient, folder: Path) -> None:
    rows = predict(client, TEXTS, abstain=0.9, domain="news").json()["answers"]
    given = [{"text": text} for text in TEXTS]
    assert_same(rows, list(predict_rows(given, load(resolve(folder), LoadOptions(abstain=0.9)), "news")))
    assert {row["abstained"] for row in rows} >= {True}
    rejected = predict(client, TEXTS, abstain=0.99, domain="news")
    assert rejected.status_code == 409
    assert rejected.json()["error"]["found"] == "at best 0.900 at 50% coverage on 100 rows"


def test_predict_route_returns_label_sets_where_the_task_has_them(client: TestClient, folder: Path) -> None:
    rows = predict(client, TEXTS, label_sets=True, domain="news").json()["answers"]
    given = [{"text": text} for text in TEXTS]
    assert_same(rows, list(predict_rows(given, load(resolve(folder), LoadOptions(label_sets=True)), "news")))
    for row in rows:
        inside = [label for label, p in row["probabilities"].items() if p >= 0.3 or p == row["confidence"]]
        assert sorted(row["label_set"]) == sorted(inside)
        assert row["label_set"][0] == row["label"]
    rejected = predict(client, TEXTS, label_sets=True, domain="forum")
    assert rejected.status_code == 409
    assert rejected.json()["error"]["expected"].startswith("a calibration of task forum with label sets at level 0.9")


def test_concurrent_requests_with_different_options_get_their_own_results(client: TestClient) -> None:
    options = [{"routing": r, "domain": d} for r in ("soft", "hard") for d in (None, "news", "forum")] * 3
    expected = [predict(client, TEXTS, **fields).json()["answers"] for fields in options]
    results: list[Any] = [None] * len(options)

    def send(i: int) -> None:
        results[i] = predict(client, TEXTS, **options[i]).json()["answers"]

    threads = [threading.Thread(target=send, args=(i,)) for i in range(len(options))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rows, other in zip(results, expected, strict=True):
        assert_same(rows, other)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b'{"texts": "a\\ud800"}', 422, "texts: Input should be a valid string"),
        (b'{"texts": ["ok", ""]}', 422, "texts.1: String should have at least 1"),
        (b'{"texts": " \\n "}', 422, "texts: String should match"),
        (b'{"texts": []}', 422, "texts: List should have at least 1"),
        (b'{"texts": ["a", 3]}', 422, "texts.1: Input should be a valid string"),
        (b'{"texts": null}', 422, "texts"),
        (b'{"texts": "a", "abstain": NaN}', 422, "NaN, which is not a JSON number"),
        (b'{"texts": "a", "abstain": 1e999}', 422, "too large"),
        (b'{"texts": "a", "texts": "b"}', 422, "the key 'texts' twice"),
        (b'{"texts": "a"} b', 422, "no valid JSON"),
        (b'{"texts": "a\xff"}', 422, "not UTF-8"),
        ('{"texts": "a"}'.encode("utf-16"), 422, "not UTF-8"),
        (b'{"texts": "a", "abstain": "0.9"}', 422, "abstain"),
        (b'{"texts": "a", "routing": "team"}', 422, "routing"),
        (b'{"texts": "a", "domain": "new\\u0000s"}', 422, "an unknown name"),
        (b'{"texts": "a", "task": "odd"}', 422, "an unknown name"),
        (b'{"texts": "a", "domain": "news", "task": "forum"}', 409, "'forum'"),
        (b'{"texts": "a", "\\ud800": 1}', 422, "the body: Input should be a valid string"),
        (b"{", 422, "no valid JSON"),
        (b"[" * 100_000, 422, "nested more than 100 levels deep"),
        (b"\xff\xfe", 422, "not UTF-8"),
        (b'{"texts": ' + b"9" * 5000 + b"}", 422, "a number of 5,000 digits"),
        (b"", 422, "the body: Field required"),
        (b'{"texts": "' + b"a" * 301 + b'"}', 422, "texts: String should have at most 300"),
        (json.dumps({"texts": ["a"] * 9}).encode(), 422, "texts: List should have at most 8"),
        (b'{"texts": "' + b"a" * 1_100_000 + b'"}', 413, "a larger one"),
    ],
    ids=lambda value: str(value[:24]) if isinstance(value, bytes) else str(value),
)
def test_predict_route_rejects_invalid_bodies(client: TestClient, body: bytes, status: int, message: str) -> None:
    response = client.post("/v1/predict", content=body, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert message in error["found"]
    assert error["expected"]
    assert error["remedy"]


def test_oversized_body_without_content_length_is_rejected(client: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 100_000

    assert client.post("/v1/predict", content=pieces()).status_code == 413


@pytest.mark.parametrize("text", ["\x00", "a\x07\x1b[31m", "\u202egnp", "😀" * 50, "a" * 300, "\ufffd", "&lt;<script>"])
def test_predict_route_handles_unusual_texts(client: TestClient, text: str) -> None:
    (row,) = predict(client, text).json()["answers"]
    assert row["text"] == text
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_model_route_lists_experts_labels_and_hashes(client: TestClient, folder: Path) -> None:
    info = client.get("/v1/model").json()
    manifest = json.loads((folder / "manifest.json").read_text())["sha256"]
    assert info["experts"]["news"]["sha256"] == manifest["experts/news/adapter_model.safetensors"]
    assert info["labels"]["forum"] == {"forum": ["negative", "neutral", "positive"]}
    assert info["sha256"] == predict(client, "rates").json()["model"]
    assert info["calibrated"]


def test_metrics_count_texts_batches_and_routing_weights(client: TestClient) -> None:
    def metric(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split()[0] == name)

    texts, weights, batches = metric("moe_texts_total"), metric("moe_expert_share_total"), metric("moe_batch_texts_sum")
    predict(client, TEXTS)
    assert metric("moe_texts_total") - texts == len(TEXTS)
    assert metric("moe_expert_share_total") - weights == pytest.approx(len(TEXTS), abs=1e-3)
    assert metric("moe_batch_texts_sum") - batches == len(TEXTS)
    assert metric("moe_model_seconds_total") > 0
    assert metric("moe_queue_texts") == 0


def test_paths_methods_and_headers(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    assert client.get("/").headers["content-type"] == "text/html; charset=utf-8"
    for response, status in ((client.get("/docs"), 404), (client.get("/v1/predict"), 405)):
        assert response.status_code == status
        assert response.json()["error"]["remedy"] == "see /openapi.json"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in response.headers


def test_openapi_document_lists_domains_and_limits(client: TestClient) -> None:
    fields = client.get("/openapi.json").json()["components"]["schemas"]["PredictRequest"]["properties"]
    assert fields["domain"]["anyOf"][0]["enum"] == ["news", "forum"]
    assert fields["texts"]["anyOf"][1]["maxItems"] == 8


@pytest.mark.parametrize(
    "headers", [{"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}, {"host": "[::"}]
)
def test_service_without_keys_rejects_other_hosts_and_origins(client: TestClient, headers: dict[str, str]) -> None:
    assert client.get("/v1/model", headers=headers).status_code == 403
    good = {"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"}
    assert client.get("/v1/model", headers=good).status_code == 200


def test_service_with_keys_needs_one_and_logs_its_owner_but_no_text(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = generate_key()
    with service_client(folder, host="0.0.0.0", keys={"me": mine["sha256"]}) as client:
        for key in (None, "Bearer no", f"Basic {mine['key']}", f"Bearer {mine['sha256']}"):
            headers = {} if key is None else {"authorization": key}
            for response in (
                client.post("/v1/predict", json={"texts": "a"}, headers=headers),
                client.post("/v1/admin/reload", headers=headers),
                client.get("/metrics", headers=headers),
            ):
                assert response.status_code == 401
                assert response.headers["www-authenticate"] == "Bearer"
        assert client.get("/healthz").status_code == 200
        with caplog.at_level(logging.INFO, "moe.serve"):
            headers = {"authorization": f"Bearer {mine['key']}", "host": "any.example"}
            assert client.post("/v1/predict", json={"texts": "secret words"}, headers=headers).status_code == 200
    (line,) = [log_fields(record) for record in caplog.records if record.getMessage() == "request"]
    assert (line["asked_by"], line["texts"], line["path"]) == ("me", 1, "/v1/predict")
    assert "secret" not in str([vars(record) for record in caplog.records])


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/readyz", "/v1/model", "/metrics", "/openapi.json", "/page/page.css"]
)
def test_head_is_answered_as_get_without_the_body(client: TestClient, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert (head.headers["content-length"] == get.headers["content-length"]) or path == "/metrics"
    assert client.head("/nothing").status_code == 404
    assert client.head("/v1/predict").status_code == 405


def test_openapi_document_needs_a_key_if_the_settings_say_so(folder: Path) -> None:
    key = generate_key()
    for protect, status in ((False, 200), (True, 401)):
        with service_client(folder, keys={"me": key["sha256"]}, protect_openapi=protect) as client:
            assert client.get("/openapi.json").status_code == status
            assert client.head("/openapi.json").status_code == status
            headers = {"authorization": f"Bearer {key['key']}"}
            assert client.get("/openapi.json", headers=headers).status_code == 200
            assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"range": "bytes=a-b"}, 200),
        ({"range": "bytes=0-1,5-6,99999999999999999999-"}, 200),
        ({"if-none-match": "*", "if-modified-since": "never"}, 200),
        ({"origin": "http://[::"}, 403),
        ({"host": "local host"}, 403),
        ({"authorization": "Bearer \xff"}, 200),
        ({"connection": "upgrade", "upgrade": "websocket"}, 200),
    ],
    ids=str,
)
def test_odd_headers_get_a_response_in_the_usual_form(client: TestClient, headers: dict[str, str], status: int) -> None:
    response = client.get("/", headers=[(name.encode(), value.encode("latin-1")) for name, value in headers.items()])
    assert response.status_code == status
    assert status == 200 or response.json()["error"]["type"] == "forbidden"


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "x"])
def test_compressed_body_is_refused_unread(client: TestClient, encoding: str) -> None:
    response = client.post("/v1/predict", content=b"{}", headers={"content-encoding": encoding})
    assert (response.status_code, response.json()["error"]["type"]) == (415, "not_readable")


class NanEngine:
    """Answers with NaN, with a fault, or with the error of a row, by the first text."""

    token_budget = 1

    def __init__(self, classifier: ClassifyEngine) -> None:
        self.classifier = classifier

    def estimate_tokens(self, request: Any) -> int:
        return 1

    def run_batch(self, requests: Any) -> list[Any]:
        results = self.classifier.run_batch(requests)
        for result in results:
            if isinstance(result, dict):
                result["answers"][0]["confidence"] = float("nan")
                result["answers"][0]["experts"] = {"news": float("inf")}
        return results


def test_answer_that_is_not_finite_is_an_error_and_not_counted(folder: Path) -> None:
    manager = build_manager(folder)
    with TestClient(build_app(manager), base_url="http://localhost") as client:
        running_batcher(manager).engine = NanEngine(classifier(manager))
        response = predict(client, ["a", "b"])
        assert response.status_code == 409
        assert "finite numbers" in response.json()["error"]["expected"]
        assert "moe_expert_share_total{" not in client.get("/metrics").text
        assert client.get("/healthz").status_code == 200


def test_fault_of_the_model_for_one_text_leaves_other_requests_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict_or_fail(texts: list[str], *args: Any) -> Any:
        if "bad" in texts:
            raise Fault("finite scores", "NaN", "train the model again")
        return predict_each(texts, *args)

    monkeypatch.setattr(engine_classify, "predict_each", predict_or_fail)
    engine = build_manager(folder).served.engine
    good, bad = engine.run_batch([ClassifyRequest(("rates",)), ClassifyRequest(("bad",))])
    assert good["answers"][0]["label"]
    assert (bad.status, bad.fault.found) == (409, "NaN")


class BlockedEngine:
    """Waits until it may run, then fails."""

    token_budget = 1

    def __init__(self) -> None:
        self.may_run = threading.Event()

    def estimate_tokens(self, request: Any) -> int:
        return 1

    def run_batch(self, requests: Any) -> list[Any]:
        self.may_run.wait(10)
        return [RuntimeError("with a secret text")] * len(requests)


def test_slow_request_times_out_and_full_queue_sets_retry_after(folder: Path) -> None:
    manager, engine = build_manager(folder, timeout_s=0.2, queue_texts=2), BlockedEngine()
    with TestClient(build_app(manager), base_url="http://localhost") as client:
        batcher = running_batcher(manager)
        batcher.engine = engine
        threads = [threading.Thread(target=predict, args=(client, ["a", "b"])) for _ in range(2)]
        for thread in threads:
            thread.start()
            while not (batcher.in_flight if thread is threads[0] else batcher.queued_texts):
                time.sleep(0.01)
        full = predict(client, "a")
        assert (full.status_code, full.json()["error"]["type"]) == (503, "busy")
        assert int(full.headers["retry-after"]) >= 1
        for thread in threads:
            thread.join()
        assert predict(client, "a").status_code in (503, 504)
        engine.may_run.set()


def test_internal_error_shows_its_message_in_neither_response_nor_log(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager, engine = build_manager(folder), BlockedEngine()
    engine.may_run.set()
    with TestClient(build_app(manager), base_url="http://localhost") as client:
        running_batcher(manager).engine = engine
        response = predict(client, "a")
    assert response.status_code == 500
    assert response.headers["x-request-id"] in response.json()["error"]["remedy"]
    assert "secret" not in response.text
    assert "secret" not in str([record.getMessage() for record in caplog.records])
