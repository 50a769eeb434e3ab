"""A language model behind an endpoint as a teacher: what is requested, how responses are read, and failures."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import LABELS
from model_server import MODEL, ModelServer, Reply, completion, error_reply, serving

from experts.errors import Fault
from moe.data.distilled.teacher_settings import TeacherSettings
from moe.distill.endpoint_teacher import EndpointTeacher, letter_probabilities, read_label
from moe.distill.request import TaskRequest
from moe.distill.teacher import load_teacher

TEXTS = ["profit rose", "sales kept level", "shares fell"]
REQUEST = TaskRequest(domain="news", task="news", labels=LABELS, scored=True)


def with_logprobs(**probabilities: float) -> Reply:
    """A response whose first token has these alternatives."""
    tokens = [{"token": token, "logprob": float(np.log(p)), "bytes": None} for token, p in probabilities.items()]
    first = {**tokens[0], "top_logprobs": tokens}
    status, body = completion(tokens[0]["token"], finish="length")
    body["choices"][0]["logprobs"] = {"content": [first]}
    return status, body


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """A server that answers B with log-probabilities, and records the requests."""
    with serving() as model:

        def respond(body: dict[str, Any], key: str) -> Reply:
            model.requests.append(body)
            model.keys.add(key)
            return model.reply(body, len(model.requests))

        model.respond = respond
        model.reply = lambda *_: with_logprobs(B=0.6, A=0.1, C=0.2)
        yield model


def text_of(body: dict[str, Any]) -> str:
    """The text in a prompt."""
    match = re.search(r"<(text-[0-9a-f]+)>\n(.*)\n</\1>", body["messages"][-1]["content"], re.S)
    assert match
    return match[2]


def teacher_at(server: ModelServer, **settings: object) -> EndpointTeacher:
    """A teacher at the server."""
    values = {"model": MODEL, "endpoint": server.url, "retries": 0, "timeout": 5} | settings
    teacher = load_teacher(TeacherSettings.model_validate(values))
    assert isinstance(teacher, EndpointTeacher)
    return teacher


def test_probabilities_are_those_of_the_letters_and_one_token_is_requested(server: ModelServer) -> None:
    soft = teacher_at(server).answer(TEXTS, REQUEST)
    expected = np.array([0.1, 0.6, 0.2]) / 0.9
    assert soft.probabilities.dtype == soft.scores.dtype == np.float32
    np.testing.assert_allclose(soft.probabilities, [expected] * 3, atol=1e-6)
    np.testing.assert_allclose(soft.scores, [expected[2] - expected[0]] * 3, atol=1e-6)
    body = server.requests[0]
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"], body["temperature"]) == (True, 20, 1, 0)
    assert sorted(map(text_of, server.requests)) == sorted(TEXTS)
    prompt = body["messages"][-1]["content"]
    assert "A: negative\nB: neutral\nC: positive" in prompt
    assert "the domain news" in prompt


def test_answers_are_in_the_order_of_the_texts_however_late_they_arrive(server: ModelServer) -> None:
    letters = dict(zip(TEXTS, "CBA", strict=True))
    server.reply = lambda body, _: with_logprobs(**{letters[text_of(body)]: 0.9})
    soft = teacher_at(server, concurrency=3).answer(TEXTS, REQUEST)
    assert soft.probabilities.argmax(1).tolist() == [2, 1, 0]


def test_server_without_logprobs_gives_the_named_label_the_set_probability(server: ModelServer) -> None:
    server.reply = lambda *_: completion("C")
    soft = teacher_at(server).answer(TEXTS[:1], REQUEST)
    np.testing.assert_allclose(soft.probabilities, [[0.05, 0.05, 0.9]], atol=1e-6)
    soft = teacher_at(server, label_probability=1.0).answer(TEXTS[:1], replace(REQUEST, scored=False))
    np.testing.assert_allclose(soft.probabilities, [[0, 0, 1]])
    assert np.isnan(soft.scores).all()


def test_server_that_refuses_logprobs_is_requested_without(server: ModelServer) -> None:
    def reply(body: dict[str, Any], _: int) -> Reply:
        return error_reply(400, "logprobs are not supported") if "logprobs" in body else completion("A")

    server.reply = reply
    soft = teacher_at(server, concurrency=1).answer(TEXTS, REQUEST)
    assert soft.probabilities.argmax(1).tolist() == [0, 0, 0]
    assert ["logprobs" in body for body in server.requests] == [True, False, False, False]


def test_newer_model_gets_its_own_name_of_the_limit_and_its_own_temperature(
    server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def reply(body: dict[str, Any], _: int) -> Reply:
        if "max_tokens" in body:
            return error_reply(
                400,
                "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead.",
            )
        if "temperature" in body:
            return error_reply(400, "Unsupported value: 'temperature' does not support 0 with this model.")
        return completion("C")

    server.reply = reply
    soft = teacher_at(server, concurrency=1, max_tokens=64).answer(TEXTS, REQUEST)
    assert soft.probabilities.argmax(1).tolist() == [2, 2, 2]
    assert [body.get("max_completion_tokens") for body in server.requests] == [None, 64, 64, 64, 64]
    assert ["temperature" in body for body in server.requests] == [True, True, False, False, False]
    assert "has a fixed temperature; 0 is not used" in " ".join(capsys.readouterr().err.split())


def test_temperature_out_of_range_is_an_error_of_the_server(server: ModelServer) -> None:
    server.reply = lambda *_: error_reply(400, "Invalid 'temperature': expected a value <= 1")
    teacher = teacher_at(server, concurrency=1)
    assert np.isnan(teacher.answer(TEXTS, REQUEST).probabilities).all()
    assert len(server.requests) == len(TEXTS)


def test_longer_response_is_read_after_its_thinking_and_without_logprobs(server: ModelServer) -> None:
    server.reply = lambda *_: completion("<think>A or B, negative?</think>\n\nneutral.")
    soft = teacher_at(server, max_tokens=512).answer(TEXTS, REQUEST)
    assert soft.probabilities.argmax(1).tolist() == [1, 1, 1]
    assert "logprobs" not in server.requests[0]


def test_prompt_about_an_entity_names_it(server: ModelServer) -> None:
    teacher, request = teacher_at(server, concurrency=1), replace(REQUEST, targeted=True)
    assert teacher.can_answer(request)
    soft = teacher.answer(["{target} rose, Ebix fell"] * 2, request, ["Acme {text}", "Ebix"])
    first, second = (body["messages"][-1]["content"] for body in server.requests)
    assert "mentions Acme {text}. Choose the label that fits what the text says about Acme {text}," in first
    assert "what the text says about Ebix," in second
    assert [text_of(body) for body in server.requests] == ["{target} rose, Ebix fell"] * 2
    assert soft.probabilities.argmax(1).tolist() == [1, 1]
    keys = {teacher.answer_key(request), teacher.answer_key(REQUEST)}
    other = teacher_at(server, target_prompt="{labels} for {target}: {text}")
    assert len({*keys, other.answer_key(request)}) == 3
    assert other.answer_key(REQUEST) in keys, "paid answers about whole texts are kept"
    with pytest.raises(ValueError, match=r"target_prompt: .* no \{target\}"):
        teacher_at(server, target_prompt="{labels} {text}")


def test_labels_are_offered_under_the_names_of_the_settings(server: ModelServer) -> None:
    settings = {"labels": {"bad for the holder": "negative"}, "prompt": "{labels}|{text}|{domain}"}
    soft = teacher_at(server, **settings).answer(["{labels} rose"], REQUEST)
    assert server.requests[0]["messages"][-1]["content"].startswith("A: bad for the holder\nB: neutral\nC: positive|<")
    assert text_of(server.requests[0]) == "{labels} rose"
    assert soft.probabilities.argmax(1).tolist() == [1]


def test_texts_without_an_answer_are_rows_of_nan_and_counted_by_reason(
    server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    replies = {
        TEXTS[0]: completion("A"),
        TEXTS[1]: completion("I cannot help with that."),
        TEXTS[2]: error_reply(400, "content filter"),
        "refused": completion(None),
    }
    server.reply = lambda body, _: replies[text_of(body)]
    teacher = teacher_at(server)
    soft = teacher.answer([*TEXTS, "refused"], REQUEST)
    assert np.isnan(soft.probabilities).all(1).tolist() == [False, True, True, True]
    assert np.isnan(soft.scores).tolist() == [False, True, True, True]
    assert teacher.failures["no label in the response"] == 2
    assert teacher.failures.total() == 3
    assert any("content filter" in reason for reason in teacher.failures)
    messages = " ".join(capsys.readouterr().err.split())
    assert messages.count("no label in the response") == messages.count("content filter") == 1


def test_few_refused_texts_are_no_fault_even_if_they_are_all(server: ModelServer) -> None:
    server.reply = lambda *_: error_reply(400, "content filter")
    assert np.isnan(teacher_at(server).answer(TEXTS, REQUEST).probabilities).all()
    with pytest.raises(Fault, match="content filter"):
        teacher_at(server).answer(TEXTS * 10, REQUEST)


def test_server_that_fails_all_the_time_stops_the_run(server: ModelServer) -> None:
    server.reply = lambda *_: error_reply(503, "overloaded")
    with pytest.raises(Fault, match=r"overloaded.*not requested again"):
        teacher_at(server, retries=1).answer(TEXTS * 10, REQUEST)
    assert 2 * 8 <= len(server.requests) < 60


def test_slow_server_stops_the_run(server: ModelServer) -> None:
    def reply(*_: object) -> Reply:
        time.sleep(0.5)
        return completion("A")

    server.reply = reply
    with pytest.raises(Fault, match=r"no response within 0\.05 seconds"):
        teacher_at(server, timeout=0.05).answer(TEXTS, REQUEST)


@pytest.mark.parametrize(("key", "message"), [(None, "no key: OWN_KEY is not set"), ("wrong", "the key in OWN_KEY")])
def test_missing_or_refused_key_is_a_fault(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch, key: str | None, message: str
) -> None:
    monkeypatch.delenv("OWN_KEY", raising=False)
    if key:
        monkeypatch.setenv("OWN_KEY", key)
    server.reply = lambda *_: error_reply(401, "invalid key")
    with pytest.raises(Fault, match=f"{message}.*another variable with key_env"):
        teacher_at(server, key_env="OWN_KEY").answer(TEXTS, REQUEST)
    assert server.keys == {f"Bearer {key or 'none'}"}


def test_unknown_model_and_unreachable_server_are_faults(server: ModelServer) -> None:
    server.reply = lambda *_: error_reply(404, "no such model")
    with pytest.raises(Fault, match=f"Did you mean model {MODEL}"):
        teacher_at(server, model="writer").answer(TEXTS, REQUEST)
    with pytest.raises(Fault, match="correct endpoint"):
        teacher_at(server, endpoint="http://127.0.0.1:9/v1").answer(TEXTS, REQUEST)


def test_more_labels_than_letters_are_refused(server: ModelServer) -> None:
    with pytest.raises(Fault, match="at most 26 labels"):
        teacher_at(server).answer(TEXTS, replace(REQUEST, labels=tuple(f"label {i}" for i in range(27))))


def test_fingerprint_depends_on_model_prompt_labels_and_address_not_on_speed(server: ModelServer) -> None:
    first = teacher_at(server).fingerprint
    assert teacher_at(server, concurrency=9, retries=2, timeout=1, key_env="OTHER").fingerprint == first
    changes: list[dict[str, object]] = [
        {"model": "other"},
        {"prompt": "{text} {labels}"},
        {"labels": {"bad": "negative"}},
        {"max_tokens": 9},
        {"endpoint": "http://127.0.0.1:9/v1"},
    ]
    assert len({first, *(teacher_at(server, **change).fingerprint for change in changes)}) == 6


def test_letter_probabilities_add_spellings_and_bound_absent_letters() -> None:
    spelled = letter_probabilities([("A", np.log(0.3)), (" A", np.log(0.2)), ("B", np.log(0.5))], 2)
    np.testing.assert_allclose(spelled, [0.5, 0.5])  # type: ignore[arg-type]
    bounded = letter_probabilities([("A", np.log(0.9)), ("x", np.log(0.01))], 3)
    np.testing.assert_allclose(bounded, np.array([0.9, 0.01, 0.01]) / 0.92)  # type: ignore[arg-type]
    lone = letter_probabilities([("B", np.log(0.8))], 3)
    np.testing.assert_allclose(lone, [0.1, 0.8, 0.1])  # type: ignore[arg-type]
    certain = letter_probabilities([("B", 0.0), ("A", -9999.0)], 2)
    assert certain is not None
    assert 0 < certain[0] < 1e-8
    assert letter_probabilities([("The", -0.1)], 3) is None
    assert letter_probabilities([], 3) is None


@pytest.mark.parametrize(
    ("response", "label"),
    [
        ("B", 1),
        (" b.", None),
        ("(C)", 2),
        ("**A**", 0),
        ("A: negative", 0),
        ("B) flat on the day", 1),
        ("The answer is C.", 2),
        ("Neutral", 1),
        ("The tone is positive.", 2),
        ("<think>A</think>C", 2),
        ("A profit is reported", None),
        ("D", None),
        ("A: negative\nB: neutral", None),
        ("negative or positive", None),
        ("", None),
    ],
)
def test_read_label_reads_a_letter_or_a_name_and_nothing_else(response: str, label: int | None) -> None:
    assert read_label(response, LABELS) == label
