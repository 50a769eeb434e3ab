"""Claims about an exam: by likelihood or in writing, from the run's questions or a file, with what is missing told."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from corpora import SPOKEN, taught_below

from experts.atomic_io import read_json
from experts.errors import Fault
from moe.inference.loading import load_language_model
from moe.qa.evaluate import EvalSettings, qa_predictions_by_task, evaluate_qa_folder, answer_questions, load_file_questions, load_run_questions, qa_report
from moe.runs.workspace import Workspace


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A team that was taught its questions."""
    return taught_below(tmp_path_factory.getbasetemp())


def test_a_taught_team_answers_the_run_s_test_questions_and_the_bare_backbone_does_not(taught: Workspace) -> None:
    folder = taught.out / "moe-instruct"
    found = evaluate_qa_folder(taught, folder)
    bare = evaluate_qa_folder(taught, folder, bare=True)
    assert found["tasks"].keys() == {"news-tone", "forum-tone"}
    assert found["questions"] == 48
    assert found["mean"]["accuracy"] > 0.7
    assert found["mean"]["missing"] == 0.0
    assert bare["mean"]["accuracy"] < 0.6
    assert read_json(taught.out / "evaluation" / "moe-instruct" / "questions.json")["mean"] == found["mean"]
    lines = (taught.out / "evaluation" / "moe-instruct" / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    right = [json.loads(line)["right"] for line in lines]
    assert sum(right) / len(right) == pytest.approx(found["mean"]["accuracy"])


def test_written_answers_are_those_that_are_likeliest_where_choices_are_one_token(taught: Workspace) -> None:
    model, template = load_language_model(taught.out / "moe-instruct")
    asked = load_run_questions(taught, ["news-tone"], 12)
    assert len(asked) == 12
    by_choice = answer_questions(model, template, asked)
    written = answer_questions(model, template, asked, EvalSettings("generation"))
    first = [one.said.split()[0] if one.said else "" for one in written]
    same = [one.said == word for one, word in zip(by_choice, first, strict=True) if word in SPOKEN]
    assert len(same) > 6
    assert all(same)


def test_a_prompt_that_fills_the_context_is_missing_and_no_other_is_lost(taught: Workspace) -> None:
    model, template = load_language_model(taught.out / "moe-instruct")
    one, other = load_run_questions(taught, ["news-tone"], 2)
    asked = [replace(one, prompt=" ".join([one.prompt] * 9)), other]
    for by in ("likelihood", "generation"):
        marked = answer_questions(model, template, asked, EvalSettings(by))  # type: ignore[arg-type]
        assert marked[0].taken is None
        assert not marked[0].right
        assert marked[1].said
        assert qa_report(marked, EvalSettings())["tasks"]["news-tone"]["missing"] >= 0.5


def test_pinned_and_hard_exams_are_held_too(taught: Workspace) -> None:
    model, template = load_language_model(taught.out / "moe-instruct")
    asked = load_run_questions(taught, (), 3)
    for sitting in (EvalSettings(pin=True), EvalSettings(hard=True), EvalSettings("generation", pin=True)):
        marked = answer_questions(model, template, asked, sitting)
        assert [one.asked for one in marked] == asked
        assert qa_predictions_by_task(marked).keys() == {"news-tone", "forum-tone"}


def test_a_flare_file_needs_no_task_in_the_config(taught: Workspace, tmp_path: Path) -> None:
    rows = [
        {"id": str(i), "query": f"moon {word}", "answer": word, "choices": list(SPOKEN)}
        for i, word in enumerate(SPOKEN)
    ]
    path = tmp_path / "flare.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = load_file_questions(path, "fomc", taught)
    assert [(one.prompt, one.answer, one.choices, one.kind) for one in asked] == [
        (f"moon {word}", word, SPOKEN, "choice") for word in SPOKEN
    ]
    found = evaluate_qa_folder(taught, taught.out / "moe-instruct", ["fomc"], path)
    assert found["tasks"]["fomc"]["rows"] == 3


def test_unknown_tasks_ways_and_files_are_refused_in_a_sentence(taught: Workspace, tmp_path: Path) -> None:
    folder = taught.out / "moe-instruct"
    with pytest.raises(Fault, match="news-tone"):
        evaluate_qa_folder(taught, folder, ["news-tune"])
    with pytest.raises(Fault, match="likelihood, generation"):
        evaluate_qa_folder(taught, folder, sitting=EvalSettings("luck"))  # type: ignore[arg-type]
    with pytest.raises(Fault, match="one task with --data"):
        evaluate_qa_folder(taught, folder, (), tmp_path / "x.jsonl")
    with pytest.raises(Fault, match="fbp"):
        load_file_questions(tmp_path / "x.jsonl", "fbp", taught)
