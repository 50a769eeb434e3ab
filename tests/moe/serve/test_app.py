"""Claims about the addresses: answers are `moe infer`'s, limits and keys hold, odd input is refused in a sentence."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import calibrated, client, make_service
from starlette.testclient import TestClient

from moe.inference.loading import ModelLoader
from moe.inference.stream import predict_rows
from moe.serve.app import build_app
from moe.serve.auth import generate_key

TEXTS = ["profit rose today", "moon bags fell again", "the bank kept sales with orders and the margin", "rates"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny mixture's folder, calibrated."""
    return calibrated(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def asking(folder: Path) -> Iterator[TestClient]:
    with client(folder, max_text_chars=300, max_texts=8) as one:
        yield one


def predict(asking: TestClient, texts: Any, **fields: Any) -> Any:
    return asking.post("/v1/predict", json={"texts": texts, **fields})


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert (one["text"], one["label"], one["task"]) == (other["text"], other["label"], other["task"])
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
        assert one["experts"] == pytest.approx(other["experts"], abs=1e-4)


@pytest.mark.parametrize("routing", ["soft", "hard"])
@pytest.mark.parametrize("domain", [None, "news", "forum"])
def test_answers_are_those_of_moe_infer(asking: TestClient, folder: Path, routing: Any, domain: str | None) -> None:
    predictor = ModelLoader(folder, routing=routing).load()
    found = predict(asking, TEXTS, routing=routing, domain=domain)
    assert found.status_code == 200, found.text
    same(found.json()["answers"], list(predict_rows([{"text": text} for text in TEXTS], predictor, domain)))


def test_one_text_is_answered_as_a_list_of_it(asking: TestClient) -> None:
    same(predict(asking, "rates").json()["answers"], predict(asking, ["rates"]).json()["answers"])


def test_what_is_unsure_has_no_label_where_that_is_asked(asking: TestClient, folder: Path) -> None:
    found = predict(asking, TEXTS, abstain=0.9, domain="news").json()["answers"]
    rows = [{"text": text} for text in TEXTS]
    same(found, list(predict_rows(rows, ModelLoader(folder, abstain=0.9).load(), "news")))
    assert {row["abstained"] for row in found} >= {True}
    refused = predict(asking, TEXTS, abstain=0.99, domain="news")
    assert refused.status_code == 409
    assert refused.json()["error"]["found"] == "at best 0.900, keeping 50% of them"


def test_requests_of_all_kinds_at_once_get_their_own_answers(asking: TestClient) -> None:
    ways = [{"routing": r, "domain": d} for r in ("soft", "hard") for d in (None, "news", "forum")] * 3
    expected = [predict(asking, TEXTS, **way).json()["answers"] for way in ways]
    found: list[Any] = [None] * len(ways)

    def ask(i: int) -> None:
        found[i] = predict(asking, TEXTS, **ways[i]).json()["answers"]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(ways))]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    for one, other in zip(found, expected, strict=True):
        same(one, other)


@pytest.mark.parametrize(
    ("body", "status", "found"),
    [
        (b'{"texts": "a\\ud800"}', 422, "texts: Input should be a valid string"),
        (b'{"texts": ["ok", ""]}', 422, "texts.1: String should have at least 1"),
        (b'{"texts": " \\n "}', 422, "texts: String should match"),
        (b'{"texts": []}', 422, "texts: List should have at least 1"),
        (b'{"texts": ["a", 3]}', 422, "texts.1: Input should be a valid string"),
        (b'{"texts": null}', 422, "texts"),
        (b'{"texts": "a", "abstain": NaN}', 422, "abstain"),
        (b'{"texts": "a", "abstain": "0.9"}', 422, "abstain"),
        (b'{"texts": "a", "routing": "team"}', 422, "routing"),
        (b'{"texts": "a", "domain": "new\\u0000s"}', 422, "another"),
        (b'{"texts": "a", "task": "odd"}', 422, "another"),
        (b'{"texts": "a", "domain": "news", "task": "forum"}', 409, "'forum'"),
        (b'{"texts": "a", "\\ud800": 1}', 422, "the body: Input should be a valid string"),
        (b"{", 422, "JSON decode error"),
        (b"[" * 100_000, 422, "cannot be read"),
        (b"\xff\xfe", 422, "JSON decode error"),
        (b'{"texts": ' + b"9" * 5000 + b"}", 422, "cannot be read"),
        (b"", 422, "the body: Field required"),
        (b'{"texts": "' + b"a" * 301 + b'"}', 422, "texts: String should have at most 300"),
        (json.dumps({"texts": ["a"] * 9}).encode(), 422, "texts: List should have at most 8"),
        (b'{"texts": "' + b"a" * 1_100_000 + b'"}', 413, "more"),
    ],
    ids=lambda one: str(one[:24]) if isinstance(one, bytes) else str(one),
)
def test_odd_bodies_are_refused_in_a_sentence(asking: TestClient, body: bytes, status: int, found: str) -> None:
    got = asking.post("/v1/predict", content=body, headers={"content-type": "application/json"})
    assert got.status_code == status, got.text
    error = got.json()["error"]
    assert found in error["found"]
    assert error["expected"]
    assert error["remedy"]


def test_a_body_without_its_length_is_not_read_to_the_end(asking: TestClient) -> None:
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b" " * 100_000

    assert asking.post("/v1/predict", content=pieces()).status_code == 413


