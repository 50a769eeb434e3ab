"""Claims about questions as typed: instruct, evaluate, ablate, augment of a language model; and what they refuse."""

import json
from pathlib import Path

import pytest
from command_line import CommandLine, moe
from corpora import asking, save_model, write_corpora

__all__ = ["moe"]
WORDS = ("-c", "asking.yaml", "-o", "asking")
FEW = {"steps": 3, "batch_size": 8, "evals": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with corpora, questions, a tiny decoder and a config."""
    folder = tmp_path_factory.mktemp("asking")
    save_model(folder / "model", "llama")
    write_corpora(folder / "data")
    stages = dict.fromkeys(("pretrain", "warmup", "joint"), FEW)
    (folder / "asking.yaml").write_text(asking(folder, stages=stages).run.as_yaml())
    return folder


@pytest.fixture
def desk(moe: CommandLine, place: Path) -> CommandLine:
    """The desk, once a team was taught."""
    if not (place / "asking" / "moe-instruct").exists():
        sets = ("--set", "stages.instruct.steps=10", "--set", "stages.instruct.evals=1")
        for words in (("pretrain", "--all"), ("merge",), ("train-router",), ("instruct", *sets)):
            code, _, err = moe(*words, *WORDS)
            assert code == 0, err
    return moe


def test_questions_are_asked_of_the_taught_team_and_of_the_bare_backbone(desk: CommandLine, place: Path) -> None:
    code, out, err = desk("evaluate", *WORDS, "--tasks", "news-tone", "--most", "6")
    assert code == 0, err
    found = json.loads(out)
    assert found["model"].endswith("moe-instruct")
    assert found["questions"] == 6
    assert found["tasks"]["news-tone"]["missing"] == 0.0
    code, out, err = desk("evaluate", "asking/moe-instruct", *WORDS, "--by", "generation", "--bare", "--most", "3")
    assert code == 0, err
    assert json.loads(out)["by"] == "generation"
    assert (place / "asking" / "evaluation" / "moe-instruct-bare" / "answers.jsonl").is_file()


def test_rows_of_an_ablation_are_listed_and_done(desk: CommandLine) -> None:
    code, out, err = desk("ablate", *WORDS, "--list")
    assert code == 0, err
    assert "backbone-alone" in [row["name"] for row in json.loads(out)]
    code, out, err = desk("ablate", *WORDS, "--only", "backbone-alone")
    assert code == 0, err
    assert [row["name"] for row in json.loads(out)["rows"]] == ["full", "backbone-alone"]


def test_what_instruction_taught_is_in_the_report(desk: CommandLine) -> None:
    code, out, err = desk("report", "asking")
    assert code == 0, err
    assert "moe-instruct" in [row["stage"] for row in json.loads(out)["stages"]]


def test_a_dry_run_of_augmentation_asks_nobody(desk: CommandLine) -> None:
    code, out, err = desk("augment", "--all", "--dry-run", *WORDS)
    assert code == 0, err
    assert {one["task"] for one in json.loads(out)["tasks"]} == {"news-tone", "forum-tone"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("instruct", *WORDS), "moe-instruct"),
        (("instruct", "-c", "asking.yaml", "-o", "other"), "a mixture in other"),
        (("instruct", *WORDS, "--overwrite", "--set", "backbone.max_length=8"), "at most 8 tokens"),
        (("evaluate", *WORDS, "--tasks", "news-tune"), "Did you mean news-tone"),
        (("evaluate", *WORDS, "--domain", "news"), "--tasks for a language model"),
        (("evaluate", "--tasks", "fpb"), "a run over a language model"),
        (("evaluate", *WORDS, "--by", "luck"), "likelihood, generation"),
        (("evaluate", *WORDS, "--data", "none.jsonl", "--tasks", "fpb"), "nothing there"),
        (("augment", "--all", *WORDS, "--local", "nowhere"), "a language model's folder at nowhere"),
        (("augment", "--all", *WORDS), "--base-url"),
        (("check", "asking.yaml", "--set", "domains.news.tasks.news-tone.ask=fbp"), "template that contains {text}"),
        (("check", "asking.yaml", "--set", "domains.news.tasks.news-tone.ask=null"), "give it `ask`"),
        (("check", "asking.yaml", "--set", "domains.news.tasks.news-tone.file=none.csv"), "no file at"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(desk: CommandLine, words: tuple[str, ...], told: str) -> None:
    assert told in desk.refused(*words)
