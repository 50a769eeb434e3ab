"""What commands refuse: one line with what was expected, found and what to do, exit code 2, and nothing is written."""

from pathlib import Path

import pytest
from command_line import CommandLine, moe, workdir
from conftest import tiny_run
from mixtures import save_random_mixture

from moe.model.backbone import load_backbone
from moe.runs.workspace import Workspace

__all__ = ["moe", "workdir"]


@pytest.fixture(scope="module")
def mixture(workdir: Path, tiny_folder: Path) -> Path:
    """A random mixture in the working folder."""
    run = tiny_run(tiny_folder, workdir / "data")
    return save_random_mixture(workdir / "mixture", load_backbone(run.backbone), Workspace(run, workdir / "run"))


def listing(folder: Path) -> set[str]:
    """Files and folders below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


CONFIG = ("--config", "tiny.yaml")
MERGE = ("export", "mixture", "--out", "exported", "--merge")
REFUSALS: list[tuple[tuple[str, ...], str]] = [
    (("data", "inspect", "data/news.csv", "--encoding", "rot13"), "a text encoding that Python knows"),
    (("data", "inspect", "data/news.csv", "--encoding", "utf-99"), "for --encoding; found 'utf-99'"),
    (("data", "inspect", "data/news.csv", "--separator", "ab"), "one character that is no letter"),
    (("data", "inspect", "data/news.csv", "--separator", "x"), "for --separator; found 'x'"),
    (("data", "inspect", "data/nothing.csv"), "found nothing there"),
    (("data", "suspects", "data/nothing.csv", "--model", "mixture"), "found nothing there"),
    (("data", "suspects", "data/news.csv", "--model", "mixture", "--label-column", "x"), "a column 'x' in news.csv"),
    (("data", "suspects", "data/news.csv", "--model", "mixture", "--label-column", "id"), "labels among negative"),
    (("data", "suspects", "data/news.csv", "--model", "mixture", "--features", "x"), "auto, mixture or backbone"),
    (("data", "suspects", "data/news.csv", "--model", "mixture", "--task", "x"), "one of the tasks news, forum"),
    (("data", "next", "data/news.csv", "--model", "mixture"), "texts without a label in data/news.csv"),
    (("data", "next", "data/news.csv", "--model", "mixture", "--by", "x"), "--by uncertainty, disagreement"),
    (("data", "from-label-studio", "tiny.yaml", "--out", "rows.csv"), "a readable JSON file at tiny.yaml"),
    (("data", "inspect", "data/news.csv", "--domain", "new", *CONFIG), "Did you mean news?"),
    (("data", "inspect", "data/news.csv", "--domain", "news", "--task", "x", *CONFIG), "one of news's tasks news"),
    (("data", "augment", *CONFIG), "--domain"),
    (
        ("data", "augment", "--domain", "news", "--base-url", "localhost:1", "--model", "m", *CONFIG),
        "--base-url http://… or https://…",
    ),
    (("expert", "remove", "mixture", "news", "--out", "less", "--set", "seed=1"), "--adapt together with --config"),
    (("expert", "remove", "mixture", "new", "--out", "less"), "Did you mean news?"),
    (("expert", "remove", "nowhere", "news", "--out", "less"), "found no such folder"),
    (("expert", "swap", "mixture", "news", "nowhere", "--out", "other"), "nowhere"),
    (("expert", "add", "mixture", "nowhere", "--out", "more", *CONFIG), "nowhere"),
    ((*MERGE, "linear", "--weights", "news=0,forum=1"), "a weight above 0 and up to 100 for news; found 0"),
    ((*MERGE, "linear", "--weights", "news=nan,forum=1"), "a weight above 0 and up to 100 for news; found nan"),
    ((*MERGE, "linear", "--weights", "news,forum=1"), "--weights NAME=NUMBER, separated by commas, for news"),
    ((*MERGE, "linear", "--weights", "nws=1,forum=1"), "Did you mean news?"),
    ((*MERGE, "linear", "--weights", "news=1,news=2,forum=1"), "a single weight for news"),
    ((*MERGE, "linear", "--weights", "news=1"), "two or more experts to merge; found news"),
    ((*MERGE, "linear", "--density", "0.5"), "with ties, dare_… or magnitude_prune; found 0.5 with linear"),
    ((*MERGE, "ties", "--density", "0"), "--density above 0 and up to 1"),
    ((*MERGE, "ties", "--rank", "3"), "--rank above 0, with a method that ends in svd; found 3 with ties"),
    ((*MERGE, "lineer"), "Did you mean linear?"),
    (("export", "mixture", "--out", "exported", "--rank", "3"), "--merge METHOD"),
    (("export", "mixture", "--out", "exported", "--to", "peft", "--expert", "nws"), "Did you mean news?"),
    (("drift", "mixture"), "a file to test, or --fit; found neither"),
    (("explain", "mixture", "profit rose", "--out", "words.csv"), "--out together with --file"),
    (("explain", "mixture", "profit rose", "--data-type", "nws"), "Did you mean news?"),
    (("explain", "mixture", "--file", "data/news.csv", "--out", "words.txt"), "an output file ending in .csv"),
    (("infer", "up", "--model", "mixture", "--spreadsheet"), "--out with a .csv file for --spreadsheet"),
    (("infer", "up", "--model", "mixture", "--data-type", "nws"), "Did you mean news?"),
    (("infer", "--model", "mixture", "--file", "data/nothing.csv"), "found nothing there"),
    (("infer", "up", "--model", "nowhere"), "nowhere"),
    (("infer", "up", "--model", "mixture", "--abstain", "0.9"), "calibrat"),
    (("infer", "up", "--model", "mixture", "--abstain", "1.5"), "--abstain with an accuracy between 0 and 1"),
    (("infer", "up", "--model", "mixture", "--target", "Apple"), "target"),
    (("infer", "up", "--model", "mixture", "--routing", "warm"), "soft"),
    (("infer", " ", "--model", "mixture"), "text"),
    (("generate", "mixture", "up"), "language model"),
    (("generate", "mixture", "up", "--temperature", "0.5", "--top-p", "0"), "--top-p above 0 and at most 1"),
    (("verify", "nowhere"), "nowhere"),
    (("serve", "mixture", "--host", "0.0.0.0"), "API keys, to listen on 0.0.0.0"),
    (("serve", "mixture", "--port", "99999"), "port"),
    (("serve", "mixture", "--config", "nothing.yaml"), "nothing.yaml"),
    (("train-expert", "--domain", "nws", *CONFIG), "Did you mean news?"),
    (("train-expert", *CONFIG), "--domain"),
    (("merge", "--config", "tiny.yml"), "a config file at tiny.yml"),
    (("check", "tiny.yaml", "--set", "lora.r=0"), "lora.r"),
    (("sweep", "nothing.yaml"), "nothing.yaml"),
]


@pytest.mark.parametrize(("words", "message"), REFUSALS, ids=[" ".join(words)[:70] for words, _ in REFUSALS])
def test_command_is_refused_in_one_line_and_writes_nothing(
    moe: CommandLine, workdir: Path, mixture: Path, words: tuple[str, ...], message: str
) -> None:
    before = listing(workdir)
    assert message in moe.refused(*words)
    assert listing(workdir) == before


def test_file_that_exists_is_replaced_with_overwrite_only(moe: CommandLine, workdir: Path, mixture: Path) -> None:
    (workdir / "texts.csv").write_text("text\nprofit rose\n")
    (workdir / "answers.csv").write_text("mine")
    words = ("infer", "--model", "mixture", "--file", "texts.csv", "--out", "answers.csv")
    assert "--overwrite" in moe.refused(*words)
    assert (workdir / "answers.csv").read_text() == "mine"
    assert moe(*words, "--overwrite")[0] == 0
    assert (workdir / "answers.csv").read_text().startswith("id,line,text,label,")
    assert "replaces no input" in moe.refused(*words[:5], "--out", "texts.csv", "--overwrite")
    assert (workdir / "texts.csv").read_text() == "text\nprofit rose\n"


def test_export_takes_the_weights_and_the_density_of_a_merge(moe: CommandLine, workdir: Path, mixture: Path) -> None:
    options = ("--weights", "news=0.7,forum=0.3", "--density", "0.4", "--out", "exported-ties", "--json")
    code, out, err = moe("export", "mixture", "--merge", "ties", *options)
    assert code == 0, err
    assert "merged-ties" in out
    assert (workdir / "exported-ties" / "merged-ties" / "adapter_model.safetensors").is_file()