@pytest.mark.parametrize("text", ["\x00", "a\x07\x1b[31m", "\u202egnp", "😀" * 50, "a" * 300, "\ufffd", "&lt;<script>"])
def test_odd_texts_are_answered(asking: TestClient, text: str) -> None:
    (row,) = predict(asking, text).json()["answers"]
    assert row["text"] == text
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_the_model_is_told_with_its_experts_labels_and_hashes(asking: TestClient, folder: Path) -> None:
    told = asking.get("/v1/model").json()
    manifest = json.loads((folder / "manifest.json").read_text())["sha256"]
    assert told["experts"]["news"]["sha256"] == manifest["experts/news/adapter_model.safetensors"]
    assert told["labels"]["forum"] == {"forum": ["negative", "neutral", "positive"]}
    assert told["sha256"] == predict(asking, "rates").json()["model"]
    assert told["calibrated"]


def test_metrics_count_texts_batches_and_shares(asking: TestClient) -> None:
    def figure(name: str) -> float:
        lines = asking.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split()[0] == name)

    texts, shares, batches = figure("moe_texts_total"), figure("moe_expert_share_total"), figure("moe_batch_texts_sum")
    predict(asking, TEXTS)
    assert figure("moe_texts_total") - texts == len(TEXTS)
    assert figure("moe_expert_share_total") - shares == pytest.approx(len(TEXTS), abs=1e-3)
    assert figure("moe_batch_texts_sum") - batches == len(TEXTS)
    assert figure("moe_model_seconds_total") > 0
    assert figure("moe_queue_texts") == 0


def test_addresses_methods_and_headers(asking: TestClient) -> None:
    assert asking.get("/healthz").json() == {"status": "ok"}
    assert asking.get("/readyz").json() == {"status": "ready"}
    assert asking.get("/").headers["content-type"] == "text/html; charset=utf-8"
    for got, status in ((asking.get("/docs"), 404), (asking.get("/v1/predict"), 405)):
        assert got.status_code == status
        assert got.json()["error"]["remedy"] == "see /openapi.json"
        assert got.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in got.headers


def test_openapi_names_the_domains_and_the_limits(asking: TestClient) -> None:
    fields = asking.get("/openapi.json").json()["components"]["schemas"]["PredictRequest"]["properties"]
    assert fields["domain"]["anyOf"][0]["enum"] == ["news", "forum"]
    assert fields["texts"]["anyOf"][1]["maxItems"] == 8


@pytest.mark.parametrize(
    "headers", [{"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}, {"host": "[::"}]
)
def test_without_keys_no_page_from_elsewhere_may_ask(asking: TestClient, headers: dict[str, str]) -> None:
    assert asking.get("/v1/model", headers=headers).status_code == 403
    good = {"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"}
    assert asking.get("/v1/model", headers=good).status_code == 200


def test_with_keys_only_their_owners_are_answered_and_the_log_names_them_without_texts(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = generate_key()
    with client(folder, host="0.0.0.0", keys={"me": mine["sha256"]}) as asking:
        for key in (None, "Bearer no", f"Basic {mine['key']}", f"Bearer {mine['sha256']}"):
            headers = {} if key is None else {"authorization": key}
            for got in (
                asking.post("/v1/predict", json={"texts": "a"}, headers=headers),
                asking.post("/v1/admin/reload", headers=headers),
                asking.get("/metrics", headers=headers),
            ):
                assert got.status_code == 401
                assert got.headers["www-authenticate"] == "Bearer"
        assert asking.get("/healthz").status_code == 200
        with caplog.at_level(logging.INFO, "moe.serve"):
            headers = {"authorization": f"Bearer {mine['key']}", "host": "any.example"}
            assert asking.post("/v1/predict", json={"texts": "secret words"}, headers=headers).status_code == 200
    (line,) = [one.fields for one in caplog.records if one.getMessage() == "request"]  # type: ignore[attr-defined]
    assert (line["asked_by"], line["texts"], line["path"]) == ("me", 1, "/v1/predict")
    assert "secret" not in str([vars(one) for one in caplog.records])


class Slow:
    """An engine that answers when it is let."""

    budget = 1

    def __init__(self) -> None:
        self.free = threading.Event()

    def weigh(self, asked: Any) -> int:
        return 1

    def answer(self, asked: Any) -> list[Any]:
        self.free.wait(10)
        return [RuntimeError("with a secret text")] * len(asked)


def test_an_answer_that_takes_too_long_is_given_up_and_a_full_queue_says_when_to_come_back(folder: Path) -> None:
    service, slow = make_service(folder, timeout_s=0.2, queue_texts=2), Slow()
    with TestClient(build_app(service), base_url="http://localhost") as asking:
        service.batcher.engine = slow  # type: ignore[union-attr]
        threads = [threading.Thread(target=predict, args=(asking, ["a", "b"])) for _ in range(2)]
        for one in threads:
            one.start()
            while not (service.batcher.computing if one is threads[0] else service.batcher.waiting):  # type: ignore[union-attr]
                time.sleep(0.01)
        full = predict(asking, "a")
        assert (full.status_code, full.json()["error"]["type"]) == (503, "busy")
        assert int(full.headers["retry-after"]) >= 1
        for one in threads:
            one.join()
        assert predict(asking, "a").status_code in (503, 504)
        slow.free.set()


def test_an_error_of_ours_is_told_as_such_and_neither_answer_nor_log_has_its_words(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service, slow = make_service(folder), Slow()
    slow.free.set()
    with TestClient(build_app(service), base_url="http://localhost") as asking:
        service.batcher.engine = slow  # type: ignore[union-attr]
        got = predict(asking, "a")
    assert got.status_code == 500
    assert got.headers["x-request-id"] in got.json()["error"]["remedy"]
    assert "secret" not in got.text
    assert "secret" not in str([one.getMessage() for one in caplog.records])
