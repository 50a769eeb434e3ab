"""Claims about explanations: words add up to the answer, the gates take part, each expert is heard alone."""

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILIES, Make, save_backbone
from mixtures import mixture, written
from rich.console import Console
from typer.testing import CliRunner

from experts.errors import Fault
from moe.checkpoints.mixture import read_mixture, write_mixture
from moe.commands import main as cli
from moe.explain.explain import FIXED, ONE_EXPERT, Explanation, explain
from moe.explain.lexicon import LexiconRequest, build_lexicon
from moe.explain.terminal import explanation_view
from moe.inference.calibration import Calibration, TaskCalibration
from moe.inference.predictor import Predictor
from moe.inference.stream import predict_texts
from moe.model.backbone import load_backbone

TEXT = "Profit rose today, the bank held"


def made(work: Any, gate: str = "soft", heads: str = "per_expert", experts: int = 1, **how: Any) -> Predictor:
    """A mixture whose router has learned something."""
    model = mixture(load_backbone(work.run.backbone), work, gate, heads, experts)
    assert model.gate is not None
    with torch.no_grad():
        for parameter in model.gate.net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return Predictor(model, "{text}", 16, **how)


@pytest.fixture
def predictor(make_work: Make) -> Predictor:
    return made(make_work())


def odds_of(probability: float) -> float:
    return float(torch.logit(torch.tensor(probability, dtype=torch.float64)))


@pytest.mark.parametrize("gate", ["soft", "hard", "team"])
def test_the_words_add_up_to_what_the_text_says_beyond_a_blank_one(make_work: Make, gate: str) -> None:
    predictor = made(make_work(), gate, experts=2)
    found = explain(predictor, TEXT.lower(), steps=100)
    for one in (found.why, found.router):
        assert one is not None
        assert sum(word.weight for word in one.words) == pytest.approx(one.value - one.blank, abs=0.02)
        assert one.delta == pytest.approx(0, abs=0.02)
    assert found.why.value == pytest.approx(odds_of(found.answer["confidence"]), abs=1e-3)
    assert any(abs(word.weight) > 0.01 for word in found.why.words)


def test_few_steps_are_told_by_the_delta(predictor: Predictor) -> None:
    rough, fine = (explain(predictor, TEXT.lower(), steps=steps).why for steps in (1, 200))
    assert abs(rough.delta) > abs(fine.delta)


def test_the_gates_take_part_in_the_gradient(predictor: Predictor) -> None:
    free = explain(predictor, TEXT.lower(), steps=50).why
    predictor.model.detach_gates = True
    held = explain(predictor, TEXT.lower(), steps=50).why
    assert max(abs(a.weight - b.weight) for a, b in zip(free.words, held.words, strict=True)) > 1e-4
    assert abs(held.delta) > abs(free.delta)


def test_words_are_the_texts_own_with_their_places(predictor: Predictor) -> None:
    text = "  Don't sell $CRUX: up 1,234.5% today — 上涨!"
    predictor.max_length = 40
    words = explain(predictor, text, steps=2).why.words
    assert [word.word for word in words] == [
        "Don't",
        "sell",
        "$CRUX",
        ":",
        "up",
        "1,234.5%",
        "today",
        "—",
        "上涨",
        "!",
    ]  # two letters, one token
    assert all(text[word.start : word.end] == word.word for word in words)


def test_what_was_cut_off_has_no_weight(predictor: Predictor) -> None:
    found = explain(predictor, "bank " * 40, steps=2)
    assert found.answer["truncated"]
    assert len(found.why.words) == 14


def test_the_template_adds_nothing_and_shifts_no_word(make_work: Make) -> None:
    predictor = made(make_work())
    predictor.template = "today {text} again"
    found = explain(predictor, "profit rose", steps=64)
    assert [(word.word, word.start) for word in found.why.words] == [("profit", 0), ("rose", 7)]
    assert found.why.delta == pytest.approx(0, abs=0.02)


