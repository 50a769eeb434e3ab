"""Tests of the chat route with OpenAI's client: same text as `moe generate`, complete or streamed."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from corpora import save_language_model
from mixtures import lm_head, save_random_lm_mixture
from openai.types.chat import ChatCompletionMessageParam
from serving import build_manager
from starlette.testclient import TestClient

from moe.inference.generator import Generator, Sampling
from moe.inference.load_mixture import load_mixture
from moe.runs.model_ref import resolve
from moe.serve.app import build_app
from moe.serve.model_manager import ModelManager

TEXT = "profit rose today"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": TEXT}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny mixture on a random decoder with two layers."""
    folder = tmp_path_factory.mktemp("chat")
    return save_random_lm_mixture(folder / "team", save_language_model(folder / "llama", "llama"))


@pytest.fixture(scope="module")
def manager(folder: Path) -> ModelManager:
    manager = build_manager(folder)
    engine: Any = manager.served.engine
    engine.tokenizer.eos_token = None  # so that messages reach their token limit
    engine.model.loaded_backbone.lm_head.model.generation_config.eos_token_id = None
    return manager


@pytest.fixture(scope="module")
def client(manager: ModelManager) -> Iterator[TestClient]:
    with TestClient(build_app(manager), base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="module")
def openai_client(client: TestClient) -> openai.OpenAI:
    http_client: Any = client  # starlette's client need not come from the same httpx package as OpenAI's
    return openai.OpenAI(base_url="http://localhost/v1", api_key="none", http_client=http_client, max_retries=0)


def generate(folder: Path, sampling: Sampling, pin: str | None = None) -> Any:
    model, template, _ = load_mixture(resolve(folder), language=True)
    generator = Generator(model, template, sampling)
    generator.tokenizer.eos_token = None
    lm_head(model).model.generation_config.eos_token_id = None
    return generator.generate([generator.encode(TEXT)], pin)[0]


@pytest.mark.parametrize("pin", [None, "calls"])
def test_chat_route_matches_moe_generate(openai_client: openai.OpenAI, folder: Path, pin: str | None) -> None:
    completion = openai_client.chat.completions.create(
        model="any",
        messages=MESSAGES,
        max_tokens=9,
        extra_body={"domain": pin},
    )
    expected = generate(folder, Sampling(9), pin)
    assert completion.choices[0].message.content == expected.text
    assert completion.choices[0].finish_reason == "length"
    usage = completion.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 9, 14)
    assert completion.model_extra is not None
    assert completion.model_extra["experts"] == pytest.approx(expected.routing_weights, abs=1e-5)


def test_streamed_pieces_add_up_to_the_complete_message(openai_client: openai.OpenAI, folder: Path) -> None:
    stream: Any = openai_client.chat.completions.create(
        model="",
        messages=MESSAGES,
        max_completion_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
        temperature=1.5,
        top_p=0.9,
        seed=4,
    )
    chunks = list(stream)
    expected = generate(folder, Sampling(12, 1.5, 0.9, 4))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == expected.text
    assert len([piece for piece in pieces if piece]) > 3
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage.completion_tokens == 12
    assert chunks[-2].experts == pytest.approx(expected.routing_weights, abs=1e-5)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"messages": [{"role": "user", "content": "profit " * 70}]}, 409, "tokens"),
        ({"messages": [{"role": "system", "content": "be brief"}, *MESSAGES]}, 409, "system, user"),
        ({"domain": "odd"}, 422, "an unknown name"),
        ({"messages": []}, 422, "at least 1 item"),
        ({"messages": [{"role": "tool", "content": "a"}]}, 422, "messages.0.role"),
        ({"max_tokens": 5000}, 422, "max_tokens"),
        ({"max_tokens": 2.5}, 422, "max_tokens"),
        ({"max_tokens": "2"}, 422, "max_tokens"),
        ({"n": 2}, 422, "n: "),
        ({"tools": []}, 422, "tools: Extra inputs"),
        ({"temperature": -1}, 422, "temperature"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_chat_route_rejects_invalid_requests_before_streaming(
    client: TestClient, fields: dict[str, Any], status: int, message: str, stream: bool
) -> None:
    body = {"messages": MESSAGES, "max_tokens": 4, "stream": stream} | fields
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == status, response.text
    assert message in response.json()["error"]["found"]


@pytest.mark.parametrize(
    "fields", [{"max_tokens": 2.0}, {"max_completion_tokens": 2.0}, {"seed": 3.0}, {"n": 1.0}], ids=str
)
def test_chat_route_takes_integers_written_as_floats(client: TestClient, fields: dict[str, float]) -> None:
    response = client.post("/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 2} | fields)
    assert response.status_code == 200, response.text


def test_chat_route_applies_the_chat_template_if_there_is_one(client: TestClient, manager: ModelManager) -> None:
    engine: Any = manager.served.engine
    tokenizer = engine.tokenizer
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' and loop.index > 1 %}{{ raise_exception('system first') }}"
        "{% endif %}the {{ m.content }} again {% endfor %}"
    )
    try:
        messages = [{"role": "system", "content": "bank"}, *MESSAGES]
        body = client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 2}).json()
        assert body["usage"]["prompt_tokens"] == 2 * 2 + 4
        rejected = client.post("/v1/chat/completions", json={"messages": messages[::-1], "max_tokens": 2})
        assert (rejected.status_code, rejected.json()["error"]["found"]) == (409, "system first")
    finally:
        tokenizer.chat_template = None


def test_stream_that_times_out_ends_with_an_error_and_stops_the_model(
    manager: ModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = manager.served.engine
    stopped = threading.Event()
    generate_normally = Generator.generate

    def generate_slowly(self: Generator, prompts: Any, pin: Any, streamer: Any, stop: Any) -> Any:
        calls: list[bool] = []

        def slow_stop() -> bool:
            calls.append(stop())
            time.sleep(0.1 if len(calls) > 6 else 0.0)
            if stop():
                stopped.set()
            return bool(stop())

        return generate_normally(self, prompts, pin, streamer, slow_stop)

    monkeypatch.setattr(Generator, "generate", generate_slowly)
    impatient = ModelManager(manager.settings.model_copy(update={"timeout_s": 1.0}), manager.load, manager.served)
    assert engine is impatient.served.engine
    with TestClient(build_app(impatient), base_url="http://localhost") as client:
        body = {"messages": MESSAGES, "max_tokens": 50, "stream": True, "temperature": 1.5, "seed": 4}
        lines = [line for line in client.post("/v1/chat/completions", json=body).text.splitlines() if line]
        assert lines[-1] == "data: [DONE]"
        assert json.loads(lines[-2].removeprefix("data: "))["error"]["type"] == "too_slow"
        assert stopped.wait(10)
        assert client.post("/v1/chat/completions", json=body | {"stream": False}).status_code == 504


def test_language_model_has_no_predict_route(client: TestClient) -> None:
    assert client.get("/v1/model").json()["answers"] == "language"
    assert client.post("/v1/predict", json={"texts": "a"}).status_code == 404
