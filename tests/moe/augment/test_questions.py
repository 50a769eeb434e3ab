"""Claims about synthetic questions: new texts with a wanted answer, kept where it is found again; they train only."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_tokenizer
from corpora import SPOKEN, asking, save_model, write_corpora
from model_server import MODEL, ModelServer, Reply, completion, serving, text_in, turned

from experts.errors import Fault
from moe.augment.backends import EndpointConfig, LocalModel
from moe.augment.pipeline import WRONG_ANSWER, augment, preview
from moe.data.schema import AugmentSettings
from moe.runs.workspace import Workspace

FRAME = "The tone is one of {choices}. Text: {text} Answer:"
AUGMENT = {"variants": 1, "retries": 1, "concurrency": 2}


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """A model to ask."""
    with serving() as model:
        yield model


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    """Two roles with questions in a frame."""
    save_model(tmp_path / "model", "llama")
    write_corpora(tmp_path / "data")
    plain = asking(tmp_path)
    raw = plain.run.model_dump(mode="json")
    raw["data"]["augment"] |= AUGMENT
    for one in raw["domains"].values():
        for task in one["tasks"].values():
            task["ask"] = FRAME
    return Workspace(type(plain.run).model_validate(raw), plain.out)


def written(work: Workspace) -> list[dict[str, Any]]:
    path = work.out / "data" / "news" / "news-tone" / "augmented.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def wanted_of(body: dict[str, Any]) -> str:
    """The answer that a new text is asked for."""
    said = body["messages"][0]["content"]
    return next(word for word in SPOKEN if f"answer to a question about it is: {word}" in said)


def honest(answers: dict[str, str], wrong: int = 0) -> Any:
    """Writes new texts, remembers what they are to say, and answers so when asked; the first ones otherwise."""

    def reply(body: dict[str, Any], nth: int) -> Reply:
        text = turned(body, nth + 1)
        answers[text] = wanted_of(body) if len(answers) >= wrong else "no idea"
        return completion(text)

    return reply


def teach(server: ModelServer, wrong: int = 0) -> dict[str, str]:
    """Have the server write and, asked the task's question, answer."""
    answers: dict[str, str] = {}
    write, own = honest(answers, wrong), server.answer

    def answer(body: dict[str, Any], key: str) -> Reply:
        if len(body["messages"]) == 1:
            text = body["messages"][0]["content"].split("Text: ")[1].removesuffix(" Answer:")
            return completion(f"It is {answers[text]}.")
        return own(body, key)

    server.reply = write
    server.answer = answer  # type: ignore[method-assign]
    return answers


def test_new_questions_have_the_wanted_answer_and_name_their_origin(work: Workspace, server: ModelServer) -> None:
    answers = teach(server)
    (report,) = augment(work, ["news"], EndpointConfig(server.url, MODEL))["tasks"]
    train = {row["id"]: row for row in work.question_task("news", "news-tone").splits["train"]}
    assert report["wanted"] == {"synthetic": len(train)}
    rows = written(work)
    assert report["kept"] == {"synthetic": len(rows)}
    assert len(rows) > 0.9 * len(train)
    for row in rows:
        assert row["origin"] == "synthetic"
        assert row["label"] == train[row["source_id"]]["answer"] == answers[row["text"]]
        assert row["text"] != train[row["source_id"]]["text"]


def test_a_text_whose_answer_the_model_does_not_find_again_is_dropped(work: Workspace, server: ModelServer) -> None:
    teach(server, wrong=5)
    (report,) = augment(work, ["news"], EndpointConfig(server.url, MODEL))["tasks"]
    assert report["dropped"][WRONG_ANSWER] == 5
    assert augment(work, ["news"], EndpointConfig(server.url, MODEL), resume=True)["tasks"][0]["kept"] == report["kept"]
    asked = len(server.asked)
    augment(work, ["news"], EndpointConfig(server.url, MODEL), resume=True)
    assert len(server.asked) == asked, "what was answered is not asked for again"


def test_they_train_in_their_frame_up_to_the_set_share_and_are_never_held_out(
    work: Workspace, server: ModelServer
) -> None:
    teach(server)
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
            assert row["prompt"] == FRAME.replace("{choices}", "fell, held or rose").replace("{text}", row["text"])
            assert row["answer"] in SPOKEN
        for split in ("validation", "test"):
            assert set(more.questions(split)["origin"]) == {"original"}


def test_no_held_out_text_is_sent_and_one_that_comes_back_is_dropped(work: Workspace, server: ModelServer) -> None:
    teach(server)
    held_out = work.held_out.texts[0]
    write = server.reply
    server.reply = lambda body, nth: completion(held_out) if len(server.asked) == 1 else write(body, nth)
    (report,) = augment(work, ["news"], EndpointConfig(server.url, MODEL))["tasks"]
    sent = {text_in(body) for body in server.asked}
    assert not sent & set(work.held_out.texts)
    assert held_out not in [row["text"] for row in written(work)]
    assert report["dropped"]


def test_a_dry_run_shows_the_wanted_answer(work: Workspace) -> None:
    shown = preview(work, ["news"])
    assert shown["tasks"][0]["wanted"]["synthetic"] > 0
    for prompt in shown["prompts"]:
        assert "answer to a question about it is" in prompt["messages"][0]["content"]


def test_a_model_on_this_machine_writes_too_and_one_that_cannot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="folder"):
        LocalModel(str(tmp_path / "none"), AugmentSettings())
    folder = save_model(tmp_path / "model", "llama")
    with pytest.raises(Fault, match="chat template"):
        LocalModel(str(folder), AugmentSettings())
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    writer = LocalModel(str(folder), AugmentSettings(max_tokens=4, temperature=0.5))
    answer = writer.complete([{"role": "user", "content": "moon today"}])
    assert answer.truncated
    assert answer.failure is None
    assert isinstance(answer.text, str)
    torn = (folder / "model.safetensors").read_bytes()[:100]
    (folder / "model.safetensors").write_bytes(torn)
    with pytest.raises(Fault, match="causal language model"):
        LocalModel(str(folder), AugmentSettings())
