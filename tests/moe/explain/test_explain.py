"""Explanations: word weights add up to the prediction, gradients pass the gates, each expert predicts alone."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILIES, Make, save_backbone
from mixtures import random_mixture, save_random_mixture
from rich.console import Console
from typer.testing import CliRunner

from experts.errors import Fault
from moe.checkpoints.mixture import read_mixture, write_mixture
from moe.commands import main as cli
from moe.explain.explain import FIXED, ONE_EXPERT, Explanation, explain
from moe.explain.lexicon import build_lexicon, check_explanation
from moe.explain.terminal import explanation_view
from moe.inference.calibration import Calibration, TaskCalibration
from moe.inference.stream import predict_texts
from moe.inference.text_io import OutputTarget, TextSource
from moe.inference.torch_predictor import TorchPredictor
from moe.model.backbone import load_backbone
from moe.model.mode import RoutingMode

TEXT = "Profit rose today, the bank held"


def build(work: Any, gate: str = "soft", heads: str = "per_expert", experts: int = 1, **options: Any) -> TorchPredictor:
    """A predictor whose router differs from its initial state."""
    model = random_mixture(load_backbone(work.run.backbone), work, gate, heads, experts)
    assert model.gate is not None
    with torch.no_grad():
        for parameter in model.gate.net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return TorchPredictor(model, "{text}", 16, **options)


@pytest.fixture
def predictor(make_work: Make) -> TorchPredictor:
    return build(make_work())


def odds_of(probability: float) -> float:
    return float(torch.logit(torch.tensor(probability, dtype=torch.float64)))


@pytest.mark.parametrize("gate", ["soft", "hard", "team"])
def test_explain_weights_add_up_to_the_difference_from_the_blank_text(make_work: Make, gate: str) -> None:
    predictor = build(make_work(), gate, experts=2)
    explanation = explain(predictor, TEXT.lower(), steps=100)
    for attribution in (explanation.why, explanation.router):
        assert attribution is not None
        total = sum(word.weight for word in attribution.words)
        assert total == pytest.approx(attribution.value - attribution.blank, abs=0.02)
        assert attribution.delta == pytest.approx(0, abs=0.02)
    assert explanation.why.value == pytest.approx(odds_of(explanation.answer["confidence"]), abs=1e-3)
    assert any(abs(word.weight) > 0.01 for word in explanation.why.words)


def test_explain_delta_is_larger_with_few_steps(predictor: TorchPredictor) -> None:
    rough, fine = (explain(predictor, TEXT.lower(), steps=steps).why for steps in (1, 200))
    assert abs(rough.delta) > abs(fine.delta)


def test_explain_gradients_pass_through_the_gates(predictor: TorchPredictor) -> None:
    full = explain(predictor, TEXT.lower(), steps=50).why
    detached = explain(predictor.with_mode(RoutingMode(detach_gates=True)), TEXT.lower(), steps=50).why
    assert max(abs(a.weight - b.weight) for a, b in zip(full.words, detached.words, strict=True)) > 1e-4
    assert abs(detached.delta) > abs(full.delta)


def test_explain_returns_the_words_of_the_text_with_their_spans(predictor: TorchPredictor) -> None:
    text = "  Don't sell $CRUX: up 1,234.5% today — 上涨!"
    predictor.spec = predictor.spec.model_copy(update={"max_length": 40})
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
    ]  # two characters, one token
    assert all(text[word.start : word.end] == word.word for word in words)


def test_explain_omits_truncated_words(predictor: TorchPredictor) -> None:
    explanation = explain(predictor, "bank " * 40, steps=2)
    assert explanation.answer["truncated"]
    assert len(explanation.why.words) == 14


def test_explain_template_contributes_nothing_and_shifts_no_span(make_work: Make) -> None:
    predictor = build(make_work())
    predictor.spec = predictor.spec.model_copy(update={"template": "today {text} again"})
    explanation = explain(predictor, "profit rose", steps=64)
    assert [(word.word, word.start) for word in explanation.why.words] == [("profit", 0), ("rose", 7)]
    assert explanation.why.delta == pytest.approx(0, abs=0.02)


def test_explain_expert_alone_equals_its_pinned_prediction(predictor: TorchPredictor) -> None:
    explanation = explain(predictor, "moon bags fell", task="forum", steps=2)
    assert list(explanation.alone) == ["news", "forum"]
    for name, alone in explanation.alone.items():
        (pinned,) = predict_texts(["moon bags fell"], predictor, name, "forum" if name == "forum" else None)
        assert (alone.label, alone.share) == (
            pinned.label,
            pytest.approx(explanation.answer["experts"][name], abs=1e-6),
        )
        assert alone.probability == pytest.approx(pinned.confidence, abs=1e-5)


def test_explain_leaves_the_model_unchanged(predictor: TorchPredictor) -> None:
    before = predict_texts([TEXT], predictor)[0].probabilities
    trainable = [parameter.requires_grad for parameter in predictor.model.parameters()]
    explain(predictor, TEXT, steps=2)
    assert (predict_texts([TEXT], predictor)[0].probabilities == before).all()
    assert [parameter.requires_grad for parameter in predictor.model.parameters()] == trainable
    assert all(parameter.grad is None for parameter in predictor.model.parameters())


def test_explain_with_hard_routing_names_the_selected_expert(make_work: Make) -> None:
    predictor = build(make_work(), routing="hard")
    explanation = explain(predictor, TEXT.lower(), steps=64)
    assert explanation.why.delta == pytest.approx(0, abs=0.02)
    assert explanation.router is not None
    assert explanation.router.of == max(explanation.answer["experts"], key=explanation.answer["experts"].get)
    assert explanation.answer["label"] == explanation.alone[explanation.router.of].label


def test_explain_routing_of_pinned_texts_and_of_constant_gates(make_work: Make) -> None:
    work = make_work()
    pinned = explain(build(work, experts=2), TEXT, domain="forum", steps=2)
    assert pinned.router is not None
    assert pinned.router.of.startswith("forum")
    fixed = explain(build(work, "fixed"), TEXT, steps=2)
    assert (fixed.router, fixed.unrouted) == (None, FIXED)


def test_explain_attributes_calibrated_log_odds(make_work: Make) -> None:
    fitted = {task: TaskCalibration(temperature=2.0, rows=40, curve=()) for task in ("news", "forum")}
    predictor = build(make_work(), calibration=Calibration(model="", tasks=fitted))
    explanation = explain(predictor, TEXT.lower(), steps=100)
    assert explanation.why.value == pytest.approx(odds_of(explanation.answer["confidence"]), abs=1e-3)


@pytest.mark.parametrize("family", ["deberta-v2", "gpt2", "opt", "modernbert", "electra", "gemma2"])
def test_explain_weights_add_up_in_other_families(family: str, make_work: Make, tmp_path: Path) -> None:
    assert family in FAMILIES
    work = make_work(backbone={"name": str(save_backbone(tmp_path / family, family)), "pooling": "last"})
    predictor = build(work)
    predictor.tokenizer.mask_token = "[UNK]"  # padding embeds to zeros, where layer norm is almost discontinuous
    explanation = explain(predictor, TEXT.lower(), steps=64)
    assert explanation.blank == "[UNK]"
    assert explanation.why.delta == pytest.approx(0, abs=0.02)


def render(explanation: Explanation, **options: Any) -> str:
    console = Console(width=100, record=True, file=io.StringIO(), **options)
    console.print(explanation_view(explanation))
    return console.export_text(styles="force_terminal" in options)


def test_explanation_view_is_readable_without_colour(predictor: TorchPredictor) -> None:
    explanation = explain(predictor, TEXT, steps=8)
    text = render(explanation, no_color=True)
    assert TEXT in text
    for word in explanation.why.words:
        assert f"{word.weight:+.2f}" in text
    assert "each expert alone" in text
    assert "[PAD]" in text


def test_explanation_view_does_not_interpret_brackets_as_markup(predictor: TorchPredictor) -> None:
    assert "[red]bank[/red]" in render(explain(predictor, "[red]bank[/red] rose", steps=2))


# --- lexicon of a corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("Profit rose today\nprofit fell\n\nthe bank held, bank\n", encoding="utf-8")
    return path


def test_lexicon_counts_each_word_and_averages_its_weights(predictor: TorchPredictor, corpus: Path) -> None:
    report = build_lexicon(predictor, TextSource(file=corpus), task="news", min_count=1, steps=4)
    (lexicon,) = report.lexicons
    counts = {row.word: row.count for row in lexicon.words}
    assert (report.texts, lexicon.texts) == (3, 3)
    assert counts == {"profit": 2, "rose": 1, "today": 1, "fell": 1, "the": 1, "bank": 2, "held": 1, ",": 1}
    texts = ["Profit rose today", "profit fell"]
    for label in lexicon.labels:
        weights = []
        for text in texts:
            explanation = explain(predictor, text, task="news", steps=4)
            if explanation.why.of == label:
                weights.append(explanation.why.words[0].weight)
        row = next(row for row in lexicon.words if row.word == "profit")
        if len(weights) == 2:
            assert row.weight[label] == pytest.approx(sum(weights) / 2, abs=1e-4)


def test_lexicon_omits_rare_words_and_later_texts(predictor: TorchPredictor, corpus: Path) -> None:
    (lexicon,) = build_lexicon(predictor, TextSource(file=corpus), task="news", min_count=2, steps=2).lexicons
    assert {row.word for row in lexicon.words} == {"profit", "bank"}
    assert all(row.spread is not None for row in lexicon.words)
    assert build_lexicon(predictor, TextSource(file=corpus), task="news", max_texts=1, steps=2).texts == 1


def test_lexicon_does_not_depend_on_the_batch_size(predictor: TorchPredictor, corpus: Path) -> None:
    options: dict[str, Any] = {"task": "news", "min_count": 1, "steps": 4}
    reports = [build_lexicon(predictor, TextSource(file=corpus), **options)]
    predictor.batch_tokens = 1
    reports.append(build_lexicon(predictor, TextSource(file=corpus), **options))
    words = [sorted(report.lexicons[0].words, key=lambda row: row.word) for report in reports]
    for a, b in zip(*words, strict=True):
        assert a.weight == pytest.approx(b.weight, abs=1e-4)


# --- the command


@pytest.fixture
def run(make_work: Make, tmp_path: Path) -> Callable[..., Any]:
    work = make_work()
    folder = save_random_mixture(tmp_path / "mixture", load_backbone(work.run.backbone), work)

    def invoke(*words: str) -> Any:
        return CliRunner().invoke(cli.app, ["explain", str(folder), *words])

    return invoke


def test_explain_command_prints_one_json_object_per_text(run: Callable[..., Any]) -> None:
    result = run("profit rose", "bags fell", "--steps", "2")
    assert result.exit_code == 0
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["profit rose", "bags fell"]
    assert {"answer", "why", "router", "alone", "blank"} <= rows[0].keys()


def test_explain_command_writes_a_lexicon(run: Callable[..., Any], corpus: Path, tmp_path: Path) -> None:
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
def test_explain_command_refuses_invalid_arguments(run: Callable[..., Any], words: list[str]) -> None:
    result = run(*words)
    assert isinstance(result.exception, Fault), result.output


def test_explain_without_captum_names_the_extra(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(Fault, match=r"finmoe\[explain\]"):
        check_explanation(TextSource(("bank",)), OutputTarget())


def test_explain_of_a_single_expert_has_no_routing(predictor: TorchPredictor) -> None:
    with predictor.model.single_expert("news") as mode:
        explanation = explain(predictor.with_mode(mode), TEXT, steps=2)
    assert (explanation.router, explanation.unrouted, explanation.alone) == (None, ONE_EXPERT, {})


def test_explain_refuses_a_language_model(make_work: Make, tmp_path: Path) -> None:
    work = make_work()
    backbone = load_backbone(work.run.backbone)
    folder = save_random_mixture(tmp_path / "mixture", backbone, work)
    model, card = read_mixture(folder)
    write_mixture(folder, model, card.model_copy(update={"language": True}), "", {}, overwrite=True)
    result = CliRunner().invoke(cli.app, ["explain", str(folder), "bank"])
    assert isinstance(result.exception, Fault)
    assert "found a language model at" in str(result.exception)
