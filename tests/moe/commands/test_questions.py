"""Tests for the commands on a language model's questions: instruct, evaluate, ablate, augment; and their errors."""

import json
from pathlib import Path

import pytest
from command_line import CommandLine, moe
from corpora import make_question_workspace, save_language_model, write_corpora

__all__ = ["moe"]
WORDS = ("-c", "questions.yaml", "-o", "questions")
FEW = {"steps": 3, "batch_size": 8, "evals": 1}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folder with corpora, questions, a tiny decoder and a config."""
    folder = tmp_path_factory.mktemp("questions")
    save_language_model(folder / "model", "llama")
    write_corpora(folder / "data")
    stages = dict.fromkeys(("pretrain", "warmup", "joint"), FEW)
    (folder / "questions.yaml").write_text(make_question_workspace(folder, stages=stages).run.as_yaml())
    return folder


@pytest.fixture
def instructed(moe: CommandLine, workdir: Path) -> CommandLine:
    """Command line after a mixture was instruction-tuned."""
    if not (workdir / "questions" / "moe-instruct").exists():
        sets = ("--set", "stages.instruct.steps=10", "--set", "stages.instruct.evals=1")
        for words in (("pretrain", "--all"), ("merge",), ("train-router",), ("instruct", *sets)):
            code, _, err = moe(*words, *WORDS)
            assert code == 0, err
    return moe


def test_evaluate_runs_questions_with_and_without_experts(instructed: CommandLine, workdir: Path) -> None:
    code, out, err = instructed("evaluate", *WORDS, "--tasks", "news-tone", "--max-questions", "6")
    assert code == 0, err
    report = json.loads(out)
    assert report["model"].endswith("moe-instruct")
    assert report["questions"] == 6
    assert report["tasks"]["news-tone"]["missing"] == 0.0
    generated = ("--choice-method", "generation", "--no-experts", "--max-questions", "3")
    code, out, err = instructed("evaluate", "questions/moe-instruct", *WORDS, *generated)
    assert code == 0, err
    assert json.loads(out)["by"] == "generation"
    assert (workdir / "questions" / "evaluation" / "moe-instruct-bare" / "answers.jsonl").is_file()


def test_ablate_lists_and_evaluates_variants_of_a_language_model(instructed: CommandLine) -> None:
    code, out, err = instructed("ablate", *WORDS, "--list")
    assert code == 0, err
    assert "backbone-alone" in [row["name"] for row in json.loads(out)]
    code, out, err = instructed("ablate", *WORDS, "--only", "backbone-alone")
    assert code == 0, err
    assert [row["name"] for row in json.loads(out)["rows"]] == ["full", "backbone-alone"]


def test_report_includes_instruction_tuning(instructed: CommandLine) -> None:
    code, out, err = instructed("report", "questions")
    assert code == 0, err
    assert "moe-instruct" in [row["stage"] for row in json.loads(out)["stages"]]


def test_augment_dry_run_counts_questions_without_a_model(instructed: CommandLine) -> None:
    code, out, err = instructed("data", "augment", "--all", "--dry-run", *WORDS)
    assert code == 0, err
    assert {task["task"] for task in json.loads(out)["tasks"]} == {"news-tone", "forum-tone"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("instruct", *WORDS), "moe-instruct"),
        (("instruct", "-c", "questions.yaml", "-o", "other"), "a mixture in other"),
        (("instruct", *WORDS, "--overwrite", "--set", "backbone.max_length=8"), "at most 8 tokens"),
        (("evaluate", *WORDS, "--tasks", "news-tune"), "Did you mean news-tone"),
        (("evaluate", *WORDS, "--domain", "news"), "--tasks for a language model"),
        (("evaluate", "--tasks", "fpb"), "a language-model run"),
        (("evaluate", *WORDS, "--choice-method", "luck"), "likelihood or generation"),
        (("evaluate", *WORDS, "--data", "none.jsonl", "--tasks", "fpb"), "nothing there"),
        (("data", "augment", "--all", *WORDS, "--local", "nowhere"), "a language model's folder at nowhere"),
        (("data", "augment", "--all", *WORDS), "--base-url"),
        (("check", "questions.yaml", "--set", "domains.news.tasks.news-tone.ask=fbp"), "template that contains {text}"),
        (("check", "questions.yaml", "--set", "domains.news.tasks.news-tone.ask=null"), "set `ask`"),
        (("check", "questions.yaml", "--set", "domains.news.tasks.news-tone.file=none.csv"), "no file at"),
    ],
)
def test_question_commands_refuse_unusable_input_in_one_line(
    instructed: CommandLine, words: tuple[str, ...], message: str
) -> None:
    assert message in instructed.refused(*words)