def test_each_expert_alone_says_what_it_says_when_pinned(predictor: Predictor) -> None:
    found = explain(predictor, "moon bags fell", task="forum", steps=2)
    assert list(found.alone) == ["news", "forum"]
    for name, one in found.alone.items():
        (pinned,) = predict_texts(["moon bags fell"], predictor, name, "forum" if name == "forum" else None)
        assert (one["label"], one["share"]) == (pinned.label, pytest.approx(found.answer["experts"][name], abs=1e-6))
        assert one["probability"] == pytest.approx(pinned.confidence, abs=1e-5)


def test_nothing_of_the_model_is_changed(predictor: Predictor) -> None:
    before = predict_texts([TEXT], predictor)[0].probabilities
    learning = [parameter.requires_grad for parameter in predictor.model.parameters()]
    explain(predictor, TEXT, steps=2)
    assert (predict_texts([TEXT], predictor)[0].probabilities == before).all()
    assert [parameter.requires_grad for parameter in predictor.model.parameters()] == learning
    assert all(parameter.grad is None for parameter in predictor.model.parameters())


def test_hard_routing_is_explained_by_the_expert_it_asks(make_work: Make) -> None:
    predictor = made(make_work(), routing="hard")
    found = explain(predictor, TEXT.lower(), steps=64)
    assert found.why.delta == pytest.approx(0, abs=0.02)
    assert found.router is not None
    assert found.router.of == max(found.answer["experts"], key=found.answer["experts"].get)
    assert found.answer["label"] == found.alone[found.router.of]["label"]


def test_a_pinned_text_is_explained_by_its_experts_and_a_constant_route_by_no_words(make_work: Make) -> None:
    work = make_work()
    pinned = explain(made(work, experts=2), TEXT, domain="forum", steps=2)
    assert pinned.router is not None
    assert pinned.router.of.startswith("forum")
    fixed = explain(made(work, "fixed"), TEXT, steps=2)
    assert (fixed.router, fixed.unrouted) == (None, FIXED)


def test_calibrated_odds_are_explained(make_work: Make) -> None:
    fitted = {task: TaskCalibration(temperature=2.0, rows=40, curve=()) for task in ("news", "forum")}
    predictor = made(make_work(), calibration=Calibration(model="", tasks=fitted))
    found = explain(predictor, TEXT.lower(), steps=100)
    assert found.why.value == pytest.approx(odds_of(found.answer["confidence"]), abs=1e-3)


@pytest.mark.parametrize("family", ["deberta-v2", "gpt2", "opt", "modernbert", "electra", "gemma2"])
def test_other_families_add_up_too(family: str, make_work: Make, tmp_path: Path) -> None:
    assert family in FAMILIES
    work = make_work(backbone={"name": str(save_backbone(tmp_path / family, family)), "pooling": "last"})
    predictor = made(work)
    predictor.tokenizer.mask_token = "[UNK]"  # padding is a row of zeros, and a norm of it all but a jump
    found = explain(predictor, TEXT.lower(), steps=64)
    assert found.blank == "[UNK]"
    assert found.why.delta == pytest.approx(0, abs=0.02)


def drawn(found: Explanation, **how: Any) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"), **how)  # noqa: SIM115, PTH123
    console.print(explanation_view(found))
    return console.export_text(styles="force_terminal" in how)


def test_the_view_reads_without_colour(predictor: Predictor) -> None:
    found = explain(predictor, TEXT, steps=8)
    text = drawn(found, no_color=True)
    assert TEXT in text
    for word in found.why.words:
        assert f"{word.weight:+.2f}" in text
    assert "each expert alone" in text
    assert "[PAD]" in text


def test_texts_with_brackets_are_shown_as_they_are(predictor: Predictor) -> None:
    assert "[red]bank[/red]" in drawn(explain(predictor, "[red]bank[/red] rose", steps=2))


# --- the words of a corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("Profit rose today\nprofit fell\n\nthe bank held, bank\n", encoding="utf-8")
    return path


def test_a_corpus_counts_each_word_and_averages_its_weights(predictor: Predictor, corpus: Path) -> None:
    report = build_lexicon(predictor, LexiconRequest(file=corpus, task="news", min_count=1), steps=4)
    (one,) = report["lexicons"]
    counts = {row["word"]: row["count"] for row in one["words"]}
    assert (report["texts"], one["texts"]) == (3, 3)
    assert counts == {"profit": 2, "rose": 1, "today": 1, "fell": 1, "the": 1, "bank": 2, "held": 1, ",": 1}
    texts = ["Profit rose today", "profit fell"]
    for label in one["labels"]:
        each = []
        for text in texts:
            found = explain(predictor, text, task="news", steps=4)
            if found.why.of == label:
                each.append(found.why.words[0].weight)
        row = next(row for row in one["words"] if row["word"] == "profit")
        if len(each) == 2:
            assert row["weight"][label] == pytest.approx(sum(each) / 2, abs=1e-4)


