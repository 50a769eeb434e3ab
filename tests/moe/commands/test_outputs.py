"""Claims about what commands write: never over their input, over other files with `--overwrite` only, one at a time.

The tests walk all commands, so that a new one has to be added here.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import CommandLine, moe, workdir

from experts.atomic_io import write_json
from experts.locks import RUN_LOCK, run_lock
from moe.commands import main

__all__ = ["moe", "workdir"]
ROOT = Path(__file__).parents[3]
Words = tuple[str, ...]
SAMPLE = ("sample", "--rows", "60")
NAMED_OUTPUTS: dict[Words, tuple[Words, str]] = {
    ("infer",): (("--file", "posts.csv"), "answers.csv"),
    ("explain",): (("--file", "posts.csv"), "words.csv"),
    ("generate",): (("runs/tiny/moe-joint", "--file", "posts.csv"), "answers.jsonl"),
    ("data", "suspects"): (("posts.csv", "--model", "runs/tiny/moe-joint"), "suspects.csv"),
    ("data", "next"): (("posts.csv", "--model", "runs/tiny/moe-joint"), "tasks.json"),
    ("data", "from-label-studio"): (("posts.csv",), "rows.csv"),
    ("sample",): (("--rows", "60"), "sample/README.md"),
    ("report",): (("runs/tiny",), "page/index.html"),
    ("signal",): (("answers.csv", "--prices", "prices.csv"), "signal/other.txt"),
    ("export",): (("runs/tiny/moe-joint",), "exported/other.txt"),
    ("expert", "add"): (("runs/tiny/moe-joint", "runs/new/experts/news", "-c", "tiny.yaml"), "larger/other.txt"),
    ("expert", "remove"): (("runs/tiny/moe-joint", "news"), "smaller/other.txt"),
    ("expert", "swap"): (("runs/tiny/moe-joint", "news", "runs/new/experts/news"), "swapped/other.txt"),
}
"""Commands that write an output which the user names: their other arguments, and a file that is in the way."""
RUN_FOLDERS: dict[Words, Words] = {
    ("train-expert",): ("--all",),
    ("pretrain",): ("--all",),
    ("merge",): (),
    ("train-router",): (),
    ("instruct",): (),
    ("distill",): ("--teacher", "ready"),
    ("run",): (),
    ("evaluate",): (),
    ("compare",): ("runs/tiny/moe-init", "runs/tiny/moe-joint"),
    ("calibrate",): (),
    ("ablate",): (),
    ("drift",): ("runs/tiny/moe-joint", "--fit"),
    ("plan",): ("tiny.yaml",),
    ("data", "augment"): ("--all", "--dry-run"),
}
"""Commands with the run folder `--run`, with their other arguments."""
DATA_FILES: tuple[Words, ...] = (("data", "suspects"), ("data", "next"), ("data", "from-label-studio"))
FILES: set[Words] = {("infer",), ("explain",), ("generate",), *DATA_FILES}
"""Commands whose output is a file, `--out`; that of the others is a folder, `--out-dir`."""
RESUMED: dict[Words, Words] = {("sweep",): ("tiny.yaml", "--over", "lora.r=2,4")}
"""Commands that go on with what an earlier call has written."""


@pytest.fixture(autouse=True)
def models(workdir: Path) -> None:
    """The folders of two models that hold only their cards."""
    for run in ("runs/tiny", "busy"):
        write_json(workdir / run / "moe-joint" / "mixture.json", {})


def all_commands() -> dict[Words, Any]:
    """Every command by its words; the walk is the one of the documentation."""
    spec = importlib.util.spec_from_file_location("help_pages", ROOT / "docs" / "hooks" / "commands.py")
    assert spec is not None
    assert spec.loader is not None
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    return dict(pages.commands(typer.main.get_command(main.app)))


def output(words: Words) -> str:
    """The option of a command's output."""
    return "--out" if words in FILES else "--out-dir"


def option(command: Any, name: str) -> Any:
    """An option of a command; None if it has none of that name."""
    return next((parameter for parameter in command.params if name in parameter.opts), None)


def test_commands_that_write_are_all_tested_here() -> None:
    writing = {
        flag: {words for words, command in all_commands().items() if option(command, flag) is not None}
        for flag in ("--run", "--out", "--out-dir")
    }
    assert writing["--run"] == RUN_FOLDERS.keys() | {("infer",)}  # which reads the run's best mixture
    assert writing["--out"] == FILES
    assert writing["--out-dir"] | FILES == NAMED_OUTPUTS.keys() | RESUMED.keys()


@pytest.mark.parametrize("words", NAMED_OUTPUTS, ids=" ".join)
def test_existing_output_is_refused_without_overwrite(moe: CommandLine, workdir: Path, words: Words) -> None:
    assert option(all_commands()[words], "--overwrite") is not None
    arguments, name = NAMED_OUTPUTS[words]
    path = workdir / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    (workdir / "posts.csv").write_text("text\nprofit rose\n")
    out = path if path.parent == workdir else path.parent
    message = moe.refused(*words, *arguments, output(words), str(out))
    assert "--overwrite" in message
    assert path.read_text() == "mine"
    assert not list(path.parent.glob(".*.lock"))


