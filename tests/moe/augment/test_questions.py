"""Synthetic questions: new texts with an intended answer, retained if the model gives it, used for training only."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_tokenizer
from corpora import LABEL_WORDS, make_question_workspace, save_language_model, write_corpora
from model_server import MODEL, ModelServer, Reply, completion, reordered, serving, text_in

from experts.errors import Fault
from moe.augment.backends import EndpointConfig, LocalModel
from moe.augment.pipeline import WRONG_ANSWER, augment, preview
from moe.data.schema import AugmentSettings
from moe.runs.workspace import Workspace

TEMPLATE = "The tone is one of {choices}. Text: {text} Answer:"
AUGMENT = {"variants": 1, "retries": 1, "concurrency": 2}


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """A fake model behind an endpoint."""
    with serving() as model:
        yield model


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    """Two roles with a prompt template of their own."""
    save_language_model(tmp_path / "model", "llama")
    write_corpora(tmp_path / "data")
    plain = make_question_workspace(tmp_path)
    raw = plain.run.model_dump(mode="json")
    raw["data"]["augment"] |= AUGMENT
    for domain in raw["domains"].values():
        for task in domain["tasks"].values():
            task["ask"] = TEMPLATE
    return Workspace(type(plain.run).model_validate(raw), plain.out)


def written(work: Workspace) -> list[dict[str, Any]]:
    path = work.out / "data" / "news" / "news-tone" / "augmented.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def intended_answer(body: dict[str, Any]) -> str:
    """The answer that the prompt for a new text names."""
    prompt = body["messages"][0]["content"]
    return next(word for word in LABEL_WORDS if f"answer to a question about it is: {word}" in prompt)


def write_texts(answers: dict[str, str], wrong: int = 0) -> Any:
    """Write new texts and note their intended answers in `answers`, a wrong one for the first `wrong` texts."""

    def reply(body: dict[str, Any], nth: int) -> Reply:
        text = reordered(body, nth + 1)
        answers[text] = intended_answer(body) if len(answers) >= wrong else "no idea"
        return completion(text)

    return reply


def script(server: ModelServer, wrong: int = 0) -> dict[str, str]:
    """Let the server write new texts, and answer the task's question about them."""
    answers: dict[str, str] = {}
    write, own = write_texts(answers, wrong), server.respond

    def respond(body: dict[str, Any], key: str) -> Reply:
        if len(body["messages"]) == 1:
            text = body["messages"][0]["content"].split("Text: ")[1].removesuffix(" Answer:")
            return completion(f"It is {answers[text]}.")
        return own(body, key)

    server.reply = write
    server.respond = respond
    return answers


def test_new_questions_have_the_intended_answer_and_name_their_origin(work: Workspace, server: ModelServer) -> None:
    answers = script(server)
    (report,) = augment(work, ["news"], EndpointConfig(server.url, MODEL)).tasks
    train = {row["id"]: row for row in work.question_task("news", "news-tone").splits["train"]}
    assert report.wanted == {"synthetic": len(train)}
    rows = written(work)
    assert report.kept == {"synthetic": len(rows)}
    assert len(rows) > 0.9 * len(train)
    for row in rows:
        assert row["origin"] == "synthetic"
        assert row["label"] == train[row["source_id"]]["answer"] == answers[row["text"]]
        assert row["text"] != train[row["source_id"]]["text"]


def test_new_questions_that_the_model_answers_otherwise_are_dropped(work: Workspace, server: ModelServer) -> None:
    script(server, wrong=5)
    (report,) = augment(work, ["news"], EndpointConfig(server.url, MODEL)).tasks
    assert report.dropped[WRONG_ANSWER] == 5
    assert augment(work, ["news"], EndpointConfig(server.url, MODEL), resume=True).tasks[0].kept == report.kept
    count = len(server.requests)
    augment(work, ["news"], EndpointConfig(server.url, MODEL), resume=True)
    assert len(server.requests) == count, "a logged response was requested again"


def test_new_questions_train_in_their_template_up_to_max_share_only(work: Workspace, server: ModelServer) -> None:
    script(server)
    augment(work, ["news"], EndpointConfig(server.url, MODEL))
    data = work.run.data.model_copy(update={"augmented": True})
    half = data.augment.model_copy(update={"max_share": 0.5})
    for settings, share in ((data, 0.9), (data.model_copy(update={"augment": half}), 0.5)):
        more = Workspace(work.run.model_copy(update={"data": settings}), work.out)
        own, rows = more.question_task("news", "news-tone").splits["train"], more.questions("train", ["news-tone"])
        new = [row for row in rows if row["origin"] == "synthetic"]
        assert len(rows) == len(own) + len(new)
        assert len(new) >= share * len(own) - 1 if share > 0.5 else len(new) == len(own) // 2
        for row in new:
            assert row["prompt"] == TEMPLATE.replace("{choices}", "fell, held or rose").replace("{text}", row["text"])
            assert row["answer"] in LABEL_WORDS
        for split in ("validation", "test"):
            assert set(more.questions(split)["origin"]) == {"original"}


def test_new_questions_never_use_or_return_a_held_out_text(work: Workspace, server: ModelServer) -> None:
    script(server)
    held_out = work.held_out.texts[0]
    write = server.reply
    server.reply = lambda body, nth: completion(held_out) if len(server.requests) == 1 else write(body, nth)
    (report,) = augment(work, ["news"], EndpointConfig(server.url, MODEL)).tasks
    sent = {text_in(body) for body in server.requests}
    assert not sent & set(work.held_out.texts)
    assert held_out not in [row["text"] for row in written(work)]
    assert report.dropped


def test_preview_of_new_questions_shows_the_intended_answer(work: Workspace) -> None:
    report = preview(work, ["news"])
    assert report.tasks[0].wanted["synthetic"] > 0
    for prompt in report.prompts:
        assert "answer to a question about it is" in prompt.messages[0]["content"]


def test_local_model_completes_a_chat_and_refuses_unusable_folders(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="folder"):
        LocalModel(str(tmp_path / "none"), AugmentSettings())
    folder = save_language_model(tmp_path / "model", "llama")
    with pytest.raises(Fault, match="chat template"):
        LocalModel(str(folder), AugmentSettings())
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    model = LocalModel(str(folder), AugmentSettings(max_tokens=4, temperature=0.5))
    response = model.complete([{"role": "user", "content": "moon today"}])
    assert response.truncated
    assert response.failure is None
    assert isinstance(response.text, str)
    truncated = (folder / "model.safetensors").read_bytes()[:100]
    (folder / "model.safetensors").write_bytes(truncated)
    with pytest.raises(Fault, match="causal language model"):
        LocalModel(str(folder), AugmentSettings())
