"""Tests for the commands of a language model: pretrain, merge, train-router, generate; and their errors."""

import json
from pathlib import Path

import pytest
from command_line import CommandLine, moe
from corpora import make_lm_workspace

__all__ = ["moe"]
FEW = {"steps": 3, "batch_size": 8, "evals": 1}
WORDS = ("-c", "team.yaml", "-o", "team")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folder with corpora, a tiny decoder and a config."""
    folder = tmp_path_factory.mktemp("team")
    work = make_lm_workspace(folder, stages={"pretrain": FEW, "warmup": FEW, "joint": FEW})
    (folder / "team.yaml").write_text(work.run.as_yaml())
    return folder


@pytest.fixture
def team(moe: CommandLine, workdir: Path) -> CommandLine:
    """Command line after the mixture `team` was trained."""
    if not (workdir / "team" / "result.json").exists():
        for words in (("pretrain", "--all"), ("merge",), ("train-router",)):
            code, _, err = moe(*words, *WORDS)
            assert code == 0, err
    return moe


def test_pretrain_of_a_role_prints_the_expert_folders(moe: CommandLine, workdir: Path) -> None:
    code, out, err = moe("pretrain", "--role", "talk", "-c", "team.yaml", "-o", "one")
    assert code == 0, err
    assert out.split() == ["one/experts/forum", "one/experts/macro"]
    assert "before training, perplexity on news" in err
    assert (workdir / "one" / "logs" / "forum" / "trajectory.parquet").is_file()


def test_pretrain_trains_a_shared_expert_alone_or_before_all_roles(moe: CommandLine, workdir: Path) -> None:
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
    code, out, err = moe("pretrain", "--all", *sets, "-o", "below")
    assert code == 0, err
    assert "shared: finished earlier, kept; --overwrite trains it again" in err
    assert [Path(folder).name for folder in out.split()] == ["shared", "news", "forum", "macro"]


def test_check_reports_every_missing_corpus_at_once(moe: CommandLine, workdir: Path) -> None:
    code, out, err = moe("check", "team.yaml")
    assert code == 0, err
    assert "experts news, forum, macro; a language-model head" in out
    sets = ("--set", "domains.news.corpus=[]", "--set", "language.general=[none.txt]")
    code, _, err = moe("check", "team.yaml", *sets)
    assert code == 2
    assert "domains.news.corpus: no file" in err
    assert "language.general: no file at" in err


def test_generate_prints_one_json_object_per_line_with_routing_weights(team: CommandLine) -> None:
    code, out, err = team("generate", "team/moe-joint", "profit rose", "moon bags", "--max-new-tokens", "5")
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["prompt"] for row in rows] == ["profit rose", "moon bags"]
    for row in rows:
        assert sum(row["experts"].values()) == pytest.approx(1.0, abs=1e-4)
        assert isinstance(row["answer"], str)


def test_report_shows_language_model_training(team: CommandLine, workdir: Path) -> None:
    code, out, err = team("report", "team")
    assert code == 0, err
    stages = {row["stage"]: row for row in json.loads(out)["stages"]}
    assert stages.keys() == {"news", "forum", "macro", "router-warmup", "moe-joint"}
    assert all(row["perplexity"] > 1 and row["macro_f1"] is None for row in stages.values())
    page = (workdir / "team" / "report" / "index.html").read_text()
    assert "validation perplexity" in page
    assert (workdir / "team" / "report" / "news-learning.png").is_file()


def test_generate_works_with_a_single_expert(team: CommandLine) -> None:
    code, out, err = team("generate", "team/experts/news", "profit rose", "--max-new-tokens", "5")
    assert code == 0, err
    assert json.loads(out)["experts"] == {}


def test_generate_from_a_file_retains_the_order_and_reports_long_prompts(team: CommandLine, workdir: Path) -> None:
    long_prompt = " ".join(["profit"] * 80)
    (workdir / "prompts.txt").write_text(f"profit rose\n\n{long_prompt}\nmoon\n")
    words = ("--file", "prompts.txt", "--out", "answers.jsonl", "--max-new-tokens", "5")
    code, out, err = team("generate", "team/moe-joint", *words)
    assert (code, out) == (0, ""), err
    rows = [json.loads(line) for line in (workdir / "answers.jsonl").read_text().splitlines()]
    assert ["answer" in row for row in rows] == [True, False, False, True]
    assert "missing text" in rows[1]["error"]
    assert "at most 59 tokens" in rows[2]["error"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pretrain", *WORDS), "--role NAME, --all"),
        (("pretrain", "--all", "--shared", *WORDS), "--role NAME, --all, --shared"),
        (("pretrain", "--shared", *WORDS), "shared.r=12"),
        (("pretrain", "--role", "tallk", *WORDS), "Did you mean talk"),
        (("pretrain", "--all", "--role", "talk", *WORDS), "none or several"),
        (("train-expert", "--domain", "news", "-c", "team.yaml", "-o", "other"), "moe pretrain"),
        (("run", "-c", "team.yaml", "-o", "other"), "moe pretrain"),
        (("infer", "--model", "team/moe-joint", "profit"), "a classification model"),
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
def test_language_model_commands_refuse_unusable_input_in_one_line(
    team: CommandLine, words: tuple[str, ...], message: str
) -> None:
    assert message in team.refused(*words)