def test_rare_words_and_later_texts_are_left_out(predictor: Predictor, corpus: Path) -> None:
    (one,) = build_lexicon(predictor, LexiconRequest(file=corpus, task="news", min_count=2), steps=2)["lexicons"]
    assert {row["word"] for row in one["words"]} == {"profit", "bank"}
    assert all(row["spread"] is not None for row in one["words"])
    assert build_lexicon(predictor, LexiconRequest(file=corpus, task="news", max_texts=1), steps=2)["texts"] == 1


def test_words_do_not_depend_on_the_batch(predictor: Predictor, corpus: Path) -> None:
    whole = build_lexicon(predictor, LexiconRequest(file=corpus, task="news", min_count=1), steps=4)
    predictor.batch_tokens = 1
    single = build_lexicon(predictor, LexiconRequest(file=corpus, task="news", min_count=1), steps=4)
    for a, b in zip(
        *(sorted(one["lexicons"][0]["words"], key=lambda row: row["word"]) for one in (whole, single)), strict=True
    ):
        assert a["weight"] == pytest.approx(b["weight"], abs=1e-4)


# --- the command


@pytest.fixture
def run(make_work: Make, tmp_path: Path) -> Callable[..., Any]:
    work = make_work()
    folder = written(tmp_path / "mixture", load_backbone(work.run.backbone), work)

    def invoke(*words: str) -> Any:
        return CliRunner().invoke(cli.app, ["explain", str(folder), *words])

    return invoke


def test_the_command_prints_an_object_a_text(run: Callable[..., Any]) -> None:
    result = run("profit rose", "bags fell", "--steps", "2")
    assert result.exit_code == 0
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["profit rose", "bags fell"]
    assert {"answer", "why", "router", "alone", "blank"} <= rows[0].keys()


def test_the_command_writes_a_corpus_words(run: Callable[..., Any], corpus: Path, tmp_path: Path) -> None:
    words = ["--file", str(corpus), "--min-count", "1", "--steps", "2", "--task", "news"]
    assert run(*words, "--out", str(tmp_path / "words.csv")).exit_code == 0
    head = (tmp_path / "words.csv").read_text(encoding="utf-8").splitlines()[0]
    assert head.startswith("labels,word,count,weight.negative")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["bank", "--file", "x.csv"],
        ["bank", "--out", "x.csv"],
        ["--file", "gone.csv"],
        ["  "],
        ["bank", "--task", "x"],
    ],
)
def test_what_cannot_be_explained_is_refused(run: Callable[..., Any], words: list[str]) -> None:
    result = run(*words)
    assert isinstance(result.exception, Fault), result.output


def test_without_captum_the_extra_is_named(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def without(name: str, *others: Any, **more: Any) -> Any:
        if name.startswith("captum"):
            raise ImportError(name)
        return whole(name, *others, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Fault, match=r"finmoe\[explain\]"):
        LexiconRequest(("bank",)).check()


def test_a_lone_expert_is_explained_without_a_router(predictor: Predictor) -> None:
    with predictor.model.single_expert("news"):
        found = explain(predictor, TEXT, steps=2)
    assert (found.router, found.unrouted, found.alone) == (None, ONE_EXPERT, {})


def test_a_language_model_is_refused(make_work: Make, tmp_path: Path) -> None:
    work = make_work()
    backbone = load_backbone(work.run.backbone)
    folder = written(tmp_path / "mixture", backbone, work)
    model, card = read_mixture(folder)
    write_mixture(folder, model, card.model_copy(update={"language": True}), "", {}, overwrite=True)
    result = CliRunner().invoke(cli.app, ["explain", str(folder), "bank"])
    assert isinstance(result.exception, Fault)
    assert "a language model's" in str(result.exception)
