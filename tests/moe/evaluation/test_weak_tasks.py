"""Claims about lines at the end of a stage: a weak task gets one line with what to try, a good one gets none."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Make, tiny_tokenizer

from experts.atomic_io import write_json
from moe.config.stages import EXPERT, JOINT, WARMUP, Stage
from moe.data.collator import Collator
from moe.evaluation.evaluate import ONLY_LABEL
from moe.evaluation.levels import macro_f1_error, validation_levels
from moe.evaluation.weak_tasks import FinishedStage, warn_of_weak_tasks
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain

Lines = Callable[..., list[str]]


@pytest.fixture
def lines(make_work: Make) -> Lines:
    """Lines at the end of a stage with these validation metrics."""

    def run(
        best: dict[str, float], stage: Stage = EXPERT, history: list[dict[str, float]] | None = None, **over: Any
    ) -> list[str]:
        work = make_work(**over)
        warn(work, best, stage, history)
        return work.warnings

    return run


def warn(
    work: Workspace, best: dict[str, float], stage: Stage = EXPERT, history: list[dict[str, float]] | None = None
) -> None:
    """End a stage of `work` with these validation metrics."""
    space, max_length = work.run.label_space(), work.run.backbone.resolved_length
    collate = Collator(tiny_tokenizer(), work.run.template, max_length, space, list(work.run.domains))
    evaluations = [best] if history is None else history
    finished = FinishedStage(work, stage, "news", work.rows("train"), collate, best, evaluations)
    warn_of_weak_tasks(finished, ["news", "forum"])


def test_good_tasks_give_no_line(lines: Lines) -> None:
    assert lines({"news_macro_f1": 0.99, "forum_macro_f1": 0.99}) == []


def test_task_with_a_single_predicted_label_is_named_with_the_label_and_what_to_try(lines: Lines) -> None:
    (line,) = lines({"news_macro_f1": 1 / 6, f"news{ONLY_LABEL}": 1.0})
    assert line.startswith(
        "news: the expert predicts only neutral (macro-F1 0.167 on 18 validation rows): try a shared expert ("
    )
    assert "more steps (stages.expert.steps: 6 now), more rows (54 now), a higher rate (stages.expert.lr: 0.01" in line


def test_task_at_the_majoritys_level_gives_a_line(lines: Lines) -> None:
    (line,) = lines({"news_macro_f1": 0.16})
    assert "macro-F1 0.160 of the expert is not above the majority class's 0.167 on 18 validation rows" in line


def test_task_below_tfidf_by_more_than_its_error_gives_a_line(make_work: Make) -> None:
    levels = validation_levels(make_work())["news"].tfidf
    error = macro_f1_error(levels)
    work = make_work()
    warn(work, {"news_macro_f1": levels.macro_f1 - 0.9 * error})
    assert work.warnings == []
    warn(work, {"news_macro_f1": levels.macro_f1 - 1.1 * error})
    assert f"is below TF-IDF's {levels.macro_f1:.3f}" in work.warnings[0]


def test_cut_texts_are_the_first_cause(lines: Lines) -> None:
    (line,) = lines({"news_macro_f1": 0.1}, backbone={"max_length": 8})
    assert ": 100% of its texts are cut at 8 tokens: try backbone.max_length: auto (32 tokens); or " in line


def test_stage_that_was_still_improving_is_a_cause(lines: Lines) -> None:
    history = [{"news_macro_f1": 0.1}, {"news_macro_f1": 0.15}]
    (line,) = lines({"news_macro_f1": 0.15}, history=history, shared={"r": 2})
    assert ": it was still improving when the stage ended: try more steps" in line
    (line,) = lines({"news_macro_f1": 0.15}, history=history[::-1], shared={"r": 2})
    assert "still improving" not in line


def test_mixture_below_its_own_expert_suggests_routing(make_work: Make) -> None:
    work = make_work(out="routed")
    write_json(work.expert_folder("news") / "metrics.json", {"best": {"news_macro_f1": 0.99}})
    warn(work, {"news_macro_f1": 0.2, "routing": 0.85}, WARMUP)
    (line,) = work.warnings
    assert "of the mixture of router-warmup is below TF-IDF's" in line
    assert "its own expert alone has 0.990, and the router recognizes the domain of only 85% of the texts: try " in line
    assert "heads.merge: per_expert; or a longer warm-up (stages.warmup.steps: 6 now), gate.queries: 4" in line


def test_mixture_without_metrics_of_its_experts_still_says_what_to_try(lines: Lines) -> None:
    (line,) = lines({"news_macro_f1": 0.2}, stage=JOINT, shared={"r": 2})
    assert "try more rows (54 now); or a higher rate (stages.joint.lr" in line


def test_labels_that_texts_do_not_show_are_the_cause(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe.evaluation.weak_tasks.is_chance", lambda _: True)
    (line,) = lines({"news_macro_f1": 0.1})
    assert line.endswith(": TF-IDF cannot recognize its labels either: check its text and label columns")


def test_trained_expert_that_learned_nothing_gives_one_line(
    make_work: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    work = make_work(stages={"expert": {"steps": 1, "lr": 1e-9, "head_lr": 1e-9}})
    train_domain(work, "news")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("news: ") and " try " in line]
    assert len(lines) == 1
    assert "the expert" in lines[0]
    assert np.isfinite(float(lines[0].split("macro-F1 ")[1][:5]))
