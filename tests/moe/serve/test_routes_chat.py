"""Claims about chats: what OpenAI's own client reads is what `moe generate` writes, whole or piece by piece."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from corpora import save_model
from mixtures import written_team
from serving import make_service
from starlette.testclient import TestClient

from moe.inference.generator import Generator, Sampling
from moe.inference.loading import load_language_model
from moe.serve.app import build_app
from moe.serve.model_manager import ModelManager

TURN = [{"role": "user", "content": "profit rose today"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny team over a two-layer random decoder."""
    place = tmp_path_factory.mktemp("chat")
    return written_team(place / "team", save_model(place / "llama", "llama"))


@pytest.fixture(scope="module")
def service(folder: Path) -> ModelManager:
    found = make_service(folder)
    whole: Any = found.served.engine
    whole.tokenizer.eos_token = None  # so that answers have all their tokens
    whole.model.loaded_backbone.lm_head.model.generation_config.eos_token_id = None
    return found


@pytest.fixture(scope="module")
def asking(service: ModelManager) -> Iterator[TestClient]:
    with TestClient(build_app(service), base_url="http://localhost") as one:
        yield one


@pytest.fixture(scope="module")
def theirs(asking: TestClient) -> openai.OpenAI:
    """OpenAI's client."""
    return openai.OpenAI(base_url="http://localhost/v1", api_key="none", http_client=asking, max_retries=0)  # type: ignore[arg-type]


def expected(folder: Path, sampling: Sampling, pin: str | None = None) -> Any:
    model, template = load_language_model(folder)
    generator = Generator(model, template, sampling)
    generator.tokenizer.eos_token = None
    model.loaded_backbone.lm_head.model.generation_config.eos_token_id = None  # type: ignore[union-attr]
    return generator.generate([generator.encode(TURN[0]["content"])], pin)[0]


@pytest.mark.parametrize("pin", [None, "calls"])
def test_a_whole_answer_is_the_one_of_moe_generate(theirs: openai.OpenAI, folder: Path, pin: str | None) -> None:
    found = theirs.chat.completions.create(model="any", messages=TURN, max_tokens=9, extra_body={"domain": pin})  # type: ignore[arg-type]
    other = expected(folder, Sampling(9), pin)
    assert found.choices[0].message.content == other.text
    assert found.choices[0].finish_reason == "length"
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (5, 9, 14)
    assert found.model_extra is not None
    assert found.model_extra["experts"] == pytest.approx(other.routing_weights, abs=1e-5)


def test_all_pieces_of_a_stream_are_the_whole_answer(theirs: openai.OpenAI, folder: Path) -> None:
    usage = {"include_usage": True}
    drawn = {"temperature": 1.5, "top_p": 0.9, "seed": 4}
    stream = theirs.chat.completions.create(  # type: ignore[call-overload]
        model="", messages=TURN, max_completion_tokens=12, stream=True, stream_options=usage, **drawn
    )
    chunks = list(stream)
    other = expected(folder, Sampling(12, 1.5, 0.9, 4))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == other.text
    assert len([piece for piece in pieces if piece]) > 3
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage.completion_tokens == 12
    assert chunks[-2].experts == pytest.approx(other.routing_weights, abs=1e-5)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("over", "status", "found"),
    [
        ({"messages": [{"role": "user", "content": "profit " * 70}]}, 409, "tokens"),
        ({"messages": [{"role": "system", "content": "be brief"}, *TURN]}, 409, "turns of system, user"),
        ({"domain": "odd"}, 422, "another"),
        ({"messages": []}, 422, "at least 1 item"),
        ({"messages": [{"role": "tool", "content": "a"}]}, 422, "messages.0.role"),
        ({"max_tokens": 5000}, 422, "max_tokens"),
        ({"max_tokens": 2.5}, 422, "max_tokens"),
        ({"max_tokens": "2"}, 422, "max_tokens"),
        ({"n": 2}, 422, "n: "),
        ({"tools": []}, 422, "tools: Extra inputs"),
        ({"temperature": -1}, 422, "temperature"),
    ],
    ids=lambda one: str(one)[:40],
)
def test_what_cannot_be_written_is_refused_before_a_piece(
    asking: TestClient, over: dict[str, Any], status: int, found: str, stream: bool
) -> None:
    body = {"messages": TURN, "max_tokens": 4, "stream": stream} | over
    got = asking.post("/v1/chat/completions", json=body)
    assert got.status_code == status, got.text
    assert found in got.json()["error"]["found"]


@pytest.mark.parametrize(
    "over", [{"max_tokens": 2.0}, {"max_completion_tokens": 2.0}, {"seed": 3.0}, {"n": 1.0}], ids=str
)
def test_a_whole_number_may_be_written_as_json_likes(asking: TestClient, over: dict[str, float]) -> None:
    got = asking.post("/v1/chat/completions", json={"messages": TURN, "max_tokens": 2} | over)
    assert got.status_code == 200, got.text


def test_turns_go_through_the_chat_template_where_there_is_one(asking: TestClient, service: ModelManager) -> None:
    tokenizer = service.served.engine.tokenizer  # type: ignore[attr-defined]
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' and loop.index > 1 %}{{ raise_exception('system first') }}"
        "{% endif %}the {{ m.content }} again {% endfor %}"
    )
    try:
        turns = [{"role": "system", "content": "bank"}, *TURN]
        got = asking.post("/v1/chat/completions", json={"messages": turns, "max_tokens": 2}).json()
        assert got["usage"]["prompt_tokens"] == 2 * 2 + 4
        refused = asking.post("/v1/chat/completions", json={"messages": turns[::-1], "max_tokens": 2})
        assert (refused.status_code, refused.json()["error"]["found"]) == (409, "system first")
    finally:
        tokenizer.chat_template = None


def test_a_stream_that_takes_too_long_ends_with_an_error_and_the_model_stops(
    service: ModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = service.served.engine
    stopped = threading.Event()
    write = Generator.write

    def slowly(self: Generator, prompts: Any, pin: Any, streamer: Any, stop: Any) -> Any:
        told: list[bool] = []

        def until() -> bool:
            told.append(stop())
            time.sleep(0.1 if len(told) > 6 else 0.0)
            if stop():
                stopped.set()
            return bool(stop())

        return write(self, prompts, pin, streamer, until)

    monkeypatch.setattr(Generator, "write", slowly)
    late = ModelManager(service.settings.model_copy(update={"timeout_s": 1.0}), service.place, service.served)
    assert engine is late.served.engine
    with TestClient(build_app(late), base_url="http://localhost") as asking:
        body = {"messages": TURN, "max_tokens": 50, "stream": True, "temperature": 1.5, "seed": 4}
        lines = [line for line in asking.post("/v1/chat/completions", json=body).text.splitlines() if line]
        assert lines[-1] == "data: [DONE]"
        assert json.loads(lines[-2].removeprefix("data: "))["error"]["type"] == "too_slow"
        assert stopped.wait(10)
        assert asking.post("/v1/chat/completions", json=body | {"stream": False}).status_code == 504


def test_a_language_model_is_told_as_one_and_gives_no_labels(asking: TestClient) -> None:
    assert asking.get("/v1/model").json()["answers"] == "language"
    assert asking.post("/v1/predict", json={"texts": "a"}).status_code == 404
