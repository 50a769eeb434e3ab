"""Claims about question answering: by likelihood or generation, from the run's questions or a file."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from corpora import LABEL_WORDS, instructed_workspace

from experts.atomic_io import read_json
from experts.errors import Fault
from experts.json_io import to_json
from moe.inference.load_mixture import load_mixture
from moe.qa.evaluate import (
    ChoiceMethod,
    EvalSettings,
    answer_questions,
    evaluate_qa_folder,
    load_file_questions,
    load_run_questions,
    qa_predictions_by_task,
    qa_report,
)
from moe.runs.model_ref import resolve
from moe.runs.workspace import Workspace


@pytest.fixture(scope="module")
def instructed(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A run whose mixture was instruction-tuned on its questions."""
    return instructed_workspace(tmp_path_factory.getbasetemp())


def test_instructed_mixture_answers_test_questions_and_the_bare_backbone_does_not(instructed: Workspace) -> None:
    folder = instructed.out / "moe-instruct"
    report = evaluate_qa_folder(instructed, folder)
    bare = evaluate_qa_folder(instructed, folder, bare=True)
    assert report.tasks.keys() == {"news-tone", "forum-tone"}
    assert report.questions == 48
    assert report.mean.accuracy > 0.7
    assert report.mean.missing == 0.0
    assert bare.mean.accuracy < 0.6
    target = instructed.out / "evaluation" / "moe-instruct"
    assert read_json(target / "questions.json")["mean"] == to_json(report.mean)
    lines = (target / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    correct = [json.loads(line)["right"] for line in lines]
    assert sum(correct) / len(correct) == pytest.approx(report.mean.accuracy)


def test_generated_answers_are_the_most_likely_choices_if_these_are_one_token(instructed: Workspace) -> None:
    model, template, _ = load_mixture(resolve(instructed.out / "moe-instruct"), language=True)
    questions = load_run_questions(instructed, ["news-tone"], 12)
    assert len(questions) == 12
    by_likelihood = answer_questions(model, template, questions)
    generated = answer_questions(model, template, questions, EvalSettings("generation"))
    first_words = [answer.output.split()[0] if answer.output else "" for answer in generated]
    pairs = zip(by_likelihood, first_words, strict=True)
    agreements = [answer.output == word for answer, word in pairs if word in LABEL_WORDS]
    assert len(agreements) > 6
    assert all(agreements)


def test_prompt_that_fills_the_context_is_missing_and_no_other_is_lost(instructed: Workspace) -> None:
    model, template, _ = load_mixture(resolve(instructed.out / "moe-instruct"), language=True)
    first, second = load_run_questions(instructed, ["news-tone"], 2)
    questions = [replace(first, prompt=" ".join([first.prompt] * 9)), second]
    for method in get_args(ChoiceMethod):
        answers = answer_questions(model, template, questions, EvalSettings(method))
        assert answers[0].parsed is None
        assert not answers[0].correct
        assert answers[1].output
        assert qa_report(answers, EvalSettings()).tasks["news-tone"].missing >= 0.5


def test_questions_can_be_pinned_or_routed_hard(instructed: Workspace) -> None:
    model, template, _ = load_mixture(resolve(instructed.out / "moe-instruct"), language=True)
    questions = load_run_questions(instructed, (), 3)
    for settings in (EvalSettings(pin=True), EvalSettings(hard=True), EvalSettings("generation", pin=True)):
        answers = answer_questions(model, template, questions, settings)
        assert [answer.question for answer in answers] == questions
        assert qa_predictions_by_task(answers).keys() == {"news-tone", "forum-tone"}


def test_flare_file_needs_no_task_in_the_config(instructed: Workspace, tmp_path: Path) -> None:
    rows = [
        {"id": str(i), "query": f"moon {word}", "answer": word, "choices": list(LABEL_WORDS)}
        for i, word in enumerate(LABEL_WORDS)
    ]
    path = tmp_path / "flare.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    questions = load_file_questions(path, "fomc", instructed)
    assert [(question.prompt, question.answer, question.choices, question.kind) for question in questions] == [
        (f"moon {word}", word, LABEL_WORDS, "choice") for word in LABEL_WORDS
    ]
    report = evaluate_qa_folder(instructed, instructed.out / "moe-instruct", ["fomc"], path)
    assert report.tasks["fomc"].rows == 3


def test_unknown_tasks_and_methods_are_refused(instructed: Workspace, tmp_path: Path) -> None:
    folder = instructed.out / "moe-instruct"
    unknown_method: dict[str, Any] = {"method": "luck"}
    with pytest.raises(Fault, match="news-tone"):
        evaluate_qa_folder(instructed, folder, ["news-tune"])
    with pytest.raises(Fault, match="likelihood or generation"):
        evaluate_qa_folder(instructed, folder, settings=EvalSettings(**unknown_method))
    with pytest.raises(Fault, match="one task for the file of --data"):
        evaluate_qa_folder(instructed, folder, (), tmp_path / "x.jsonl")
    with pytest.raises(Fault, match="fbp"):
        load_file_questions(tmp_path / "x.jsonl", "fbp", instructed)
