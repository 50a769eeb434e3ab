"""Claims about a language model's commands as typed: pretrain, merge, train-router, generate; and what they refuse."""

import json
from pathlib import Path

import pytest
from command_line import CommandLine, moe
from corpora import make

__all__ = ["moe"]
FEW = {"steps": 3, "batch_size": 8, "evals": 1}
WORDS = ("-c", "team.yaml", "-o", "team")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with corpora, a tiny decoder and a config."""
    folder = tmp_path_factory.mktemp("team")
    work = make(folder, stages={"pretrain": FEW, "warmup": FEW, "joint": FEW})
    (folder / "team.yaml").write_text(work.run.as_yaml())
    return folder


@pytest.fixture
def team(moe: CommandLine, place: Path) -> CommandLine:
    """The desk, once a team is there."""
    if not (place / "team" / "result.json").exists():
        for words in (("pretrain", "--all"), ("merge",), ("train-router",)):
            code, _, err = moe(*words, *WORDS)
            assert code == 0, err
    return moe


def test_a_role_is_pretrained_and_its_folders_are_printed(moe: CommandLine, place: Path) -> None:
    code, out, err = moe("pretrain", "--role", "talk", "-c", "team.yaml", "-o", "one")
    assert code == 0, err
    assert out.split() == ["one/experts/forum", "one/experts/macro"]
    assert "before, perplexity on news" in err
    assert (place / "one" / "logs" / "forum" / "trajectory.parquet").is_file()


def test_a_shared_expert_is_pretrained_by_itself_or_before_all_roles(moe: CommandLine, place: Path) -> None:
    sets = (
        "-c",
        "team.yaml",
        "--set",
        "shared.r=2",
        "--set",
        "stages.shared.steps=2",
        "--set",
        "stages.shared.evals=1",
    )
    code, out, err = moe("pretrain", "--shared", *sets, "-o", "below")
    assert (code, out.split()) == (0, ["below/experts/shared"]), err
    code, out, err = moe("pretrain", "--all", *sets, "-o", "below", "--resume")
    assert code == 0, err
    assert "shared: finished before, kept" in err
    assert [Path(one).name for one in out.split()] == ["shared", "news", "forum", "macro"]


def test_check_tells_what_a_team_lacks_all_at_once(moe: CommandLine, place: Path) -> None:
    code, out, err = moe("check", "team.yaml")
    assert code == 0, err
    assert "experts news, forum, macro; a language model's head" in out
    sets = ("--set", "domains.news.corpus=[]", "--set", "language.general=[none.txt]")
    code, _, err = moe("check", "team.yaml", *sets)
    assert code == 2
    assert "domains.news.corpus: names no file" in err
    assert "language.general: no file at" in err


def test_generate_writes_an_object_a_line_with_the_experts_that_answered(team: CommandLine) -> None:
    code, out, err = team("generate", "team/moe-joint", "profit rose", "moon bags", "--max-new-tokens", "5")
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["prompt"] for row in rows] == ["profit rose", "moon bags"]
    for row in rows:
        assert sum(row["experts"].values()) == pytest.approx(1.0, abs=1e-4)
        assert isinstance(row["answer"], str)


def test_a_teams_training_is_reported(team: CommandLine, place: Path) -> None:
    code, out, err = team("report", "team")
    assert code == 0, err
    stages = {row["stage"]: row for row in json.loads(out)["stages"]}
    assert stages.keys() == {"news", "forum", "macro", "router-warmup", "moe-joint"}
    assert all(row["perplexity"] > 1 and row["macro_f1"] is None for row in stages.values())
    page = (place / "team" / "report" / "index.html").read_text()
    assert "validation perplexity" in page
    assert (place / "team" / "report" / "news-learning.png").is_file()


def test_a_lone_expert_answers_too(team: CommandLine) -> None:
    code, out, err = team("generate", "team/experts/news", "profit rose", "--max-new-tokens", "5")
    assert code == 0, err
    assert json.loads(out)["experts"] == {}


def test_a_files_prompts_are_answered_in_their_place_and_long_ones_told(team: CommandLine, place: Path) -> None:
    long = " ".join(["profit"] * 80)
    (place / "prompts.txt").write_text(f"profit rose\n\n{long}\nmoon\n")
    words = ("--file", "prompts.txt", "--out", "answers.jsonl", "--max-new-tokens", "5")
    code, out, err = team("generate", "team/moe-joint", *words)
    assert (code, out) == (0, ""), err
    rows = [json.loads(line) for line in (place / "answers.jsonl").read_text().splitlines()]
    assert ["answer" in row for row in rows] == [True, False, False, True]
    assert "missing text" in rows[1]["error"]
    assert "at most 59 tokens" in rows[2]["error"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("pretrain", *WORDS), "--role NAME, --all"),
        (("pretrain", "--all", "--shared", *WORDS), "--role NAME, --all, --shared"),
        (("pretrain", "--shared", *WORDS), "shared.r=12"),
        (("pretrain", "--role", "tallk", *WORDS), "Did you mean talk"),
        (("pretrain", "--all", "--role", "talk", *WORDS), "none or several"),
        (("train-expert", "--domain", "news", "-c", "team.yaml", "-o", "other"), "moe pretrain"),
        (("run", "-c", "team.yaml", "-o", "other"), "moe pretrain"),
        (("infer", "--model", "team/moe-joint", "profit"), "a model that gives labels"),
        (("generate", "team/moe-joint"), "prompts or --file"),
        (("generate", "team/moe-joint", " "), "a prompt with words in it"),
        (("generate", "team/nowhere", "profit"), "team/nowhere"),
        (("generate", "team/moe-joint", "profit", "--top-p", "0"), "--top-p above 0"),
        (("generate", "team/moe-joint", "profit", "--routing", "loud"), "--routing soft or hard"),
        (("generate", "team/moe-joint", "profit", "--data-type", "newz", "--max-new-tokens", "5"), "Did you mean news"),
        (("generate", "team/moe-joint", "profit"), "with 128 for the answer in a context of 64"),
        (("generate", "team/moe-joint", "profit", "--chat"), "chat template"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(team: CommandLine, words: tuple[str, ...], told: str) -> None:
    assert told in team.refused(*words)