@pytest.mark.parametrize("words", [words for words, (_, name) in NAMED_OUTPUTS.items() if "other.txt" in name])
def test_folder_of_other_files_is_not_replaced_even_with_overwrite(
    moe: CommandLine, workdir: Path, words: Words
) -> None:
    arguments, name = NAMED_OUTPUTS[words]
    path = workdir / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    assert "other files" in moe.refused(*words, *arguments, "--out-dir", str(path.parent), "--overwrite")
    assert path.read_text() == "mine"


@pytest.mark.parametrize("words", [words for words, (_, name) in NAMED_OUTPUTS.items() if "other.txt" in name])
def test_folder_with_the_input_in_it_is_not_replaced_even_with_overwrite(
    moe: CommandLine, workdir: Path, words: Words
) -> None:
    arguments, _ = NAMED_OUTPUTS[words]
    for out in (".",) if words == ("signal",) else ("runs/tiny/moe-joint", "runs/tiny", "."):
        assert "replaces no input" in moe.refused(*words, *arguments, "--out-dir", out, "--overwrite")


@pytest.mark.parametrize("words", [("infer",), ("explain",), ("generate",)], ids=" ".join)
@pytest.mark.parametrize("alias", ["same", "symlink", "hard link"])
def test_input_file_is_never_replaced(moe: CommandLine, workdir: Path, words: Words, alias: str) -> None:
    source, out = workdir / "gold.csv", workdir / ("gold.csv" if alias == "same" else "alias.csv")
    content = "text,label\nprofit rose,positive\n"
    source.write_text(content)
    (workdir / "alias.csv").unlink(missing_ok=True)
    if alias == "symlink":
        out.symlink_to(source)
    elif alias == "hard link":
        os.link(source, out)
    arguments, _ = NAMED_OUTPUTS[words]
    arguments = tuple(str(source) if word == "posts.csv" else word for word in arguments)
    for more in ((), ("--overwrite",)):
        assert "replaces no input" in moe.refused(*words, *arguments, "--out", str(out), *more)
    assert source.read_text() == content


def test_sample_is_written_again_if_nothing_changes_and_else_needs_overwrite(moe: CommandLine, workdir: Path) -> None:
    assert moe(*SAMPLE, "--out-dir", "made")[0] == moe(*SAMPLE, "--out-dir", "made")[0] == 0
    assert "--overwrite" in moe.refused(*SAMPLE, "--seed", "5", "--out-dir", "made")
    before = (workdir / "made" / "news.csv").read_bytes()
    assert moe(*SAMPLE, "--seed", "5", "--out-dir", "made", "--overwrite")[0] == 0
    assert (workdir / "made" / "news.csv").read_bytes() != before


def test_sweep_refuses_files_of_other_origin(moe: CommandLine, workdir: Path) -> None:
    (workdir / "mine").mkdir(exist_ok=True)
    (workdir / "mine" / "sweep.csv").write_text("mine")
    assert "sweep.csv" in moe.refused("sweep", *RESUMED[("sweep",)], "--out-dir", "mine")
    assert (workdir / "mine" / "sweep.csv").read_text() == "mine"


def lock_by_another_process(folder: Path) -> None:
    """Lock a run folder as another process would that is alive: the one that started this one."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    (folder / RUN_LOCK).unlink(missing_ok=True)
    with run_lock(folder):
        _, host, _ = (folder / RUN_LOCK).read_text().splitlines()
    (folder / RUN_LOCK).write_text(f"{os.getppid()}\n{host}\n")


@pytest.mark.parametrize("words", [*RUN_FOLDERS, *RESUMED], ids=" ".join)
def test_second_command_in_a_run_folder_is_refused_at_once(
    moe: CommandLine, workdir: Path, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safetensors.torch.load_file", lambda *_: pytest.fail("weights are loaded"))
    lock_by_another_process(workdir / "busy")
    takes_config = option(all_commands()[words], "--config") is not None
    arguments = {**RUN_FOLDERS, **RESUMED}[words]
    config = ("-c", "tiny.yaml") if takes_config else ()
    before = sorted(path.name for path in (workdir / "busy").iterdir())
    message = moe.refused(*words, *arguments, *config, "--run" if words in RUN_FOLDERS else "--out-dir", "busy")
    assert f"process {os.getppid()} on " in message
    assert sorted(path.name for path in (workdir / "busy").iterdir()) == before


@pytest.mark.parametrize(
    "words",
    [
        ("report", "busy"),
        ("export", "busy/moe-joint"),
        ("export", "busy/moe-joint", "--to", "graph"),
        ("expert", "add", "busy/moe-joint", "busy/experts/news", "-c", "tiny.yaml", "--out-dir", "busy/more"),
        ("expert", "remove", "busy/moe-joint", "news", "--out-dir", "busy/less"),
        ("expert", "swap", "busy/moe-joint", "news", "busy/experts/news", "--out-dir", "busy/other"),
        ("calibrate", "busy/moe-joint", "-c", "tiny.yaml", "--run", "elsewhere"),
        ("drift", "busy/moe-joint", "--fit", "-c", "tiny.yaml", "--run", "elsewhere"),
    ],
    ids=" ".join,
)
def test_second_command_that_writes_into_a_run_is_refused_at_once(
    moe: CommandLine, workdir: Path, words: Words
) -> None:
    lock_by_another_process(workdir / "busy")
    assert f"process {os.getppid()} on " in moe.refused(*words)


def test_run_folder_of_a_refused_command_is_not_left_behind(moe: CommandLine, workdir: Path) -> None:
    moe.refused("merge", "-c", "tiny.yaml", "--run", "empty/run")
    assert not (workdir / "empty").exists()
