"""Claims about `/v1/explain`: it tells what `moe explain` tells, waits in the same queue, and says what it lacks."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import calibrated, client
from starlette.testclient import TestClient

from moe.explain.explain import explain
from moe.inference.loading import ModelLoader
from moe.serve import engine_explain as reasoning
from moe.serve.auth import generate_key

TEXT = "profit 😀 rose today"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return calibrated(tmp_path_factory.mktemp("explained"))


@pytest.fixture(scope="module")
def asking(folder: Path) -> Iterator[TestClient]:
    with client(folder, max_text_chars=100, queue_texts=8) as one:
        yield one


def why(asking: TestClient, text: str = TEXT, **fields: Any) -> Any:
    return asking.post("/v1/explain", json={"text": text, "steps": 8, **fields})


@pytest.mark.parametrize(("routing", "domain"), [("soft", None), ("hard", None), ("soft", "forum")])
def test_it_tells_what_moe_explain_tells(asking: TestClient, folder: Path, routing: Any, domain: str | None) -> None:
    found = why(asking, routing=routing, domain=domain)
    assert found.status_code == 200, found.text
    expected = explain(ModelLoader(folder, routing=routing).load(), TEXT, domain, steps=8).as_json()
    told = found.json()
    assert told.pop("model") == asking.get("/v1/model").json()["sha256"]
    assert told.keys() == expected.keys()
    assert told["alone"].keys() == expected["alone"].keys()
    assert told["answer"]["label"] == expected["answer"]["label"] == told["why"]["of"]
    for one, other in zip(told["why"]["words"], expected["why"]["words"], strict=True):
        assert (one["word"], one["start"], one["end"]) == (other["word"], other["start"], other["end"])
        assert one["weight"] == pytest.approx(other["weight"], abs=1e-3)


def test_a_long_text_takes_no_more_steps_than_suit_its_length(
    asking: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reasoning, "TOKENS", 100)
    short, long_ = (why(asking, text, steps=None).json()["steps"] for text in ("rates", "rates " * 16))
    assert short == 100 // 3
    assert long_ == reasoning.MIN_STEPS


def test_what_comes_between_explanations_is_answered(asking: TestClient) -> None:
    before = asking.post("/v1/predict", json={"texts": TEXT}).json()
    assert why(asking).json()["answer"]["label"] == before["answers"][0]["label"]
    assert asking.post("/v1/predict", json={"texts": TEXT}).json() == before


@pytest.mark.parametrize(
    ("fields", "status", "found"),
    [
        ({"text": " "}, 422, "text: String should match"),
        ({"text": "a" * 101}, 422, "text: String should have at most 100"),
        ({"steps": 0}, 422, "steps: Input should be greater"),
        ({"steps": 10_000}, 422, "steps: Input should be less"),
        ({"domain": "odd"}, 422, "another"),
        ({"task": "odd"}, 422, "another"),
        ({"domain": "news", "task": "forum"}, 409, "'forum'"),
        ({"texts": ["a"]}, 422, "texts: Extra inputs"),
    ],
)
def test_odd_questions_are_refused_in_a_sentence(asking: TestClient, fields: Any, status: int, found: str) -> None:
    refused = why(asking, **fields)
    assert refused.status_code == status, refused.text
    assert found in refused.json()["error"]["found"]


@pytest.mark.parametrize("text", ["\x00", "\u202egnp", "😀" * 50, "<img src=x onerror=alert(1)>"])
def test_odd_texts_are_explained(asking: TestClient, text: str) -> None:
    told = why(asking, text).json()
    assert told["text"] == text
    assert all("".join(list(text)[one["start"] : one["end"]]) == one["word"] for one in told["why"]["words"])


def test_a_missing_captum_is_told_in_a_sentence(asking: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    refused = why(asking)
    assert (refused.status_code, refused.json()["error"]["type"]) == (501, "not_installed")
    assert "finmoe[explain]" in refused.json()["error"]["remedy"]
    assert asking.post("/v1/predict", json={"texts": TEXT}).status_code == 200


def test_it_wants_a_key_where_texts_do(folder: Path) -> None:
    mine = generate_key()
    with client(folder, keys={"me": mine["sha256"]}) as asking:
        assert why(asking).status_code == 401
        asking.headers["authorization"] = f"Bearer {mine['key']}"
        assert why(asking).status_code == 200
