"""The end of a run: all models on the test rows, the verdict, and the examples."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from conftest import Make, made_up_rows, write_csv
from rich.console import Console

from moe.checkpoints.expert import load_single_expert
from moe.checkpoints.mixture import read_mixture
from moe.config.run import load_run
from moe.evaluation.evaluate import evaluate
from moe.inference.torch_predictor import TorchPredictor
from moe.results.run import RunSummary
from moe.runs.workspace import Workspace
from moe.training import pipeline


class NoPredictor(TorchPredictor):
    """Stands in for a model, which the stand-in of `predict_rows` does not use."""

    def __init__(self) -> None:
        pass


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return rows without predictions."""

    def predict(rows: Iterable[dict[str, Any]], predictor: TorchPredictor) -> Iterable[dict[str, Any]]:
        return rows

    monkeypatch.setattr(pipeline, "predict_rows", predict)


@pytest.mark.usefixtures("no_model")
def test_examples_of_a_run_on_the_sample_are_plain_sentences_of_no_domain_s_rows(tmp_path: Path) -> None:
    work = Workspace(load_run(None, ["sample.rows=60"]), tmp_path)
    texts = [row["text"] for row in pipeline.example_predictions(work, NoPredictor())]
    assert texts == list(pipeline.PLAIN_SENTENCES)
    assert not set(texts) & set(work.rows("test")["text"])


@pytest.mark.usefixtures("no_model")
def test_examples_of_a_run_on_files_are_its_first_test_rows_domains_in_turn(make_work: Make) -> None:
    work = make_work()
    texts = [row["text"] for row in pipeline.example_predictions(work, NoPredictor())]
    news, forum = (work.rows("test", [domain])["text"] for domain in ("news", "forum"))
    assert texts == [news[0], forum[0], news[1]]


@pytest.mark.usefixtures("no_model")
def test_examples_are_test_rows_if_one_domain_has_a_file(make_work: Make) -> None:
    work = make_work(sample={"rows": 60}, domains={"forum": {"file": None}})
    texts = [row["text"] for row in pipeline.example_predictions(work, NoPredictor())]
    assert texts[0] == work.rows("test", ["news"])["text"][0]


def test_run_ends_with_all_models_on_the_test_rows_and_a_verdict(make_work: Make) -> None:
    work = make_work(shared={"r": 2})
    summary = pipeline.run_all(work)
    best = summary.best
    mixtures = ["moe-init", "router-warmup", "moe-joint"]
    names = [
        "majority",
        "tfidf",
        "shared expert",
        "own expert",
        "pooled LoRA",
        *mixtures,
        f"{best}, hard",
        f"{best}, pinned",
    ]
    assert list(summary.figures) == list(summary.means) == names
    scores = {"mse", "mae", "pearson", "spearman", "cosine", "mse_interval"}
    labels = {"accuracy", "accuracy_interval", "macro_f1", "macro_f1_interval"}
    for figures in summary.figures.values():
        assert figures.keys() == {"news", "forum"}
        assert all(labels | scores < metrics.model_fields_set for metrics in figures.values())
    assert summary.figures["majority"]["news"].pearson is None
    assert list(summary.differences) == ["tfidf", "own expert", "pooled LoRA"]
    assert len(summary.conclusions) == 3
    assert "NaN" not in (work.out / "summary.json").read_text()
    assert json.loads((work.out / "summary.json").read_text())["conclusions"] == summary.conclusions
    console = Console(width=200)
    with console.capture() as output:
        console.print(pipeline.summary_view(summary))
    assert all(sentence in output.get() for sentence in summary.conclusions)
    check_figures(work, summary)
    check_rows(work.out / "evaluation" / best)


def check_figures(work: Workspace, summary: RunSummary) -> None:
    """Compare figures with evaluations of each model alone."""
    best, rows = summary.best, work.rows("test")
    model, card = read_mixture(work.out / best)
    modes: dict[str, dict[str, Any]] = {
        best: {},
        f"{best}, hard": {"routing": "hard"},
        f"{best}, pinned": {"pin": True},
    }
    for name, options in modes.items():
        report, _ = evaluate(model, rows, card.template, 16, **options)
        for task, figures in summary.figures[name].items():
            assert figures.macro_f1 == report.tasks[task].macro_f1
            assert figures.macro_f1_interval == report.tasks[task].macro_f1_interval
            assert figures.mse == pytest.approx(report.scores[task].mse, abs=1e-5)
    expert, run = load_single_expert(work.expert_folder("forum"))
    report, _ = evaluate(expert, work.rows("test", ["forum"]), run.template, 16)
    assert summary.figures["own expert"]["forum"].accuracy == report.tasks["forum"].accuracy


def check_rows(folder: Path) -> None:
    """The rows of an evaluation have their true and predicted score."""
    files = [(folder / name).read_text(encoding="utf-8").splitlines() for name in ("right.csv", "wrong.csv")]
    rows = [row for lines in files for row in csv.DictReader(lines)]
    assert {float(row["score"]) for row in rows} == {-0.8, 0.0, 0.8}
    assert all(-1 <= float(row["polarity"]) <= 1 for row in rows)


def test_run_without_the_pooled_lora(make_work: Make) -> None:
    work = make_work()
    summary = pipeline.run_all(work, pooled=False)
    assert "pooled LoRA" not in summary.figures
    assert "shared expert" not in summary.figures
    assert list(summary.differences) == ["tfidf", "own expert"]
    assert not (work.out / "pooled").exists()


@pytest.mark.usefixtures("no_model")
def test_examples_skip_domains_without_test_rows(make_work: Make, tmp_path: Path) -> None:
    work = make_work()
    rows = [row | {"split": "train"} if row["split"] == "test" else row for row in made_up_rows("news")]
    write_csv(tmp_path / "data" / "news.csv", rows)
    texts = [row["text"] for row in pipeline.example_predictions(work, NoPredictor())]
    assert texts == work.rows("test", ["forum"])["text"][:3]
